"""tools/evaluate.py --critic: figures by hand, what is taken from an earlier evaluation, what is refused."""

import json
import shutil

import pytest
from PIL import Image

from tests.tools.scripted_critic import ScriptedCritic
from tools.evaluate import evaluate, parse_arguments
from tools.evaluation import critics, ways
from tools.evaluation.answering import read_answers
from tools.evaluation.plots import plot_accuracies
from tools.evaluation.table import table

RIGHT, WRONG = "good\n\nFinal answer: 3", "bad\n\nFinal answer: 4"
# Of a question whose right answer is 3: sampled answers of two questions, and the most likely ones.
SAMPLED = [[WRONG, WRONG, RIGHT], [RIGHT, "fine\n\nFinal answer: 5", "no idea"]]
LIKELY = [[WRONG], [RIGHT]]


@pytest.fixture
def critic(monkeypatch):
    """A scripted critic that is there, whatever its name."""
    scripted = ScriptedCritic()
    monkeypatch.setattr(critics, "open_critic", lambda checkpoint, max_tiles: scripted)
    monkeypatch.setattr(critics, "check_critic", lambda checkpoint: None)
    monkeypatch.setattr(critics, "critic_weights", lambda checkpoint: scripted.weights)
    return scripted


@pytest.fixture
def engine(monkeypatch):
    """An engine that says SAMPLED or LIKELY; the settings of its calls."""
    calls = []

    def answer(questions, engine, options, *, samples, seed, max_tiles):
        calls.append((options.sampling.temperature, options.sampling.top_p, samples))
        texts = LIKELY if options.sampling.temperature == 0 else SAMPLED
        return [texts[number][:samples] for number in range(len(questions))]

    monkeypatch.setattr(ways, "answer_questions", answer)
    return calls


@pytest.fixture
def ask(tmp_path, engine):
    """Function from more flags to the report of an evaluation of two questions."""
    Image.new("RGB", (80, 56), "red").save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"<image>\nHow many? {number}", "answer": "3"} for number in range(2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*flags, out="first.json", samples=3):
        words = ["--checkpoint", "c", "--reasoned", tmp_path / "q.jsonl", "--temperature", 1, "--samples", samples]
        return evaluate(parse_arguments([*map(str, [*words, "--out", tmp_path / out, *flags])]))

    return run


def test_the_critic_the_majority_and_luck_by_hand(ask, critic):
    report = ask("--critic", "prm", "--greedy")
    found = report["best_of"]["reasoned"]
    assert (found["critic"], found["questions"], found["samples"], found["unscored"]) == ("prm", 2, 3, 0)
    shares = {
        row["n"]: {name: row[name]["percent"] for name in ("one", "majority", "best", "any")} for row in found["over"]
    }
    assert shares[3] == {"one": 33.33, "majority": 50.0, "best": 100.0, "any": 100.0}
    # of the pairs of answers 01, 02, 12 the best is right: 0 + 1 + 1 of the first, 1 + 1 + 0 of the second question;
    # the majority, of ties the first: 0, 0, 0 and 1, 1, 0
    assert shares[2] == {"one": 33.33, "majority": 33.33, "best": 66.67, "any": 66.67}
    assert shares[1] == dict.fromkeys(shares[1], 33.33) | {"majority": 33.33}
    assert [(row["vote_subsets"], row["votes_exact"]) for row in found["over"]] == [(3, True), (3, True), (1, True)]
    tests = found["tests"]
    assert (tests["best against majority"]["difference"], tests["best against majority"]["test"]) == (
        50,
        "exact McNemar",
    )
    assert tests["best against greedy"]["before"] == found["greedy"]["percent"] == 50
    assert tests["best against one"]["test"] == "paired permutation"


def test_the_critic_sees_the_question_as_asked_with_its_picture(ask, critic):
    ask("--critic", "prm")
    (question, sizes, candidates), second = critic.shown
    assert question.startswith("<image>\n") and "How many? 0" in question and "Final answer: .." in question
    assert sizes == [(80, 56)] and candidates == [["bad", "Final answer: 4"], ["good", "Final answer: 3"]]
    assert len(second[2]) == 3


def test_rows_tell_the_scores_and_the_choice(ask, critic, tmp_path):
    ask("--critic", "prm")
    one, other = read_answers(tmp_path / "first.answers.jsonl")["reasoned"].values()
    assert one["step_scores"] == [[0.2, 0.6], [0.2, 0.6], [0.9, 0.6]] and one["chosen"] == 2
    assert other["chosen"] == 0


