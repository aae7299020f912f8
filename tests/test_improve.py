"""improve.sh: its stages in order, what it skips and refuses, and that a killed run ends as an undisturbed one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from data.make_visual_reasoning import make_visual_reasoning
from data.make_visual_reasoning import parse_arguments as data_arguments
from tests.in_process import ROOT, run_here, started_by

ROUND = ["sample", "pair", "validate", "train", "after", "report"]
STAGES = ["split", "before", *(f"{stage}_1" for stage in ROUND)]
TINY = {
    "LAUNCHER": "local",
    "OMP_NUM_THREADS": "1",
    "PYTHON": sys.executable,
    "SHARE": "0.4",
    "BATCH_SIZE": "4",
    "PER_DEVICE_BATCH_SIZE": "4",
    "SAMPLE": "--max-num 3 --max-new-tokens 80 --num-return-sequences 4 --num-workers 1",
    "PAIR": "--num-workers 1 --num-pairs-per-key 2",
    "DATA": "--force_image_size 56 --max_dynamic_patch 3 --max_seq_length 512",
    "TRAIN": "--grad_checkpoint False --bf16 False --report_to none --dataloader_num_workers 0 "
    "--max_steps 4 --save_steps 1 --learning_rate 3e-4 --max_skipped_share 0.5",  # one row of few
    "EVALUATE": "--max-num 3 --max-new-tokens 80",
}


def command(*words):
    return ["bash", str(ROOT / "shell" / "improve.sh"), *map(str, words)]


def run(*words, **settings):
    environment = {**os.environ, **TINY, **settings}
    return subprocess.run(command(*words), env=environment, capture_output=True, text=True, timeout=120)


def stages(text):
    return [line.removeprefix("== ") for line in text.splitlines() if line.startswith("== ")]


def test_a_dry_run_tells_the_stages_of_all_rounds(tmp_path):
    result = run("ckpt/base", "a.jsonl", "b.jsonl", "--rounds", 2, "--out", tmp_path / "x", DRY_RUN="1", TP="2")
    assert result.returncode == 0, result.stderr
    assert stages(result.stdout) == [*STAGES, *(f"{stage}_2" for stage in ROUND)]
    first, second = (tmp_path / "x" / f"round_{k}" for k in (1, 2))
    assert f"--checkpoint {first}/checkpoint --prompt-path" in result.stdout
    assert f"--meta_path {second}/pairs/meta.json --model_name_or_path {first}/checkpoint" in result.stdout
    assert result.stdout.count("env GPUS=2 ") == 3 and "--prompts a.jsonl b.jsonl" in result.stdout
    assert not (tmp_path / "x").exists()


def test_a_critic_scores_the_answers_that_pairs_are_made_of(tmp_path):
    result = run("ckpt/base", "a.jsonl", "--critic", "prm", "--out", tmp_path / "x", DRY_RUN="1", SCORE="--max-steps 8")
    assert result.returncode == 0, result.stderr
    assert stages(result.stdout) == ["critic", *STAGES[:3], "score_1", *STAGES[3:]]
    assert "-m tools.scoring.critic prm" in result.stdout
    at = tmp_path / "x" / "round_1"
    assert (
        f"tools.score_steps --critic prm --data-dir {at}/sampled --save-dir {at}/scored --max-num 12" in result.stdout
    )
    assert "--image-root IMAGE_ROOT --max-steps 8" in result.stdout
    assert f"--data-dir {at}/scored --save-dir {at}/pairs" in result.stdout and "--by-score" in result.stdout
    without = run("ckpt/base", "a.jsonl", "--out", tmp_path / "x", DRY_RUN="1").stdout
    assert "tools.score_steps" not in without and "--by-score" not in without and "== critic" not in without
    assert f"--data-dir {at}/sampled --save-dir" in without


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ckpt/base"], "name a checkpoint and a prompt file"),
        (["c", "p", "--rounds", "0"], "--rounds 0 is not a whole number"),
        (["c", "p", "--frobnicate"], "--frobnicate is unknown"),
        (["c", "p", "--out"], "--out needs a folder"),
        (["c", "p", "--critic"], "--critic needs a checkpoint"),
    ],
)
def test_a_wrong_command_line_is_refused(words, reason):
    result = run(*words, DRY_RUN="1")
    assert result.returncode != 0 and reason in result.stderr


@pytest.fixture
def stand_in(tmp_path):
    """An interpreter that only notes its words and leaves what the later stages look for."""
    program = tmp_path / "python"
    program.write_text(
        f"""#!/usr/bin/env bash
