"""DropoutNTP: where answers are cut, what is asked, what is joined, what is left out."""

import json
import re
from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.engines.protocol import Completion, Failure
from tools.reasoning_data_pipeline.mmpr_data_pipeline_dropout_ntp import main
from tools.reasoning_data_pipeline.sampling import pipeline as sampling

CASES = Path(__file__).parents[1] / "answers" / "pairs" / "dropout_ntp_prefix.jsonl"
CHOSEN = "Let me look at the picture. It shows a circle.\n\nFinal answer: a circle"
CHINESE = "三角形的底是4，高是3。"


class Recorder:
    """An engine that writes what a function of the request says, and remembers the requests."""

    def __init__(self, write):
        self.write, self.requests = write, []

    def generate(self, requests):
        for request in requests:
            self.requests.append(request)
            text = self.write(request)
            if text is None:
                yield Failure(request.key, "cannot")
                continue
            for sample in request.seeds:
                yield Completion(request.key, sample, text)

    def close(self):
        pass


@pytest.fixture
def run(work, monkeypatch, read_rows):
    """Function from what the engine writes, and flags, to (requests, output rows, summary, rejects)."""

    def done(write, *flags):
        engine = Recorder(write)
        monkeypatch.setattr(sampling, "open_engine", lambda name, options: engine)
        given = ["--engine", "scripted", "--checkpoint", "org/tiny", "--prompt-path", "prompts.jsonl"]
        main([*given, "--image-root", "images", "--out-dir", "out", "--dynamic", "--max-num", "12", *flags])
        folder = work / "out" / "org_tiny"
        summary = json.loads((folder / "prompts.parts" / "summary.json").read_text())
        rejects = read_rows(folder / "prompts.parts" / "rejects.jsonl")
        return engine.requests, read_rows(folder / "prompts.jsonl"), summary, rejects

    return done


def test_the_start_is_continued_without_the_image_and_joined_exactly(run, write_rows):
    row = {"image": "square_small.png", "question": "<image>\nWhat is it?", "chosen": CHOSEN, "rejected": None, "id": 7}
    write_rows([row])
    requests, rows, _, _ = run(lambda request: " shows a square.")
    [request] = requests
    assert (request.question, request.images) == ("What is it?", ())
    assert request.prefix == "Let me look at the picture. It"
    assert rows == [{**row, "rejected": "Let me look at the picture. It shows a square."}]


def test_all_frames_of_a_video_are_left_out(run, write_rows):
    row = {"video": "a.mp4", "question": "<video>\nWhat is it?", "chosen": CHOSEN, "rejected": None}
    write_rows([row, {"video": "b.mp4", "question": "What?"}])
    [request], rows, _, [reject] = run(lambda request: " shows a square.")
    assert (request.question, request.images) == ("What is it?", ())
    assert rows == [{**row, "rejected": "Let me look at the picture. It shows a square."}]
    assert "videos are read in training, not shown to a sampling engine" in json.dumps(reject)


def test_a_video_cannot_stay(run, write_rows):
    write_rows([{"video": "a.mp4", "question": "What?", "chosen": CHOSEN}])
    _, _, _, [reject] = run(lambda request: " x", "--load-image")
    assert "the engine reads no video" in json.dumps(reject)


@pytest.mark.parametrize("case", [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()][:40:5])
def test_prefixes_are_the_documented_ones(run, write_rows, case):
    write_rows([{"question": "What?", "chosen": case["chosen"]}])
    requests, _, _, _ = run(lambda request: " something else", "--start-ratio", str(case["start_ratio"]))
    if case["is_exact_prefix"]:
        assert requests[0].prefix == case["prefix"]
    assert case["chosen"].startswith(requests[0].prefix)


def test_scripts_without_spaces_are_cut_at_a_character(run, write_rows):
    write_rows([{"image": "square_small.png", "question": "面积？", "chosen": CHINESE}])
    requests, rows, _, _ = run(lambda request: "都是5。")
    assert CHINESE.startswith(requests[0].prefix)
    assert 4 <= len(requests[0].prefix) <= 8
    assert rows[0]["rejected"] == requests[0].prefix + "都是5。"


def test_the_image_stays_on_request(run, write_rows):
    write_rows([{"image": "square_small.png", "question": "<image>\nWhat?", "chosen": CHOSEN}])
    requests, _, _, _ = run(lambda request: " x", "--load-image")
    assert requests[0].question == "<image>\nWhat?"
    assert [Path(path).name for path in requests[0].images] == ["square_small.png"]
    assert requests[0].max_tiles == 12


