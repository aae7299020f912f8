"""The part of the study that looks at pictures: what is taught, what starts from what, and what is gathered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.study.files import read_meta, read_rows
from benchmarks.study_pretrained import pictures
from benchmarks.study_pretrained.report import picture_table
from internvl_chat.training import parse_arguments


@pytest.mark.parametrize("flags", [pictures.LOOK, pictures.REASON, *pictures.ARMS.values()])
def test_every_training_keeps_the_tower(flags):
    model, _, settings = parse_arguments(f"--model_name_or_path m --meta_path m.json --output_dir out {flags}".split())[
        :3
    ]
    assert model.freeze_backbone and settings.max_steps >= 40
    assert model.freeze_llm == (flags == pictures.LOOK)


def test_the_projector_learns_from_what_is_seen_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LESSONS", "--look 3 --reason 4 --slips 1 --pairs 0 --held_out 0 --seed 0")
    out = pictures.lessons(study(tmp_path))
    both, looks = read_meta(out / "sft.json"), read_meta(out / "look.json")
    assert both.keys() == {"look_describe", "look_ask", "reason"} and looks.keys() == {"look_describe", "look_ask"}
    assert len(read_rows(Path(looks["look_describe"]["annotation"]))) == 3
    assert {Path(entry["root"]) for entry in looks.values()} == {out / "images"}


def study(work):
    return pictures.Pictures(work, Path("model.gguf"), Path("tower"), asked=4, held_out=4)


@pytest.fixture
def tools(monkeypatch):
    """Stand-ins for the tools, which note what they were given; the start is right once, MPO always, SFT twice."""
    calls = []

    def train(origin, meta, out, flags):
        calls.append(("train", origin.name.rpartition("-")[0], meta.name, flags))
        return {"curve": [], "end": {}}

    def evaluate(args):
        calls.append(("evaluate", Path(args.checkpoint).name.rpartition("-")[0]))
        right = {"pictures_start": 1, "pictures_run_mpo": 4}.get(calls[-1][1], 2)
        outcomes = ["correct"] * right + ["wrong"] * (4 - right)
        rows = [{"way": "reasoned", "key": str(n), "outcomes": [one]} for n, one in enumerate(outcomes)]
        answers = Path(args.out).with_name("evaluation.answers.jsonl")
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        group = {"all": {"percent": 25 * right, "interval": [0, 100], "right_steps": 10}}
        return {"reasoned": group, "direct": group}

    def pair(words):
        folder = Path(words[words.index("--save-dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        entry = {"own": {"root": ".", "annotation": "own.jsonl", "length": 7}}
        (folder / "meta.json").write_text(json.dumps(entry))

    monkeypatch.setattr(pictures, "train_from", train)
    monkeypatch.setattr(pictures, "evaluate", evaluate)
    monkeypatch.setattr(pictures, "pair_answers", pair)
    monkeypatch.setattr(
        pictures, "compose", lambda words: calls.append(("compose", words[words.index("--vision") + 1]))
    )
    monkeypatch.setattr(pictures, "register_template", lambda: None)  # would stay for the tests that follow
    monkeypatch.setattr(pictures, "sample_answers", lambda words: calls.append(("sample",)))
    monkeypatch.setattr(pictures, "LESSONS", "--look 1 --reason 1 --pairs 0 --held_out 0 --seed 0")
    return calls


def test_arms_start_from_the_start_and_are_tested_against_it(tmp_path, tools):
    call = ["--model", "model.gguf", "--tower", "tower", "--work", str(tmp_path), "--asked", "4", "--held_out", "4"]
    pictures.main([*call, "--arms", "mpo", "sft"])
    assert [entry[:3] for entry in tools] == [
        ("compose", "tower"),
        ("train", "pictures_base", "look.json"),
        ("train", "pictures_projector", "sft.json"),
        ("evaluate", "pictures_start"),
        ("sample",),
        ("train", "pictures_start", "meta.json"),
        ("evaluate", "pictures_run_mpo"),
        ("train", "pictures_start", "meta.json"),
        ("evaluate", "pictures_run_sft"),
    ]
    pictures.main([*call, "--arms", "mpo", "sft"])
    assert len(tools) == 9  # all was there
    pictures.main([*call, "--arms", "mpo", "--seeds", "1", "2", "--minutes", "0"])
    assert len(tools) == 9  # no stage is begun
    found = {row["title"]: row for row in pictures.gather(tmp_path)}
    start, mpo, sft = (found[name] for name in ("start", "mpo, seed 0", "sft, seed 0"))
    assert start["reasoned"]["all"]["percent"] == 25 and "against" not in start
    points = {name: test["reasoned"]["difference"] for name, test in mpo["against"].items()}
    assert points == {"start": 75, "sft": 50} and mpo["pairs"] == {"own": 7}
    assert sft["against"].keys() == {"start"} and mpo["made_of"]["flags"].endswith("--seed 0")
    table = picture_table(found.values())
    assert [line.split(" | ")[0] for line in table[2:]] == ["| start", "| mpo, seed 0", "| sft, seed 0"]
    assert "| +75.0 [" in table[3] and "+50.0 [" in table[3]
    pictures.main([*call, "--tasks", "count", "--asked", "9", "--arms", "mpo"])
    both = [
        row for row in pictures.gather(tmp_path) if row["title"] == "mpo, seed 0"
    ]  # each against what was asked the same
    assert sorted(row["tasks"] for row in both) == [[], ["count"]] and all("start" in row["against"] for row in both)
    assert "| start, on count |" in "\n".join(picture_table(pictures.gather(tmp_path)))


def test_a_task_that_is_none_is_refused_before_anything_is_made(tmp_path, capsys):
    with pytest.raises(SystemExit):
        pictures.main(["--model", "m.gguf", "--work", str(tmp_path), "--tasks", "counts"])
    assert "count" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_questions_of_some_tasks_are_kept(tmp_path):
    some = pictures.Pictures(tmp_path, Path("m.gguf"), Path("tower"), asked=12, held_out=9, tasks=("count", "place"))
    kept, whole = pictures.questions(some), pictures.questions(replace(some, tasks=()))
    for name in ("train_en_prompts", "held_out_en_prompts", "held_out_en_direct"):
        rows, every = (read_rows(folder / f"{name}.jsonl") for folder in (kept, whole))
        assert rows == [row for row in every if row["task"] in ("count", "place")] and 0 < len(rows) < len(every)
