"""tools/score_steps.py: rows in and out, what is left out, restarts, ranks, and that the pair makers take its rows."""

import json

import pytest
from PIL import Image

from tests.tools.scripted_critic import ScriptedCritic
from tools import score_steps
from tools.reasoning_data_pipeline import reward_pairs, visualprm_data_pipeline_postprocess
from tools.score_steps import main
from tools.scoring import run as scoring
from tools.scoring.critic import AnswerScorer

ASKED = {"image": "a.png", "question": "<image>\nHow many?", "answer": "3", "task": "count"}


@pytest.fixture
def critic(monkeypatch):
    """The scripted critic in place of the one that a command opens."""
    scripted = ScriptedCritic()
    monkeypatch.setattr(score_steps, "open_critic", lambda checkpoint, max_tiles: scripted)
    monkeypatch.setattr(scoring, "critic_weights", lambda checkpoint: checkpoint)
    return scripted


@pytest.fixture
def score(work, critic, write_rows, read_rows):
    """Function from rows and flags to the scored rows; the exit code is checked."""
    (work / "sampled").mkdir()
    Image.new("RGB", (80, 56), "red").save(work / "a.png")

    def run(rows, *flags, code=0):
        write_rows(rows, "sampled/max_tiles_1.jsonl")
        assert main(["--critic", "c", "--data-dir", "sampled", "--save-dir", "scored", *flags]) == code
        return read_rows(work / "scored" / "max_tiles_1.jsonl")

    return run


def answers(*texts, **changes):
    return [{**ASKED, "response": text, **changes} for text in texts]


def test_each_answer_has_its_steps_their_scores_and_one_of_its_own(score, critic):
    found = score(answers("good\n\nfine\n\nbad"), "--score-by", "min")
    steps = [{"step": "good", "score": 0.9}, {"step": "fine", "score": 0.6}, {"step": "bad", "score": 0.2}]
    assert found == [{**ASKED, "response": "good\n\nfine\n\nbad", "steps_with_score": steps, "score": 0.2}]
    assert critic.shown == [("<image>\nHow many?", [(80, 56)], [["good", "fine", "bad"]])]


@pytest.mark.parametrize(("by", "value"), [("mean", 0.55), ("min", 0.2), ("last", 0.9)])
def test_the_score_of_an_answer_is_made_of_its_steps(score, by, value):
    assert score(answers("bad\n\ngood"), "--score-by", by)[0]["score"] == pytest.approx(value)


def test_answers_to_one_question_are_shown_together_and_equal_ones_once(score, critic):
    other = {**ASKED, "question": "What?", "image": ""}
    rows = [*answers("good", "bad", "good"), {**other, "response": "fine"}, *answers("good")]
    assert [row["score"] for row in score(rows)] == [0.9, 0.2, 0.9, 0.6, 0.9]
    assert [(question, len(images), steps) for question, images, steps in critic.shown] == [
        ("<image>\nHow many?", 1, [["good"], ["bad"]]),
        ("What?", 0, [["fine"]]),
        ("<image>\nHow many?", 1, [["good"]]),
    ]


def test_a_batch_is_as_large_as_asked(score, critic):
    score(answers("a", "b", "c"), "--batch-size", "2")
    assert [candidates for _, _, candidates in critic.shown] == [[["a"], ["b"]], [["c"]]]


def test_a_list_of_responses_gives_a_row_each(score):
    found = score([{**ASKED, "responses": ["good", "bad"]}])
    assert [(row["response"], row["score"], row["task"]) for row in found] == [
        ("good", 0.9, "count"),
        ("bad", 0.2, "count"),
    ]
    assert "responses" not in found[0]


def test_steps_beyond_the_most_are_joined_and_steps_without_text_are_not_shown(score, critic):
    score(answers("a\n\nb\n\nc\n\nd", "a\n\n\n\nb"), "--max-steps", "2")
    [(_, _, candidates)] = critic.shown
    assert candidates == [["a\n\nb", "c\n\nd"], ["a\n\n", "b"]]


def test_what_cannot_be_used_is_counted_and_written_down(score, work, read_rows):
    bad = ["{", {**ASKED, "response": 3}, {"response": "x"}, {**ASKED, "responses": []}]
    gone = answers("good", "bad", image="gone.png")
    found = score([*answers("good", " ", "bad")[:2], *bad, *answers("bad"), *gone])
    assert [row["response"] for row in found] == ["good", "bad"]
    parts = work / "scored" / "max_tiles_1.parts"
    assert json.loads((parts / "summary.json").read_text()) == {
        "prompts": 6,
        "rows": 2,
        "rejected": 5,
        "skipped": {"answer without text": 1},
        "duplicates": 0,
    }
    rejects = {row["line"]: row["reason"] for row in read_rows(parts / "rejects.jsonl")}
    assert sorted(rejects) == [3, 4, 5, 6, 8]
    assert "'response'" in rejects[4] and "'question' is missing" in rejects[5] and "'responses'" in rejects[6]
    assert "gone.png: no such image" in rejects[8] and "with it 2 answers from this line on" in rejects[8]