echo "$*" >>{tmp_path}/calls
mkdir -p {tmp_path}/out/questions/train {tmp_path}/out/questions/held_out
echo -n / >{tmp_path}/out/questions/image_root
touch {tmp_path}/out/questions/train/a.jsonl {tmp_path}/out/questions/held_out/a.jsonl
[[ -z ${{FAIL:-}} || "$*" != *$FAIL* ]]
"""
    )
    program.chmod(0o755)

    def start(**settings):
        (tmp_path / "calls").write_text("")
        result = run("c", "a.jsonl", "--out", tmp_path / "out", PYTHON=str(program), **settings)
        return result, len((tmp_path / "calls").read_text().splitlines())

    return start


def test_what_is_complete_is_not_done_again(stand_in):
    result, calls = stand_in()
    assert result.returncode == 0 and calls == len(STAGES) + 1  # and the table with the verdict
    again, calls = stand_in()
    assert again.returncode == 0 and calls == 1 and again.stdout.count("\ncomplete\n") == len(STAGES)


@pytest.mark.parametrize("stage", ["split", "sample", "train_mpo", "after.json"])
def test_a_stage_that_failed_is_done_again_and_none_before_it(stand_in, stage):
    failed, calls = stand_in(FAIL=stage)
    assert failed.returncode != 0
    result, rest = stand_in()
    assert result.returncode == 0 and calls + rest == len(STAGES) + 1 + 1  # one call twice


def test_other_settings_are_refused(stand_in):
    stand_in()
    result, calls = stand_in(TRAIN=f"{TINY['TRAIN']} --learning_rate 1")
    assert result.returncode == 2 and calls == 0 and "done/train_1 was done by another command" in result.stderr


def test_two_runs_do_not_share_a_folder(stand_in, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "lock", "w") as file:
        subprocess.run(["flock", "-n", str(file.fileno())], pass_fds=[file.fileno()], check=True)
        result, calls = stand_in(PATIENCE="0")
    assert result.returncode == 2 and calls == 0 and "is in use by another run" in result.stderr


def start(prompts, out, *words, **settings):
    """A run in a process group of its own; its words can be read line by line."""
    return subprocess.Popen(
        command("ckpt/tiny-base", *prompts, "--out", out, *words),
        env={**os.environ, **TINY, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


AT_WORK = {"before": "answers: ", "sample_1": "answer/s", "train_1": "step 1/4"}
"""Of stages that take long, what they say in the middle of their work, to be killed there; others as they begin."""


def run_killing(prompts, out, **settings):
    """Run one round to its end, killing it once in each stage; returns the stages in which it was killed."""
    killed = []
    while True:
        process = start(prompts, out, **settings)
        lines, stage = [], ""
        for line in process.stdout:
            lines.append(line)
            if line.startswith("== "):
                stage = line.removeprefix("== ").strip()
            is_complete = stage in killed or (out / "done" / stage).is_file()
            if stage in STAGES and not is_complete and AT_WORK.get(stage, "== ") in line:
                killed.append(stage)
                break
        else:
            assert process.wait() == 0, "".join(lines)
            return killed, lines
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run_undisturbed(disturbed, quiet, plant):
    """Run, in this process, what each stage of a run was, for another folder."""
    for stage in STAGES:
        text = (disturbed / "done" / stage).read_text().replace(str(disturbed), str(quiet))
        words = started_by(text, **TINY) if "launch.sh" in text else text.split()[1:]
        assert not run_here(words), stage
        subprocess.run([sys.executable, plant, *words], check=True)


PLANT = """
import json, pathlib, sys

words = sys.argv[1:]
FILES = {  # of the rows that a stage leaves: flag of their folder, their place in it, the field that becomes empty
    "mmpr_data_pipeline_correctness": ("--out-dir", "*/*/*.jsonl", "response"),
    "mmpr_data_pipeline_correctness_postprocess": ("--save-dir", "raw/*correctness_rules.jsonl", "rejected"),
}
for flag, pattern, field in (FILES[name] for name in FILES if any(word.endswith("." + name) for word in words)):
    path = min(pathlib.Path(words[words.index(flag) + 1]).glob(pattern))
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, field: ""}) + "\\n")
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """A program that spoils what a stage of a round has left: an empty answer among the sampled ones, one in a pair."""
    program = tmp_path_factory.mktemp("plant") / "plant.py"
    program.write_text(PLANT)
    return program


