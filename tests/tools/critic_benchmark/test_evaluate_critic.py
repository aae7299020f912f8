"""The command that measures a critic: files in, figures out."""

import json

import pytest

from internvl_chat.records.rows import RecordError
from tools import evaluate_critic as command
from tools.evaluate_critic import evaluate_critic, main, parse_arguments


class Scripted:
    """Calls every step right."""

    def score(self, question, images, candidates):
        return [[0.95] * len(steps) for steps in candidates]


@pytest.fixture
def scripted(monkeypatch):
    """The checkpoints that are opened: nobody's weights are read."""
    opened = []
    monkeypatch.setattr(command, "open_critic", lambda name, tiles: opened.append((name, tiles)) or Scripted())
    monkeypatch.setattr(command, "critic_weights", lambda name: name)
    return opened


def measured(*words):
    return evaluate_critic(parse_arguments([*map(str, words)]))


def test_figures_are_written_and_scores_are_kept(published, scripted, tmp_path):
    file, out, page = published({}, {"answer": "3"}), tmp_path / "critic.json", tmp_path / "critic.html"
    words = ("--benchmark", file, "--critic", "prm", "--out", out, "--page", page)
    report = measured(*words)
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert report["overall"]["pooled"]["macro_f1"] == report["chance"]["always_right"] == 33.33
    assert report["steps"] == {"right": 2, "wrong": 2, "neutral": 2, "without_score": 0}
    assert (report["threshold"], report["chosen"], report["rows"]) == (0.85, "given", 2)
    assert measured(*words) == report and scripted == [("prm", 6)]
    assert "Critic prm" in page.read_text()
    measured(*words, "--max-num", 1)
    assert scripted == [("prm", 6), ("prm", 1)]


def test_scores_made_elsewhere(published, tmp_path, capsys):
    file, scores = published({}), tmp_path / "scores.jsonl"
    scores.write_text(json.dumps({"id": 0, "scores": [0.9, 0.1, 0.2]}) + "\n")
    main(["--benchmark", str(file), "--scores", str(scores)])
    assert "all steps pooled   100.0" in capsys.readouterr().out


def test_monte_carlo_estimates_of_a_row_against_its_own_labels(published):
    steps = [{"step": step, "score": score, "num_mc_correct": 4 * score, "num_mc_total": 4} for step, score in SCORED]
    file = published({"steps_with_score": steps})
    report = measured("--benchmark", file, "--scores", file, "--threshold", 0)
    assert report["overall"]["pooled"]["macro_f1"] == 100.0


SCORED = (("I see two.", 1), ("Hm.", 1), ("So 3.", 0))


def test_unusable_rows_stop_it_unless_they_may_be_left_out(published, scripted):
    blank = {"response": {"steps": ["a", ""], "process_correctness": [1, 1]}}
    words = ("--benchmark", published({}, blank, {"image": "b.png"}), "--critic", "prm")
    with pytest.raises(RecordError, match="test.jsonl:2: step 2 has no text.*\n2 rows cannot be used.*lines 2, 3"):
        measured(*words)
    assert not scripted  # nothing is scored for a run that ends with an error
    report = measured(*words, "--leave-out")
    assert report["left_out"] == {"empty_step": 1, "unusable_row": 1} and report["rows"] == 1


def test_rows_without_score_are_named(published, tmp_path):
    scores = tmp_path / "scores.jsonl"
    scores.write_text(json.dumps({"id": 0, "scores": [0.9, 0.1, 0.2]}) + "\n")
    words = ("--benchmark", published({}, {"answer": "4"}), "--scores", scores)
    with pytest.raises(RecordError, match="test.jsonl:2: no score for its steps\n1 rows cannot be used"):
        measured(*words)
    assert measured(*words, "--leave-out")["left_out"] == {"no_score": 1}


def test_a_swept_threshold_is_measured_on_the_other_questions(published, tmp_path):
    file, scores = published(*({"question": f"q{i}"} for i in range(20))), tmp_path / "scores.jsonl"
    scores.write_text("".join(json.dumps({"scores": [0.4, 0.1, 0.2]}) + "\n" for _ in range(20)))
    report = measured("--benchmark", file, "--scores", scores, "--threshold", "sweep")
    assert report["threshold"] == 0.2 and report["overall"]["pooled"]["macro_f1"] == 100.0
    assert report["rows"] + int(report["chosen"].split()[2]) == 20 and report["rows"] < 20


@pytest.mark.parametrize("words", ["--threshold 1.1", "--threshold best", "--sweep-share 1", "--sweep-share 0"])
def test_a_threshold_is_not_sought_on_what_it_is_measured_on(words, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--benchmark", "x", *words.split()])
    assert words.split()[0] in capsys.readouterr().err


def test_one_of_critic_and_scores(published):
    for words in ((), ("--critic", "a", "--scores", "b")):
        with pytest.raises(ValueError, match="give one of --critic"):
            measured("--benchmark", published({}), *words)


def test_a_checkpoint_scores_and_is_known_by_its_weights(published, tmp_path, golden_folder):
    file, out = published({}), tmp_path / "critic.json"
    measured("--benchmark", file, "--critic", golden_folder / "ckpt/tiny-qwen2", "--out", out)
    [line] = map(json.loads, out.with_suffix(".scores.jsonl").read_text().splitlines())
    assert line["by"].endswith("-6") and len(line["scores"]) == 3 and all(0 < score < 1 for score in line["scores"])