def test_continuations_equal_to_the_chosen_answer_are_left_out_and_counted(run, write_rows):
    write_rows([{"question": "What?", "chosen": CHOSEN}, {"question": "Other?", "chosen": "Yes it is"}])

    def write(request):
        return CHOSEN[len(request.prefix) :] + "\n" if request.question == "What?" else " was"

    _, rows, summary, _ = run(write, "--num-return-sequences", "2")
    assert [row["question"] for row in rows] == ["Other?", "Other?"]
    assert summary["skipped"] == {"equal to chosen": 2}


def test_an_absent_chosen_answer_is_generated_with_the_image_first(run, write_rows):
    write_rows([{"image": "square_small.png", "question": "What?", "answer": 3}, {"question": "Fails?"}])

    def write(request):
        if request.question == "Fails?":
            return None
        return " a guess" if request.prefix else "Two words more here"

    requests, rows, summary, rejects = run(write)
    first, failing, second = requests
    assert (first.question, len(first.images), first.prefix) == ("<image>\nWhat?", 1, "")
    assert (second.question, len(second.images), second.prefix) == ("What?", 0, "Two words")
    assert set(first.seeds.values()).isdisjoint(second.seeds.values())
    assert rows == [
        {
            "image": "square_small.png",
            "question": "<image>\nWhat?",
            "answer": 3,
            "question_orig": "What?",
            "chosen": "Two words more here",
            "rejected": "Two words a guess",
        }
    ]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "cannot")]


def test_a_generated_answer_may_be_asked_for_in_a_prompt_version(run, write_rows):
    write_rows([{"question": "What?"}, {"question": "Given?", "chosen": CHOSEN}])
    requests, rows, _, _ = run(lambda request: " x y", "--prompt-version", "en")
    assert requests[0].question.startswith("Your task is to answer")
    assert [row["question"][:9] for row in rows] == ["Your task", "Given?"]


def test_empty_answers_are_left_out(run, write_rows):
    write_rows([{"question": "What?"}, {"question": "Other?", "chosen": "one"}])
    _, rows, summary, _ = run(lambda request: "", "--start-ratio", "0")
    assert rows == []
    assert summary["skipped"] == {"empty answer": 2}


def test_a_rejected_answer_that_was_there_is_kept_aside(run, write_rows):
    write_rows([{"question": "What?", "chosen": CHOSEN, "rejected": "no"}])
    _, rows, _, _ = run(lambda request: " x")
    assert rows[0]["rejected_orig"] == "no"


def test_bad_rows_are_rejected(run, write_rows):
    bad = [{"question": "What?", "chosen": 5}, "{", {"question": "", "chosen": "a"}, {"chosen": "a"}]
    write_rows([*bad, {"image": "square_small.png", "question": "<image> or <image>?", "chosen": "a"}])
    _, rows, summary, rejects = run(lambda request: "x")
    assert rows == []
    assert [reject["line"] for reject in rejects] == [1, 2, 3, 4, 5]
    assert summary["rejected"] == 5


def test_impossible_ratios_are_refused():
    with pytest.raises(ValueError, match="--start-ratio must be"):
        main(["--prompt-path", "p.jsonl", "--start-ratio", "1.5"])


@pytest.mark.integration
def test_two_cpu_processes_from_the_documented_command(run_two_ranks, write_rows, read_rows):
    row = {"image": "square_small.png", "question": "<image>\nWhat is it?", "chosen": CHOSEN, "rejected": None}
    write_rows([{**row, "id": number} for number in range(4)])
    found = read_rows(run_two_ranks("mmpr_data_pipeline_dropout_ntp", "--start-ratio", "0.5"))
    assert [row["id"] for row in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(row["rejected"].startswith("Let me look at the picture. It") for row in found)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (['{"question": "Q", "chosen": "c", "rejected": null},'] * 2, "2 of 2 prompts rejected; the first: .*trailing"),
        ([{"question": "Q", "chosen": "\u200b", "rejected": None}], r"1 answers left out \(empty answer\)"),
        ([{"question": "Q", "chosen": CHOSEN, "rejected": None}], r"1 answers left out \(equal to chosen\)"),
    ],
)
def test_a_run_without_a_single_pair_fails_and_says_why(work, monkeypatch, write_rows, caplog, rows, reason):
    write_rows(rows)
    rest = CHOSEN.removeprefix("Let me look at the picture. It")
    monkeypatch.setattr(sampling, "open_engine", lambda name, options: Recorder(lambda request: rest))
    flags = ["--engine", "scripted", "--prompt-path", "prompts.jsonl", "--out-dir", "out"]
    assert main(flags) == 1
    assert re.search(f"no row was made of prompts.jsonl: .*{reason}", caplog.text)
