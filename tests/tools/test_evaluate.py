"""Evaluation: how answers are judged and counted, rewards against the golden figures, two checkpoints compared."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from internvl_chat.model import load_model, load_tokenizer
from tools import evaluate as evaluation
from tools.evaluate import evaluate, lift, main, parse_arguments
from tools.evaluation.accuracy import summarize
from tools.evaluation.answering import answer_questions, judge, read_answers
from tools.evaluation.preference import log_probs, measure_pairs, pair_batches
from tools.evaluation.questions import direct, read_questions, reasoned
from tools.evaluation.table import table
from tools.reasoning_data_pipeline.answers.checker import Outcome
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, SamplingSettings

PROMPTS = [
    {"image": "a.png", "question": "<image>\nHow many?", "answer": "3", "task": "count"},
    {"image": "a.png", "question": "How high?", "answer": 5, "task": "chart"},
    {"question": "2 + 2?", "answer": "4", "task": "count"},
]


@pytest.fixture
def prompts(tmp_path):
    """English and Chinese prompt files of the same rows, beside their picture."""
    Image.new("RGB", (80, 56), "red").save(tmp_path / "a.png")
    files = []
    for language in ("en", "zh"):
        files.append(tmp_path / f"held_out_{language}_prompts.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return files


def arguments(*flags):
    return parse_arguments(["--max-new-tokens", "4", *map(str, flags)])


def judged(file, words, answers):
    return list(judge(list(read_questions([file], words)), [[answer] for answer in answers]))


def test_answers_are_judged_and_counted_by_task(prompts):
    answers = ["One, two.\n\nFinal answer: 3", "I cannot tell", "Two and two.\n\nFinal answer: 5"]
    answered = judged(prompts[0], reasoned("en"), answers)
    assert [one.outcomes for one in answered] == [(Outcome.CORRECT,), (Outcome.FORMAT_ERROR,), (Outcome.WRONG,)]
    counts = {name: (found["percent"], found["questions"]) for name, found in summarize(answered).items()}
    assert counts == {"all": (33.33, 3), "count": (50.0, 2), "chart": (0.0, 1)}
    assert summarize(answered)["all"]["format_errors"] == 1


def test_a_direct_answer_is_the_whole_text(prompts):
    answered = judged(prompts[0], direct, ["3", "5", "five"])
    assert [one.outcomes[0] for one in answered] == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG]


def test_the_engines_answers_are_those_of_chat(prompts, golden):
    questions = list(read_questions(prompts[:1], reasoned("en")))
    options = EngineOptions(golden.ckpt, SamplingSettings(0.0, max_new_tokens=4))
    answers = answer_questions(questions, "transformers", options, samples=1, seed=0, max_tiles=12)
    model, tokenizer = load_model(golden.ckpt), load_tokenizer(golden.ckpt)
    chat = model.chat(tokenizer, None, questions[2].text, {"max_new_tokens": 4, "do_sample": False})
    assert answers[2] == [chat]
    assert len(answers) == 3


def test_log_probs_and_rewards_are_the_golden_ones(golden, tmp_path):
    ids = golden.loss["batches"]["b2"]["ids"]
    data = golden_rows(ids)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    root = str(Path(golden.ckpt).parents[1] / "data" / "images")
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"b2": {"root": root, "annotation": "pairs.jsonl"}}))
    found = measure_pairs(golden.ckpt_policy, golden.ckpt, meta, beta=0.1, batch_size=64, max_tiles=12)
    metrics = golden.loss["batches"]["b2"]["metrics"]
    assert found["pairs"] == 2
    assert found["reward_margin"] == pytest.approx(metrics["rewards/margins"], abs=1e-4)
    assert found["reward_accuracy"] == 100 * metrics["rewards/accuracies"]
    batches = pair_batches(golden.ckpt_policy, meta, 1, 12)
    logps = log_probs(golden.ckpt_policy, batches, "")
    expected = golden.loss["batches"]["b2"]["policy_chosen_logps"]
    torch.testing.assert_close(logps[0].float(), torch.tensor(expected), atol=3e-4, rtol=0)


def golden_rows(ids):
    """Rows of the golden data by id, in this order."""
    folder = Path(__file__).parents[1] / "golden" / "data"
    rows = [json.loads(line) for name in ("mmpr_en", "mmpr_zh") for line in (folder / f"{name}.jsonl").open("rb")]
    by_id = {row["id"]: row for row in rows}
    return [by_id[name] for name in ids]


def report(reasoned, margin=None):
    found = {
        "percent": reasoned,
        "interval": [10.0, 90.0],
        "questions": 10,
        "answers": 10,
        "correct": int(reasoned / 10),
    }
    found |= {"format_errors": 1, "undecided": 0}
    rewards = {} if margin is None else {"reward_margin": margin, "reward_margin_interval": [0.0, 1.0]}
    return {"checkpoint": f"model-{reasoned}", "reasoned": {"all": found}, "pairs": {"likelier": 75.0, **rewards}}


def test_the_table_shows_intervals_and_what_was_before():
    text = table({**report(70.0, 0.5), "before": report(50.0)})
    assert text.splitlines()[0] == "model-50.0 -> model-70.0"
    assert "50.00 -> 70.00 (+20.00) %  [10.00, 90.00]   7 of 10 right, 1 format errors" in text
    assert "reward_margin" in text and "reward_accuracy" not in text
    assert "->" not in table(report(70.0))


def test_the_table_shows_right_steps_where_they_are_known():
    before, after = report(50.0), report(70.0)
    before["reasoned"]["all"]["right_steps"], after["reasoned"]["all"]["right_steps"] = 20.0, 45.5
    assert "every step right" in table(after) and "every step right" not in table(report(50.0))
    assert "20.00 -> 45.50 (+25.50) %" in table({**after, "before": before})


def test_lift_needs_two_evaluations():
    assert lift({**report(70.0), "before": report(50.0)}) == 20.0
    with pytest.raises(ValueError, match="--before"):
        lift(report(70.0))


@pytest.mark.parametrize(("least", "status"), [("20", 0), ("20.5", 1)])
def test_the_exit_status_tells_whether_answers_rose_enough(tmp_path, monkeypatch, least, status):
    monkeypatch.setattr(evaluation, "evaluate", lambda args: {**report(70.0), "before": report(50.0)})
    assert main(["--checkpoint", "c", "--least-lift", least]) == status


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="nothing to measure of c"):
        evaluate(arguments("--checkpoint", "c"))


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="--samples 4 needs --temperature"):
        evaluate(arguments("--checkpoint", "c", "--pairs", "p", "--samples", "4"))
    with pytest.raises(ValueError, match="give one"):
        evaluate(arguments("--checkpoint", "c", "--pairs", "p", "--against", "a", "--before", "b"))


def test_other_ranks_leave_the_work_to_the_first(monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda args: pytest.fail("a second rank evaluates"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["--checkpoint", "c"]) == 0


def scripted(file, out, *flags):
    """Evaluation of answers that the seed alone decides."""
    flags = ("--engine", "scripted", "--temperature", "1", "--samples", "4", "--greedy", *flags)
    return evaluate(arguments("--checkpoint", "c", "--reasoned", file, "--out", out, *flags))


def test_a_repeat_gives_the_same_figures(tmp_path, prompts):
    first = scripted(prompts[0], tmp_path / "new" / "first.json")
    again = scripted(prompts[0], tmp_path / "again.json", "--before", tmp_path / "new" / "first.json")
    assert first == {name: value for name, value in again.items() if name not in ("before", "comparison")}
    assert again["before"] == json.loads((tmp_path / "new" / "first.json").read_text()) == json.loads(json.dumps(first))
    assert first["reasoned"]["all"]["answers"] == 12 and first["reasoned_greedy"]["all"]["answers"] == 3
    names = ("reasoned", "reasoned_greedy")
    assert [again["comparison"][name]["p"] for name in names] == [1.0, 1.0]
    one, other = (read_answers(tmp_path / f"{name}.answers.jsonl") for name in ("new/first", "again"))
    assert {way: len(rows) for way, rows in one.items()} == {"reasoned": 3, "reasoned_greedy": 3}
    for way, key in ((way, key) for way, rows in one.items() for key in rows):
        before = {name: one[way][key][name] for name in ("responses", "outcomes")}
        assert other[way][key] == one[way][key] | {"before": before}


def test_another_seed_gives_other_answers(tmp_path, prompts):
    scripted(prompts[0], tmp_path / "a.json")
    found = scripted(prompts[0], tmp_path / "b.json", "--before", tmp_path / "a.json", "--seed", "1")
    assert (tmp_path / "a.answers.jsonl").read_text() != (tmp_path / "b.answers.jsonl").read_text()
    assert found["settings"]["seed"] == 1


def test_two_checkpoints_are_compared_in_one_command(tmp_path, prompts, golden, capsys):
    probes = tmp_path / "probes.jsonl"
    probes.write_text(json.dumps({"question": "Is there a cat?", "answer": "no", "category": "random"}) + "\n")
    flags = ["--checkpoint", golden.ckpt_policy, "--against", golden.ckpt, "--direct", prompts[0], "--probes", probes]
    more = ["--engine", "transformers", "--max-new-tokens", "2", "--plot", tmp_path / "plots" / "a.png"]
    assert main(list(map(str, [*flags, *more, "--out", tmp_path / "a.json"]))) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["before"]["checkpoint"] == golden.ckpt and found["probes"]["random"]["questions"] == 1
    assert found["comparison"]["direct"]["questions"] == 3
    text = capsys.readouterr().out
    assert "exact McNemar, p = " in text and "probes, random" in text and "F1" in text
    with Image.open(tmp_path / "plots" / "a.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50  # not a blank page