def test_rows_of_which_none_can_be_used_end_with_an_error(score):
    assert score(answers("", " "), code=1) == []


def test_a_run_that_was_stopped_goes_on(score, critic, monkeypatch):
    rows = [{**ASKED, "question": f"Q{number}?", "image": "", "response": "good"} for number in range(4)]
    whole, shown = critic.score, []

    def broken(question, images, candidates):
        if question == "Q2?" and not shown:
            shown.append(question)
            raise KeyboardInterrupt
        return whole(question, images, candidates)

    monkeypatch.setattr(critic, "score", broken)
    with pytest.raises(KeyboardInterrupt):
        score(rows)
    assert [row["question"] for row in score(rows)] == ["Q0?", "Q1?", "Q2?", "Q3?"]
    assert [question for question, _, _ in critic.shown] == ["Q0?", "Q1?", "Q2?", "Q3?"]


def test_other_settings_are_no_resume(score):
    score(answers("good"))
    with pytest.raises(ValueError, match="begun with other parameters: max_steps 12 -> 3"):
        score(answers("good"), "--max-steps", "3")
    assert score(answers("good"), "--max-steps", "3", "--overwrite")


def test_ranks_share_the_questions(score, work, monkeypatch, write_rows, read_rows):
    rows = [
        {**ASKED, "question": f"Q{number}?", "image": "", "response": text}
        for number in range(8)
        for text in ("good", "bad")
    ]
    write_rows(rows, "sampled/max_tiles_1.jsonl")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert (work / "scored" / "max_tiles_1.jsonl").exists() == (rank == 2)
        main(["--critic", "c", "--data-dir", "sampled", "--save-dir", "scored"])
    assert [(row["question"], row["score"]) for row in read_rows(work / "scored" / "max_tiles_1.jsonl")] == [
        (row["question"], 0.9 if row["response"] == "good" else 0.2) for row in rows
    ]


def test_images_are_looked_for_where_the_sampling_run_found_them(work, critic, write_rows, read_rows):
    (work / "prompts").mkdir()
    (work / "sampled" / "x.parts").mkdir(parents=True)
    Image.new("RGB", (80, 56), "red").save(work / "prompts" / "b.png")
    write_rows(answers("good", image="b.png"), "sampled/x.jsonl")
    origin = {"prompt_path": str(work / "prompts" / "p.jsonl"), "image_root": None}
    manifest = {"generation": "1", "parameters": {}, "origin": origin}
    (work / "sampled" / "x.parts" / "manifest.json").write_text(json.dumps(manifest))
    assert main(["--critic", "c", "--data-dir", "sampled", "--save-dir", "scored"]) == 0
    kept = json.loads((work / "scored" / "x.parts" / "manifest.json").read_text())
    assert kept["origin"] == origin and len(read_rows(work / "scored" / "x.jsonl")) == 1


def test_pairs_are_made_of_scores_of_answers_and_of_steps(score, work, read_rows):
    score(answers("good\n\ngood", "good\n\nbad", "bad\n\nbad"))
    folders = ["--data-dir", "scored", "--num-workers", "1", "--image-root", "."]
    assert reward_pairs.main([*folders, "--save-dir", "by_answer", "--min-margin", "0.3"]) == 0
    pairs = read_rows(work / "by_answer" / "raw" / "max_tiles_1_pairs_rewards.jsonl")
    assert sorted((pair["chosen"], pair["rejected"]) for pair in pairs) == [
        ("good\n\nbad", "bad\n\nbad"),
        ("good\n\ngood", "bad\n\nbad"),
        ("good\n\ngood", "good\n\nbad"),
    ]
    words = [*folders, "--save-dir", "by_step", "--mc-threshold", "0.5"]
    assert visualprm_data_pipeline_postprocess.main(words) == 0
    pairs = read_rows(work / "by_step" / "raw" / "max_tiles_1_pairs_step_scores.jsonl")
    assert sorted((pair["chosen"], pair["rejected"], pair["step"]) for pair in pairs) == [
        ("good\n\ngood", "bad\n\nbad", 0),
        ("good\n\ngood", "good\n\nbad", 1),
    ]
    [entry] = json.loads((work / "by_step" / "meta.json").read_text()).values()
    assert entry["max_dynamic_patch"] == 1 and entry["length"] == 2


def test_nothing_to_read_and_a_folder_over_itself_are_refused(work, critic):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        main(["--critic", "c", "--data-dir", "gone", "--save-dir", "scored"])
    (work / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \*.jsonl below --data-dir empty"):
        main(["--critic", "c", "--data-dir", "empty", "--save-dir", "scored"])
    with pytest.raises(ValueError, match="--save-dir empty is --data-dir"):
        main(["--critic", "c", "--data-dir", "empty", "--save-dir", "empty"])


def test_no_text_is_never_shown():
    critic = ScriptedCritic()
    assert AnswerScorer(critic).score("Q?", ["no such picture.png"], ["", "  \n\n "]) == [[], []]
    assert critic.shown == []