@pytest.fixture(scope="module")
def disturbed(plant, tmp_path_factory):
    """A round that was killed in every stage: its folder, the prompts, and its words behind the last kill."""
    folder = tmp_path_factory.mktemp("improve")
    make_visual_reasoning(data_arguments(f"--out {folder}/data --pairs 20 --held_out 0".split()))
    prompts = sorted((folder / "data").glob("train_*_prompts.jsonl"))
    python, out = folder / "python", folder / "disturbed"
    python.write_text(f'#!/usr/bin/env bash\n{sys.executable} "$@" && {sys.executable} {plant} "$@"\n')
    python.chmod(0o755)
    killed, lines = run_killing(prompts, out, PYTHON=str(python), XDG_CACHE_HOME=str(folder / "cache"))
    assert killed == STAGES
    return SimpleNamespace(folder=out, prompts=prompts, lines=lines, python=python)


@pytest.mark.integration
def test_a_run_killed_in_every_stage_ends_as_one_that_nobody_disturbed(disturbed, plant, tmp_path, monkeypatch):
    """An empty answer ends no run: sampled, it is never paired; in the pairs all the same, it is skipped."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quiet = tmp_path / "quiet"
    run_undisturbed(disturbed.folder, quiet, plant)
    for pattern in ("questions/*/*.jsonl", "*.answers.jsonl", "round_1/sampled/**/*prompts.jsonl",
                    "round_1/pairs/raw/*.jsonl", "round_1/after.answers.jsonl"):  # fmt: skip
        assert_same_files(quiet, disturbed.folder, pattern)
    one, other = (load_file(out / "round_1" / "checkpoint" / "model.safetensors") for out in (quiet, disturbed.folder))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    found = [json.loads((out / "round_1" / "after.json").read_text()) for out in (quiet, disturbed.folder)]
    assert found[0]["comparison"] == found[1]["comparison"] and found[0]["comparison"]["reasoned"]["p"] <= 1
    assert found[0]["before"]["checkpoint"] == "ckpt/tiny-base"
    assert "exact McNemar, p = " in disturbed.lines[-2]
    check_empty_answers(disturbed.folder / "round_1")


@pytest.mark.integration
def test_pairs_are_made_of_the_answers_that_a_critic_scored(disturbed, tmp_path):
    """What was complete without a critic is taken over; scored and paired is anew."""
    out = tmp_path / "scored"
    shutil.copytree(disturbed.folder, out)
    for mark in (out / "done").iterdir():
        mark.write_text(mark.read_text().replace(str(disturbed.folder), str(out)))
    for name in ("done/pair_1", "done/validate_1"):
        (out / name).unlink()
    shutil.rmtree(out / "round_1" / "pairs")
    with start(disturbed.prompts, out, "--critic", "ckpt/tiny-base", PYTHON=str(disturbed.python)) as process:
        text = process.communicate()[0]
    assert process.returncode == 0, text
    expected = ["critic", *STAGES[:3], "score_1", *STAGES[3:]]
    assert [name for name in stages(text) if name in expected] == expected  # validation has headings of its own
    assert text.count("\ncomplete\n") == len(STAGES) - 2
    at = out / "round_1"
    [summary] = at.glob("scored/*/*/*en_prompts.parts/summary.json")
    assert json.loads(summary.read_text())["skipped"] == {"answer without text": 1}
    pairs = [json.loads(line) for path in at.glob("pairs/raw/*.jsonl") for line in path.read_text().splitlines()]
    assert pairs and all(pair["rejected_score"] >= 0 and pair["chosen_score"] <= 1 for pair in pairs)
    assert json.loads((at / "validation" / "validation.json").read_text())["verdict"].startswith("PASS")


def assert_same_files(one, other, pattern):
    """Files of one pattern hold the same bytes, and there are some."""
    texts = [{path.relative_to(out): path.read_bytes() for path in out.glob(pattern)} for out in (one, other)]
    assert texts[0] and texts[0] == texts[1], pattern


def check_empty_answers(at):
    """They were counted, validation let the pair pass, and training skipped it."""
    counts = json.loads((at / "pairs" / "summary.json").read_text()).values()
    assert sum(count["empty_answers"] for count in counts) >= 1
    verdict = json.loads((at / "validation" / "validation.json").read_text())["verdict"]
    assert "1 of " in verdict and verdict.startswith("PASS") and "Training skips them" in verdict
    skipped = [json.loads(line) for line in (at / "checkpoint" / "skipped.jsonl").read_text().splitlines()]
    assert {row["reason"].split(":")[0] for row in skipped} <= {"an answer is empty, nothing to learn from it"}
