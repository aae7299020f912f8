"""Evaluation: how questions are put, how answers are judged and counted, rewards against the golden figures."""

import json

import pytest
import torch
from PIL import Image

from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.records import RecordError
from tools import evaluate as evaluation
from tools.evaluate import Outcome, evaluate, judge, lift, main, parse_arguments, read_questions, summarize, table

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


def test_reasoned_questions_are_put_by_the_language_of_their_file(prompts):
    english, chinese = ([question.text for question in read_questions(file, "en", None)] for file in prompts)
    assert english[0].startswith("<image>\nYour task is to answer") and english[0].endswith("How many?")
    assert chinese[0].startswith("<image>\n你的任务是") and chinese[0].endswith("How many?")
    assert english[2].startswith("Your task") and "<image>" not in english[2]


def test_direct_questions_are_put_as_they_stand(prompts):
    questions = list(read_questions(prompts[1], None, None))
    assert [question.text for question in questions] == ["<image>\nHow many?", "<image>\nHow high?", "2 + 2?"]
    assert [len(question.images) for question in questions] == [1, 1, 0]


def test_a_row_that_cannot_be_asked_ends_the_evaluation(prompts):
    prompts[0].write_text(json.dumps({"image": "absent.png", "question": "q", "answer": "1"}) + "\n")
    with pytest.raises(RecordError, match=r"prompts.jsonl:1: absent.png: no such image"):
        list(read_questions(prompts[0], "en", None))


def test_answers_are_judged_and_counted_by_task(prompts):
    reasoned = list(read_questions(prompts[0], "en", None))
    answers = ["One, two.\n\nFinal answer: 3", "I cannot tell", "Two and two.\n\nFinal answer: 5"]
    judged = list(judge(reasoned, answers))
    assert [outcome for _, outcome in judged] == [Outcome.CORRECT, Outcome.FORMAT_ERROR, Outcome.WRONG]
    assert summarize(judged) == {
        "all": {"percent": 33.33, "questions": 3, "correct": 1, "format_errors": 1},
        "count": {"percent": 50.0, "questions": 2, "correct": 1, "format_errors": 0},
        "chart": {"percent": 0.0, "questions": 1, "correct": 0, "format_errors": 1},
    }


def test_a_direct_answer_is_the_whole_text(prompts):
    direct = list(read_questions(prompts[0], None, None))
    outcomes = [outcome for _, outcome in judge(direct, ["3", "5", "five"])]
    assert outcomes == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG]


def test_the_engines_answers_are_those_of_chat(prompts, golden):
    questions = list(read_questions(prompts[0], "en", None))
    answers = evaluation.answer_questions(
        questions, arguments("--checkpoint", golden.ckpt, "--engine", "transformers"), ""
    )
    model, tokenizer = load_model(golden.ckpt), load_tokenizer(golden.ckpt)
    chat = model.chat(tokenizer, None, questions[2].text, {"max_new_tokens": 4, "do_sample": False})
    assert answers[2] == chat
    assert len(answers) == 3


def test_log_probs_and_rewards_are_the_golden_ones(golden, tmp_path):
    ids = golden.loss["batches"]["b2"]["ids"]
    data = golden_rows(ids)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    root = str(evaluation.Path(golden.ckpt).parents[1] / "data" / "images")
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"b2": {"root": root, "annotation": "pairs.jsonl"}}))
    flags = ("--checkpoint", golden.ckpt_policy, "--reference", golden.ckpt, "--pairs", meta)
    found = evaluation.measure_pairs(arguments(*flags))
    metrics = golden.loss["batches"]["b2"]["metrics"]
    assert found.pairs == 2
    assert found.reward_margin == pytest.approx(metrics["rewards/margins"], abs=1e-4)
    assert found.reward_accuracy == 100 * metrics["rewards/accuracies"]
    batches = evaluation.pair_batches(golden.ckpt_policy, meta, 1, 12)
    logps = evaluation.log_probs(golden.ckpt_policy, batches, "")
    expected = golden.loss["batches"]["b2"]["policy_chosen_logps"]
    torch.testing.assert_close(logps.chosen.float(), torch.tensor(expected), atol=3e-4, rtol=0)


def golden_rows(ids):
    """Rows of the golden data by id, in this order."""
    folder = evaluation.Path(__file__).parents[1] / "golden" / "data"
    rows = [json.loads(line) for name in ("mmpr_en", "mmpr_zh") for line in (folder / f"{name}.jsonl").open("rb")]
    by_id = {row["id"]: row for row in rows}
    return [by_id[name] for name in ids]


def report(reasoned, margin=None):
    found = {"percent": reasoned, "questions": 10, "correct": int(reasoned / 10), "format_errors": 0}
    pairs = {"pairs": 4, "likelier": 75.0, "reward_accuracy": None, "reward_margin": margin}
    return {"checkpoint": f"model-{reasoned}", "reasoned": {"all": found}, "pairs": pairs}


def test_the_table_shows_what_was_before():
    text = table({**report(70.0, 0.5), "before": report(50.0)})
    assert text.splitlines()[0] == "model-50.0 -> model-70.0"
    assert "50.00 -> 70.00 (+20.00) %   7 of 10 right" in text
    assert "reward_margin" in text and "reward_accuracy" not in text
    assert "->" not in table(report(70.0))


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


def test_the_report_is_written_with_the_one_before(tmp_path, prompts, golden):
    flags = ("--checkpoint", golden.ckpt, "--direct", *prompts, "--engine", "transformers")
    first = evaluate(arguments(*flags, "--out", tmp_path / "new" / "first.json"))
    second = evaluate(arguments(*flags, "--before", tmp_path / "new" / "first.json"))
    assert first["direct"]["all"]["questions"] == 6
    assert second["before"] == first