def test_another_way_of_choosing_takes_answers_and_scores_from_before(ask, critic, engine, tmp_path):
    ask("--critic", "prm", "--greedy")
    before = ["--greedy", "--answers", tmp_path / "first.json"]
    again = ask("--critic", "prm", *before, "--score-by", "last", out="last.json")
    assert len(engine) == 2 and len(critic.shown) == 2  # neither asked nor scored again
    assert again["best_of"]["reasoned"]["score_by"] == "last"
    assert again["best_of"]["reasoned"]["over"][-1]["best"]["percent"] == 50  # all end alike: the first is chosen
    critic.weights = "trained on"  # in the same folder: what it said before is not what it says now
    other = ask("--critic", "another", *before, out="other.json")
    assert len(engine) == 2 and len(critic.shown) == 4 and other["best_of"]["reasoned"]["critic"] == "another"
    assert read_answers(tmp_path / "other.answers.jsonl") == read_answers(tmp_path / "first.answers.jsonl")


def test_answers_that_were_made_otherwise_are_refused(ask, critic, tmp_path):
    ask()
    before = ["--answers", tmp_path / "first.json"]
    with pytest.raises(ValueError, match="first.json: made otherwise: seed 0 -> 1; ask as then"):
        ask(*before, "--seed", "1")
    with pytest.raises(ValueError, match="made otherwise: checkpoint 'c' -> 'd'"):
        ask(*before, "--checkpoint", "d")
    with pytest.raises(ValueError, match="lacks 2 of 2 questions of reasoned_greedy"):
        ask(*before, "--greedy")
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    with pytest.raises(ValueError, match="lacks 1 of 3 questions of reasoned"):
        ask(*before)


def test_the_published_way_has_the_most_likely_answer_first(ask, critic, engine):
    report = ask("--critic", "prm", "--first-greedy", "--temperature", "0.6", "--top-p", "0.95")
    assert sorted(engine) == [(0.0, 0.95, 1), (0.6, 0.95, 2)]
    found = report["best_of"]["reasoned"]
    assert found["first_greedy"] and found["over"][0]["best"]["percent"] == 50  # of one: the most likely
    assert found["over"][0]["any"]["percent"] == found["over"][0]["majority"]["percent"] == 50
    assert report["settings"]["top_p"] == 0.95 and "reasoned_greedy" in report


def test_an_answer_without_text_is_counted_and_chosen_last(ask, critic, monkeypatch):
    monkeypatch.setitem(globals(), "SAMPLED", [["", " ", RIGHT], ["", "", ""]])
    found = ask("--critic", "prm")["best_of"]["reasoned"]
    assert found["unscored"] == 5 and found["over"][-1]["best"]["percent"] == 50
    assert len(critic.shown) == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--critic", "prm", "--samples", "1"], "--critic prm chooses among several answers: --samples 1"),
        (["--critic", "prm", "--samples", "1", "--temperature", "0"], "take --samples 8 --temperature 1"),
        (["--first-greedy", "--samples", "1"], "--first-greedy with --samples 1"),
    ],
)
def test_what_leaves_nothing_to_choose_is_refused(ask, critic, flags, reason):
    with pytest.raises(ValueError, match=reason):
        ask(*flags)


def test_a_critic_without_answers_is_refused(critic):
    with pytest.raises(ValueError, match="--critic prm chooses among answers to --reasoned"):
        flags = "--checkpoint c --pairs p --critic prm --samples 2 --temperature 1"
        evaluate(parse_arguments(flags.split()))


def test_a_critic_of_another_kind_or_none_is_refused_before_anything_is_asked(ask, engine, tmp_path, golden_folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ask("--critic", tmp_path / "nowhere")
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="llama"):
        ask("--critic", tmp_path / "llama")
    other = shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "other")
    fields = json.loads((other / "config.json").read_text())
    for change, reason in OF_ANOTHER_FORMAT.items():
        (other / "config.json").write_text(json.dumps(fields | json.loads(change)))
        with pytest.raises(ValueError, match=f"{other}: .*{reason}"):
            ask("--critic", other)
    assert not engine


OF_ANOTHER_FORMAT = {  # fields of its config.json -> what is said of it
    '{"template": "vicuna"}': "no critic of steps: unknown chat template 'vicuna'",
    '{"critic": {"layout": "x"}}': "critic is .'layout': 'x'.; it must have the text 'system_message'",
    '{"critic": "yes"}': "critic is 'yes'; it must have",
}


def test_the_table_and_the_picture_tell_how_answers_were_chosen(ask, critic):
    report = ask("--critic", "prm", "--greedy")
    text = table(report)
    assert "one of n answers chosen by prm, mean of its steps" in text and "best by critic" in text
    assert ["3", "33.33", "50.00", "100.00", "50.00", "100.00"] in [line.split() for line in text.splitlines()]
    assert "reasoned, best against majority of 3: no difference is shown (+50.00 points" in text
    panels = plot_accuracies(report).axes
    assert [axes.get_ylabel() for axes in panels[1:]] == ["reasoned: right, %"]
    assert list(panels[1].lines[2].get_ydata()) == [33.33, 66.67, 100.0]
