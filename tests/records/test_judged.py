"""Rows of judged steps: what is read, and what is refused with its cure."""

import pytest

from internvl_chat.model.critic_turns import step_turns
from internvl_chat.records.judged import JudgedRow, asked_of, is_judged
from internvl_chat.records.rows import PreferencePair, RecordError, Source
from tests.critic.judged_rows import judged_row

WHERE = Source("steps.jsonl", 7)
ROW = judged_row("Q?", ("one", 1.0), ("two", None), ("three", 0.0), image="a.png")


def turns(*values):
    """Turns of human and gpt in turn, without a system message."""
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def test_a_row_is_read_whole():
    row = JudgedRow.from_row(ROW, WHERE)
    assert row.image == ("a.png",) and row.system.startswith("You are an advanced AI assistant")
    assert row.steps == tuple(step_turns("Q?", ["one", "two", "three"]))
    assert row.judgements == ("+", "", "-") and row.scores == (1.0, None, 0.0)


def test_published_rows_have_no_scores_and_need_no_system_message():
    row = JudgedRow.from_row({"id": -1, "conversations": turns("q", "+", "s", "-\n")}, WHERE)
    assert (row.image, row.system, row.judgements, row.scores) == ((), None, ("+", "-"), None)


def test_null_is_no_judgement():
    assert JudgedRow.from_row({"conversations": turns("q", None, "s", "+")}, WHERE).judgements == ("", "+")


def test_reading_leaves_a_row_as_it_was():
    before = repr(ROW)
    JudgedRow.from_row(ROW, WHERE)
    assert repr(ROW) == before


FAULTS = {
    "no judgement at the end": (turns("q", "+", "s"), "turn_order", "2 steps .human. and 1 judgements .gpt."),
    "two judgements": (turns("q", "+") + turns("", "-")[1:], "turn_order", "1 steps .human. and 2 judgements"),
    "a judgement first": (turns("q", "+")[::-1], "turn_order", "human, gpt, human, gpt"),
    "only a system message": ([{"from": "system", "value": "s"}], "turn_order", "0 steps"),
    "another word": (turns("q", "Good"), "other_judgement", "step 1 is judged 'Good': write . or -, or nothing"),
    "a later step without text": (turns("q", "+", " \n", "+"), "empty_step", "step 2 has no text"),
    "a first step without text": (turns(step_turns("Q?", [" "])[0], "+"), "empty_step", "step 1 has no text"),
    "nothing measured": (turns("q", "", "s", None), "nothing_measured", "no step of this row is measured"),
    "no turns": ([], "missing_field", "'conversations' must list the turns"),
    "a text": ("q + s -", "missing_field", "'conversations' must list the turns"),
    "a turn that is a text": (["q", "+"], "wrong_type", "turn 0 must be"),
    "a step that is a number": (turns(4, "+"), "wrong_type", "turn 0 has 4 for a text"),
}


@pytest.mark.parametrize(("conversation", "fault", "words"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_trained_on_is_refused_by_file_line_and_cure(conversation, fault, words):
    with pytest.raises(RecordError, match=words) as error:
        JudgedRow.from_row({"conversations": conversation}, WHERE)
    assert (error.value.file, error.value.line, error.value.fault) == ("steps.jsonl", 7, fault)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([1.0, None], "a score for each of the 3 steps, it has 2"),
        ([1.0, 0.5, 0.0], "score of step 2, judged '', must be in 0..1, null where not measured: 0.5"),
        ([None, None, 0.0], "score of step 1, judged '\\+'"),
        ([1.5, None, 0.0], "score of step 1.*: 1.5"),
        ([True, None, 0.0], "score of step 1.*: True"),
        ("1", "it has '1'"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, words):
    with pytest.raises(RecordError, match=words) as error:
        JudgedRow.from_row({**ROW, "scores": scores}, WHERE)
    assert error.value.fault == "wrong_scores"


def test_rows_of_one_training_given_to_the_other_say_which_flag_they_want():
    pair = {"question": "q", "chosen": "a", "rejected": "b"}
    with pytest.raises(RecordError, match="pairs are trained on without --loss_type prm"):
        JudgedRow.from_row(pair, WHERE)
    with pytest.raises(RecordError, match="judged steps train with --loss_type prm"):
        PreferencePair.from_row(ROW, WHERE)
    assert is_judged(ROW) and not is_judged(pair)


def test_what_a_row_asks_is_its_question_or_the_head_of_its_first_turn():
    assert asked_of({"question": "Q?"}) == "Q?"
    assert asked_of(ROW) == "### Question:\nQ?"
    assert asked_of({"conversations": ["broken"]}) is None
