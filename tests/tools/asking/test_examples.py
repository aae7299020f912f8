"""Examples of the demo: which questions of an evaluation or of rows are offered, how they are asked and judged."""

import json

import pytest
from PIL import Image

from internvl_chat.records.rows import RecordError, Source
from tools.asking.examples import MAX_EXAMPLES, read_examples, views
from tools.asking.turns import AskedTurn
from tools.reasoning_data_pipeline.prompts.wording import REASONING, VERSIONS, ask, unasked

WHERE = Source("a", 1)


def row(key, before, after, question="How many?", **more):
    return {
        "way": "reasoned",
        "key": key,
        "images": ["a.png"],
        "question": ask(f"{key}: {question}", 1, version="en", where=WHERE),
        "answer": "4",
        "responses": ["x"],
        "outcomes": [after],
        "before": {"responses": ["y"], "outcomes": [before]},
        **more,
    }


@pytest.fixture
def write(tmp_path):
    """Function from rows to the path of their file, beside a picture."""
    Image.new("RGB", (80, 56), "red").save(tmp_path / "a.png")

    def written(rows, name="x.answers.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
        return tmp_path / name

    return written


def test_gains_and_losses_of_an_evaluation_take_turns(write):
    outcomes = {"a": "wc", "b": "wc", "c": "cc", "d": "cw", "e": "ww", "f": "wc"}
    names = {"w": "wrong", "c": "correct"}
    file = write([row(key, names[before], names[after]) for key, (before, after) in outcomes.items()])
    for path in (file, file.with_name("x.json")):
        found = read_examples(path, "zh")
        assert found.told.startswith("Listed are 4 of 4 of 6 questions that")
        shown = [(one["question"], one["version"], one["kind"], one["gold"]) for one in views(found.listed)]
        assert shown == [
            ("a: How many?", "en", "became right", "4"),
            ("d: How many?", "en", "no longer right", "4"),
            ("b: How many?", "en", "became right", "4"),
            ("f: How many?", "en", "became right", "4"),
        ]


def test_all_are_listed_where_none_changed_up_to_a_bound(write):
    file = write([row(str(key), "wrong", "wrong") for key in range(MAX_EXAMPLES + 3)])
    found = read_examples(file, "en")
    assert len(found.listed) == MAX_EXAMPLES
    assert found.told == f"Listed are {MAX_EXAMPLES} of {MAX_EXAMPLES + 3} questions of an evaluation, " + (
        "none of them known to be answered differently."
    )


def test_rows_of_prompts_are_put_as_the_page_does(write):
    rows = [
        {"image": "a.png", "question": "<image>\nWhich?", "choices": ["red", "blue"], "answer": "red"},
        {"image": ["a.png", "a.png"], "question": "<image> or <image>, which is so?", "answer": True},
        {"question": "2 + 2?", "answer": 4},
    ]
    found = read_examples(write(rows, "rows.jsonl"), "zh_v2")
    shown = [(one["question"], one["version"], one["images"]) for one in views(found.listed)]
    assert shown == [
        ("Which?\nA. red\nB. blue", "zh_v2", 1),
        ("<image>\nor <image>, which is so?", "zh_v2", 2),
        ("2 + 2?", "zh_v2", 0),
    ]


def test_answers_are_judged_by_the_version_asked_in(write):
    [example] = read_examples(write([row("a", "wrong", "correct")]), "en").listed
    answers = [
        "Two and two make four, as one sees.\n\nFinal answer: 4",
        "Three of them, I would say.\n\nFinal answer: 3",
    ]
    turn = AskedTurn("a: How many?", "en", "", (), ())
    assert example.verdicts(turn, answers) == ["correct", "wrong"]
    as_typed = AskedTurn("a: How many?", "as typed", "", (), ())
    assert example.verdicts(as_typed, ["4", "5"]) == ["correct", "wrong"]
    assert example.verdicts(AskedTurn("How many boxes?", "en", "", (), ()), answers) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("style", REASONING)
def test_a_question_is_found_again_in_the_words_it_was_put_in(version, style):
    text = ask("How many {x}?", 0, version=version, style=style, where=WHERE)
    assert unasked(text) == ("How many {x}?", version)
    assert unasked("How many?") == ("How many?", None)


def test_a_file_that_holds_no_examples(write, tmp_path):
    with pytest.raises(ValueError, match="no rows; --examples names"):
        read_examples(write([], "none.jsonl"), "en")
    with pytest.raises(FileNotFoundError):
        read_examples(tmp_path / "absent.json", "en")
    broken = row("a", "wrong", "correct")
    del broken["key"]
    with pytest.raises(RecordError, match=r"x.answers.jsonl:1: no row of an evaluation's answers: KeyError\('key'\)"):
        read_examples(write([broken]), "en")
