"""Step splitting, Monte-Carlo scores, PRM and ORM conversations, step pairs, DropoutNTP prefixes."""

import json
from pathlib import Path

import pytest

from internvl_chat.records.rows import RecordError, Source
from tools.reasoning_data_pipeline.answers.steps import ScoredStep, answer_prefix, score_steps, split_steps
from tools.reasoning_data_pipeline.pairs.steps import (
    StepPair,
    orm_conversation,
    outcome_label,
    prm_conversation,
    step_pairs,
)

CASES = Path(__file__).parents[3] / "answers" / "pairs"
WHERE = Source("rows.jsonl", 1)


def cases(name):
    return [pytest.param(case, id=case["id"]) for case in map(json.loads, (CASES / name).open())]


def scored(*scores, names="abcdefgh", total=16):
    """Steps a, b, ... with these scores; None for one that was not measured."""
    return [
        ScoredStep(names[i]) if score is None else ScoredStep(names[i], score, round(score * total), total)
        for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize("case", cases("split_response.jsonl"))
def test_split_steps_meets_the_reference(case):
    if case["error"]:
        with pytest.raises(ValueError, match="max_steps must be at least 1, not 0"):
            split_steps(case["response"], case["max_steps"])
    else:
        steps = split_steps(case["response"], case["max_steps"])
        assert steps == case["steps"] and "\n\n".join(steps) == case["response"]


@pytest.mark.parametrize("case", cases("mc_scores.jsonl"))
def test_scores_meet_the_reference_one_batch_per_level(case):
    asked = []

    def count_correct(batch):
        asked.append([prefix.text for prefix in batch])
        return [(case["mc_correct_per_step"][p.response][p.step], case["num_mc_sequences"]) for p in batch]

    responses = [split_steps(text, case["max_steps"]) for text in case["responses"]]
    steps = score_steps(responses, count_correct, early_stop=case["early_stop"])
    assert [[step.to_row() for step in answer] for answer in steps] == case["steps_with_score"]
    assert asked == case["generated_prefixes"]
    assert sum(map(len, asked)) * case["num_mc_sequences"] == case["num_generations"]


def test_a_level_that_nothing_judged_neither_scores_nor_stops():
    tallies = iter([(0, 0), (3, 4)])
    steps = score_steps([["a", "b"]], lambda batch: [next(tallies)], early_stop=True)
    assert [(s.measured, s.score) for s in steps[0]] == [(False, 0.0), (True, 0.75)]


def test_an_engine_that_returns_too_few_counts_is_noticed():
    with pytest.raises(ValueError, match="shorter"):
        score_steps([["a"], ["b"]], lambda batch: [(1, 1)], early_stop=False)


def test_no_answers_need_no_engine():
    assert score_steps([], lambda batch: pytest.fail("called"), early_stop=True) == []


# pc014 holds steps with num_mc_total 0. The original labels them '+' or '-' by their padded score; a step that was
# not measured has no label here.
UNMEASURED = {"pc014"}


@pytest.mark.parametrize("case", cases("prm_conversations.jsonl"))
def test_conversations_meet_the_reference(case):
    item, threshold = case["item"], case["mc_threshold"]
    steps = [ScoredStep.from_row(step, WHERE) for step in item["steps_with_score"]]
    prm = prm_conversation(item, steps, threshold=threshold, early_stop=case["early_stop"])
    orm = orm_conversation(item, steps, threshold=threshold)
    if case["id"] in UNMEASURED:
        assert prm is None and orm is None
    else:
        assert prm == case["prm"] and orm == case["orm"]


def test_a_conversation_ends_before_the_first_unmeasured_step():
    row = {"question": "Q?", "image": ""}
    conversation = prm_conversation(row, scored(1.0, 0.5, None, None), threshold=0.0, early_stop=False)
    assert [turn["value"] for turn in conversation["conversations"][2::2]] == ["+", "+"]
    assert "image" not in conversation


@pytest.mark.parametrize(
    ("scores", "label"),
    [((1.0, 0.5), "+"), ((1.0, 0.0), "-"), ((1.0, 0.0, None), "-"), ((1.0, 0.5, None), None), ((None,), None)],
)
def test_an_answer_cut_by_early_stopping_is_judged_by_the_step_that_stopped_it(scores, label):
    assert outcome_label(scored(*scores), 0.0) == label


def test_labels_compare_with_the_threshold_strictly():
    assert [step.label(0.5) for step in scored(0.5, 0.75, None)] == ["-", "+", None]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "must be an object"),
        ({"step": 1}, "string 'step'"),
        ({"step": "a", "score": 1.5, "num_mc_correct": 1, "num_mc_total": 1}, "0..1, not 1.5"),
        ({"step": "a", "score": None, "num_mc_correct": 1, "num_mc_total": 1}, "0..1, not None"),
        ({"step": "a", "score": 1.0, "num_mc_correct": 2, "num_mc_total": 1}, "not 2 and 1"),
        ({"step": "a", "score": 1.0, "num_mc_correct": 1}, "not 1 and None"),
    ],
)
def test_bad_steps_are_named(row, reason):
    with pytest.raises(RecordError, match=reason):
        ScoredStep.from_row(row, WHERE)


