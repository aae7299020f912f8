"""improve.sh: its stages in order, what it skips and refuses, and that a killed run ends as an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data.make_visual_reasoning import make_visual_reasoning
from data.make_visual_reasoning import parse_arguments as data_arguments

ROOT = Path(__file__).parents[1]
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


def start(prompts, out, rounds, **settings):
    """A run in a process group of its own; its words can be read line by line."""
    return subprocess.Popen(
        command("ckpt/tiny-base", *prompts, "--out", out, "--rounds", rounds),
        env={**os.environ, **TINY, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_killing(prompts, out, chance):
    """Run one round to its end, killing it once in each stage; returns the stages in which it was killed."""
    killed = []
    while True:
        process = start(prompts, out, 1)
        lines = []
        for line in process.stdout:
            lines.append(line)
            stage = line.removeprefix("== ").strip()
            if stage in STAGES and stage not in killed and not (out / "done" / stage).exists():
                killed.append(stage)
                time.sleep(chance.uniform(0, 4))
                break
        else:
            assert process.wait() == 0, "".join(lines)
            return killed
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.integration
def test_a_run_killed_in_every_stage_ends_as_one_that_nobody_disturbed(tmp_path):
    """Both at once, one a core; the undisturbed one does a second round from the checkpoint of the first.

    An empty answer of that round ends no run: sampled, it is never paired; in the pairs all the same, it is skipped.
    """
    make_visual_reasoning(data_arguments(f"--out {tmp_path}/data --pairs 20 --held_out 0".split()))
    prompts = sorted((tmp_path / "data").glob("train_*_prompts.jsonl"))
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    plant_empty_answers(tmp_path / "python", quiet / "round_2")
    with start(prompts, quiet, 2, PYTHON=str(tmp_path / "python")) as process:
        seed = random.randrange(1000)
        killed = run_killing(prompts, disturbed, random.Random(seed))
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert killed == STAGES
    for pattern in ("questions/*/*.jsonl", "before.answers.jsonl", "round_1/sampled/**/*prompts.jsonl"):
        assert_same_files(quiet, disturbed, pattern, seed)
    assert_same_files(quiet, disturbed, "round_1/pairs/raw/*.jsonl", seed)
    one, other = (load_file(out / "round_1" / "checkpoint" / "model.safetensors") for out in (quiet, disturbed))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one), seed
    assert_same_files(quiet, disturbed, "round_1/after.answers.jsonl", seed)
    found = [json.loads((out / "round_1" / "after.json").read_text()) for out in (quiet, disturbed)]
    assert found[0]["comparison"] == found[1]["comparison"]
    second = json.loads((quiet / "round_2" / "after.json").read_text())
    assert second["before"]["checkpoint"] == "ckpt/tiny-base" and second["comparison"]["reasoned"]["p"] <= 1
    assert "exact McNemar, p = " in text.splitlines()[-2]
    check_empty_answers(quiet / "round_2")
    with start(prompts, quiet, 2, PYTHON=str(tmp_path / "python")) as process:
        again = process.communicate()[0]
    assert process.returncode == 0 and again.splitlines()[-2] == text.splitlines()[-2]
    assert again.count("\ncomplete\n") == len(STAGES) + len(ROUND)


def assert_same_files(one, other, pattern, seed):
    """Files of one pattern hold the same bytes, and there are some."""
    texts = [{path.relative_to(out): path.read_bytes() for path in out.glob(pattern)} for out in (one, other)]
    assert texts[0] and texts[0] == texts[1], (pattern, seed)


def plant_empty_answers(program, at):
    """An interpreter that spoils what a round leaves: an empty answer among the sampled ones, and one in a pair."""
    program.write_text(
        f"""#!/usr/bin/env bash
{sys.executable} "$@"
status=$?
plant() {{ # pattern, field: the first row of the first such file once more, with that field empty
    for file in $1; do
        {sys.executable} - "$file" "$2" <<'END'
import json, sys
path, field = sys.argv[1:]
row = json.loads(open(path, encoding="utf-8").readline())
open(path, "a", encoding="utf-8").write(json.dumps({{**row, field: ""}}) + "\\n")
END
        return
    done
}}
case "$*" in
*pipeline_correctness_postprocess*{at.name}*) plant "{at}/pairs/raw/*correctness_rules.jsonl" rejected ;;
*pipeline_correctness*{at.name}*) plant "{at}/sampled/*/*/*.jsonl" response ;;
esac
exit $status
"""
    )
    program.chmod(0o755)


def check_empty_answers(at):
    """They were counted, validation let the pair pass, and training skipped it."""
    counts = json.loads((at / "pairs" / "summary.json").read_text()).values()
    assert sum(count["empty_answers"] for count in counts) >= 1
    verdict = json.loads((at / "validation" / "validation.json").read_text())["verdict"]
    assert "1 of " in verdict and verdict.startswith("PASS") and "Training skips them" in verdict
    skipped = [json.loads(line) for line in (at / "checkpoint" / "skipped.jsonl").read_text().splitlines()]
    assert {row["reason"].split(":")[0] for row in skipped} <= {"an answer is empty, nothing to learn from it"}
