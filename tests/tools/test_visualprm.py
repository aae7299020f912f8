"""The sampling half of VisualPRM: answers, prefixes, Monte-Carlo scores."""

import json
from collections import Counter

import pytest

from tools.reasoning_data_pipeline.answers.steps import ScoredStep
from tools.reasoning_data_pipeline.engines.protocol import Completion, Failure
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample_answers
from tools.reasoning_data_pipeline.sampling import pipeline as sampling
from tools.reasoning_data_pipeline.visualprm_data_pipeline import main

QUESTION = {"image": "square_small.png", "question": "How many?", "answer": "3", "id": "q"}


class Scripted:
    """First writes `solution`; continues a prefix of k steps with as many right answers as `right[k]` says."""

    def __init__(self, solution, right):
        self.solution, self.right, self.requests, self.batches = solution, right, [], []

    def generate(self, requests):
        batch = list(requests)
        self.requests += batch
        self.batches.append(len(batch))
        for request in batch:
            if "broken" in request.question:
                yield Failure(request.key, "cannot")
                continue
            steps = request.prefix.strip().count("\n\n") + 1 if request.prefix else 0
            for number, sample in enumerate(request.seeds):
                yield Completion(request.key, sample, self.text(steps, number))

    def text(self, steps, number):
        if not steps:
            return self.solution
        answer = "3" if number < self.right[steps] else "4"
        return f"\n\nMore.\n\nFinal answer: {answer}"

    def close(self):
        pass


@pytest.fixture
def run(work, monkeypatch, read_rows):
    """Function from an engine and flags to (output rows, rejects)."""

    def done(engine, *flags):
        monkeypatch.setattr(sampling, "open_engine", lambda name, options: engine)
        given = ["--engine", "scripted", "--checkpoint", "org/tiny", "--prompt-path", "prompts.jsonl"]
        main([*given, "--image-root", "images", "--out-dir", "out", "--dynamic", "--max-num", "12", *flags])
        folder = work / "out" / "org_tiny" / "max_tiles_12"
        return read_rows(folder / "prompts.jsonl"), read_rows(folder / "prompts.parts" / "rejects.jsonl")

    return done


def test_every_step_is_scored_by_its_continuations(run, write_rows):
    write_rows([QUESTION])
    engine = Scripted("Look.\n\nCount.\n\nSum.", {1: 8, 2: 4, 3: 1})
    rows, _ = run(engine, "--num-return-sequences", "1", "--num-mc-sequences", "8")
    [row] = rows
    assert row["steps_with_score"] == [
        {"step": "Look.", "score": 1.0, "num_mc_correct": 8, "num_mc_total": 8},
        {"step": "Count.", "score": 0.5, "num_mc_correct": 4, "num_mc_total": 8},
        {"step": "Sum.", "score": 0.125, "num_mc_correct": 1, "num_mc_total": 8},
    ]
    assert (row["response"], row["answer"], row["id"]) == ("Look.\n\nCount.\n\nSum.", "3", "q")
    assert row["question"].startswith("<image>\nYour task")
    assert (row["question_orig"], row["prompt_version"], row["image"]) == ("How many?", "en", "square_small.png")
    first, *levels = engine.requests
    assert (first.prefix, len(first.seeds)) == ("", 1)
    assert [request.prefix for request in levels] == ["Look.\n\n", "Look.\n\nCount.\n\n", "Look.\n\nCount.\n\nSum."]
    assert all(len(request.seeds) == 8 and len(request.images) == 1 for request in levels)
    seeds = Counter(seed for request in engine.requests for seed in request.seeds.values())
    assert max(seeds.values()) == 1


