"""What is learned of a step, by hand: judgements, thresholds, soft targets."""

import pytest

from internvl_chat.records.judged import JudgedRow
from internvl_chat.records.rows import RecordError, Source
from internvl_chat.records.step_targets import Marks, StepTargets
from tests.critic.judged_rows import judged_row

WHERE = Source("steps.jsonl", 3)
STEPS = [("a", 1.0), ("b", 0.5), ("c", 0.125), ("d", None), ("e", 0.0), ("f", 0.75)]
ROW = JudgedRow.from_row(judged_row("Q?", *STEPS), WHERE)
NO, YES = False, True


@pytest.mark.parametrize(
    ("thresholds", "words", "measured"),
    [
        (None, "++++-+", [YES, YES, YES, NO, YES, YES]),
        ("0", "++++-+", [YES, YES, YES, NO, YES, YES]),
        ("0.5", "+--+-+", [YES, YES, YES, NO, YES, YES]),
        ("0.125,0.75", "++-+-+", [YES, NO, YES, NO, YES, YES]),
        ("0.1,0.9", "++++-+", [YES, NO, NO, NO, YES, NO]),
    ],
)
def test_thresholds(thresholds, words, measured):
    marks = StepTargets.parse(thresholds).marks(ROW, WHERE)
    assert marks.words == tuple(words) and list(marks.measured) == measured
    assert [target for target, known in zip(marks.targets, measured, strict=True) if known] == [
        float(word == "+") for word, known in zip(words, measured, strict=True) if known
    ]


def test_soft_targets_are_the_scores_and_leave_the_words_as_they_are():
    marks = StepTargets.parse(None, soft=True).marks(ROW, WHERE)
    assert marks.targets[:3] == (1.0, 0.5, 0.125) and marks.targets[4:] == (0.0, 0.75)
    assert marks.words == tuple("++++-+")
    sure = StepTargets.parse("0.125,0.75", soft=True).marks(ROW, WHERE)
    assert sure.targets[2] == 0.125 and not sure.measured[1]


def test_marks_are_counted_and_cut():
    marks = StepTargets.parse("0.1,0.9").marks(ROW, WHERE)
    assert marks.counts() == (1, 1, 4, 0) and marks.last_measured == 5
    assert marks.first(2) == Marks(("+", "+"), (True, False), marks.targets[:2])
    nothing = StepTargets.parse("0.1,0.9").marks(JudgedRow.from_row(judged_row("Q?", ("a", 0.5)), WHERE), WHERE)
    assert nothing.counts() == (0, 0, 1, 1) and nothing.last_measured == 0


@pytest.mark.parametrize("flags", [("0.5", False), (None, True)])
def test_rows_without_scores_are_refused_where_scores_are_asked_for(flags):
    published = judged_row("Q?", ("a", 1.0))
    del published["scores"]
    row = JudgedRow.from_row(published, WHERE)
    with pytest.raises(RecordError, match=r"'scores' is missing, --step_t\w+.* visualprm_build.sh"):
        StepTargets.parse(flags[0], soft=flags[1]).marks(row, WHERE)
    assert StepTargets().marks(row, WHERE).words == ("+",)


@pytest.mark.parametrize("thresholds", ["1.5", "0.5,0.25", "0.5,0.5", "0,0.5,1", "-0.1", "nan"])
def test_thresholds_that_tell_nothing_apart_are_refused(thresholds):
    with pytest.raises(ValueError, match="--step_thresholds .*: give one score in 0..1"):
        StepTargets.parse(thresholds)
    with pytest.raises(ValueError, match="half: write one number"):
        StepTargets.parse("half")