def test_step_rows_survive_a_round_trip():
    row = {"step": "a", "score": 0.25, "num_mc_correct": 4, "num_mc_total": 16}
    assert ScoredStep.from_row(row, WHERE).to_row() == row


def test_pairs_stand_at_the_first_step_that_differs():
    good = scored(1.0, 0.75, 1.0, names="abc")
    bad = scored(1.0, 0.25, 0.0, names="axy")
    assert list(step_pairs([bad, good])) == [StepPair(1, 0, 1, 0.75, 0.25)]


def test_equal_scores_at_the_fork_make_no_pair_even_where_later_steps_differ():
    first, second = scored(0.5, 1.0, names="ab"), scored(0.5, 0.25, names="xy")
    assert list(step_pairs([first, second])) == []


def test_an_answer_that_ends_wrong_is_never_chosen():
    promising, wrong = scored(0.75, 0.0, names="ab"), scored(0.25, 0.0, names="xy")
    assert list(step_pairs([promising, wrong])) == []


def test_gaps_prefixes_and_unmeasured_steps_make_no_pair():
    good = scored(1.0, 1.0, names="ab")
    assert list(step_pairs([good, scored(0.75, 0.5, names="xy")], min_gap=0.25)) == []
    assert list(step_pairs([good, good[:1]])) == []
    assert list(step_pairs([good, scored(None, names="x")])) == []
    assert list(step_pairs([good, []])) == []


@pytest.mark.parametrize("case", cases("dropout_ntp_prefix.jsonl"))
def test_english_prefixes_meet_the_reference(case):
    assert answer_prefix(case["chosen"], case["start_ratio"]) == case["prefix"]


@pytest.mark.parametrize(
    ("answer", "ratio", "prefix"),
    [
        ("先看图。面积是六。", 0.5, "先看图。"),  # 9 characters, 4 kept
        ("あいうえお", 0.6, "あいう"),
        ("か\u3099き\u3099く", 0.34, "か\u3099"),  # a mark stays with its character
        ("ภาษาไทย", 0.5, "ภาษ"),
        ("底是 base 4。", 0.6, "底是 base"),  # 底 是 base 4 。
        ("one\n\ntwo three", 0.4, "one"),
        ("one\n\ntwo three", 0.7, "one\n\ntwo"),
        ("", 0.5, ""),
        (" padded ", 1.0, " padded "),
        ("word", 0.99, ""),
    ],
)
def test_prefixes_of_other_scripts_and_layouts(answer, ratio, prefix):
    assert answer_prefix(answer, ratio) == prefix


def test_a_prefix_is_always_a_prefix_and_grows_with_the_ratio():
    answer = "Look.\n\n先看图 5: x = 3,\tso  y=4. 答案：4 "
    prefixes = [answer_prefix(answer, ratio / 20) for ratio in range(21)]
    assert all(answer.startswith(prefix) for prefix in prefixes)
    assert sorted(prefixes, key=len) == prefixes and prefixes[-1] == answer


def test_ratios_outside_0_to_1_are_refused():
    with pytest.raises(ValueError, match="not 1.5"):
        answer_prefix("a b", 1.5)