def test_steps_behind_a_hopeless_one_are_not_measured(run, write_rows):
    write_rows([QUESTION])
    flags = ("--num-return-sequences", "1", "--num-mc-sequences", "4")
    rows, _ = run(Scripted("a\n\nb\n\nc", {1: 2, 2: 0, 3: 0}), *flags)
    steps = [ScoredStep.from_row(step, ("f", 1)) for step in rows[0]["steps_with_score"]]
    assert [step.measured for step in steps] == [True, True, False]
    rows, _ = run(Scripted("a\n\nb\n\nc", {1: 2, 2: 0, 3: 0}), *flags, "--no-early-stop", "--overwrite")
    assert [step["num_mc_total"] for step in rows[0]["steps_with_score"]] == [4, 4, 4]


def test_one_level_of_all_answers_is_one_batch(run, write_rows):
    write_rows([{**QUESTION, "id": number} for number in range(5)])
    engine = Scripted("a\n\nb", {1: 1, 2: 1})
    rows, _ = run(engine, "--num-return-sequences", "3", "--num-mc-sequences", "2")
    assert engine.batches == [5, 15, 15]
    assert [row["id"] for row in rows] == [number for number in range(5) for _ in range(3)]


def test_steps_are_joined_up_to_the_limit(run, write_rows):
    write_rows([QUESTION])
    rows, _ = run(Scripted("a\n\nb\n\nc\n\nd", {2: 1, 4: 1}), "--num-return-sequences", "1", "--max-steps", "2")
    assert [step["step"] for step in rows[0]["steps_with_score"]] == ["a\n\nb", "c\n\nd"]


def test_bad_rows_and_failures_are_rejected(run, write_rows):
    write_rows([{**QUESTION, "question": "broken"}, {**QUESTION, "image": "gone.png"}, QUESTION, "nonsense"])
    rows, rejects = run(Scripted("a", {1: 1}), "--num-return-sequences", "1")
    assert len(rows) == 1
    assert [reject["line"] for reject in rejects] == [1, 2, 4]


def test_sampled_answers_are_scored_as_they_are(run, write_rows, read_rows, work, monkeypatch):
    write_rows([QUESTION], "sampled.jsonl")
    given = ["--engine", "scripted", "--prompt-path", "sampled.jsonl", "--image-root", "images", "--out-dir", "first"]
    sample_answers([*given, "--num-return-sequences", "2"])
    sampled = read_rows(work / "first" / "scripted" / "max_tiles_6" / "sampled.jsonl")
    write_rows(sampled)
    _, rejects = run(Scripted("a", {1: 1}), "--num-return-sequences", "2")
    assert len(rejects) == 2
    assert "with --num-return-sequences 1, not 2" in rejects[0]["reason"]
    engine = Scripted("never asked", dict.fromkeys(range(9), 1))
    rows, _ = run(engine, "--num-return-sequences", "1", "--overwrite")
    assert [{key: row[key] for key in sampled[0]} for row in rows] == sampled
    assert all(request.prefix for request in engine.requests)


@pytest.mark.parametrize("flag", ["--num-mc-sequences", "--max-steps"])
def test_impossible_numbers_are_refused(flag):
    with pytest.raises(ValueError, match="at least 1"):
        main(["--prompt-path", "p.jsonl", flag, "0"])


def test_the_documented_defaults():
    from tools.reasoning_data_pipeline.visualprm_data_pipeline import build_parser

    args = build_parser().parse_args(["--prompt-path", "p.jsonl"])
    assert (args.num_mc_sequences, args.max_steps, args.early_stop) == (16, 12, True)


@pytest.mark.integration
def test_two_cpu_processes_from_the_documented_command(run_two_ranks, write_rows, read_rows):
    write_rows([{**QUESTION, "id": number} for number in range(3)])
    output = run_two_ranks("visualprm_data_pipeline", "--num-mc-sequences", "3", "--max-steps", "4", "--early-stop")
    assert [row["id"] for row in read_rows(output)] == [0, 0, 1, 1, 2, 2]
    assert json.loads((output.parent / "prompts.parts" / "summary.json").read_text())["rows"] == 6
