"""The row formats: what is accepted, what is refused with which words, and that a row comes back as it was."""

import json
import math
import pickle
from pathlib import Path

import pytest

from internvl_chat.records.rows import (
    PreferencePair,
    Prompt,
    RecordError,
    SampledResponse,
    Source,
    is_blank,
    parse_row,
    shown,
)

HERE = Path(__file__).parents[1]
AT = Source("pairs.jsonl", 7)
PAIR = {"question": "q", "chosen": "c", "rejected": "r"}


def rows(path):
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        yield parse_row(line, path.name, number), Source(path.name, number)


@pytest.mark.parametrize("name", ["mmpr_en.jsonl", "mmpr_zh.jsonl"])
def test_golden_pairs_come_back_as_they_were(name):
    for row, where in rows(HERE / "golden/data" / name):
        assert PreferencePair.from_row(row, where).to_row() == row


def test_sampled_responses_come_back_as_they_were():
    files = sorted((HERE / "answers/pairs/sampled").glob("*.jsonl"))
    records = [(SampledResponse.from_row(row, where), row) for path in files for row, where in rows(path)]
    assert len(records) > 100
    assert all(record.to_row() == row for record, row in records)


@pytest.mark.parametrize(
    ("image", "paths"),
    [("a.png", ("a.png",)), (["a.png"], ("a.png",)), (["a", "b"], ("a", "b")), (None, ()), ("", ()), ([], ())],
)
def test_image_keeps_its_form(image, paths):
    pair = PreferencePair.from_row({**PAIR, "image": image}, AT)
    assert pair.image == paths
    assert pair.to_row() == {**PAIR, "image": image}


def test_absent_image_stays_absent_and_unknown_keys_stay():
    row = {**PAIR, "id": 3, "meta": {"a": [1, None]}}
    pair = PreferencePair.from_row(row, AT)
    assert pair.image == () and pair.extra == {"id": 3, "meta": {"a": [1, None]}}
    assert pair.to_row() == row


def test_new_records_write_the_plainest_form():
    assert PreferencePair(("a.png",), "q", "c", "r").to_row() == {"image": "a.png", **PAIR}
    assert PreferencePair(("a", "b"), "q", "c", "r").to_row()["image"] == ["a", "b"]
    assert "image" not in PreferencePair((), "q", "c", "r").to_row()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "chosen": "c"}, "'rejected' is missing"),
        ({**PAIR, "rejected": None}, "'rejected' must be a string, not NoneType"),
        ({**PAIR, "chosen": 3}, "'chosen' must be a string, not int: 3"),
        ({**PAIR, "question": ["q"]}, "'question' must be a string, not list"),
        ({**PAIR, "question": " \n"}, "'question' is empty"),
        ({**PAIR, "image": 5}, "'image' must be a string, a list of strings or null, not int: 5"),
        ({**PAIR, "image": {"path": "a"}}, "not dict"),
        ({**PAIR, "image": ["a", 1]}, "non-empty strings, not 1"),
        ({**PAIR, "image": ["a", ""]}, "non-empty strings, not ''"),
        ({**PAIR, "video": ["v.mp4"]}, "'video' must be one path, not ['v.mp4']"),
        ({**PAIR, "video": "v.mp4", "image": "a.png"}, "images or a video, not both"),
        ({**PAIR, "video": "v.mp4", "clip": 3}, "'clip' must be [start, end] in seconds, not 3"),
        ({**PAIR, "video": "v.mp4", "clip": [2, 1]}, "0 <= start < end, not [2, 1]"),
        ({**PAIR, "history": "Hi"}, "'history' must list [question, answer] pairs of texts, not 'Hi'"),
        ({**PAIR, "history": [["q", ""]]}, "'history' must list"),
        ({**PAIR, "history": [["q", "a", "b"]]}, "'history' must list"),
    ],
)
def test_bad_pairs_say_what_is_wrong(row, reason):
    with pytest.raises(RecordError) as raised:
        PreferencePair.from_row(row, AT)
    assert reason in raised.value.reason
    assert str(raised.value).startswith("pairs.jsonl:7: ")


def test_a_pair_may_have_a_video_a_prompt_for_an_engine_not():
    row = {**PAIR, "video": "v.mp4", "clip": [1, 2.5]}
    pair = PreferencePair.from_row(row, AT)
    assert pair.video == ("v.mp4", (1.0, 2.5)) and pair.image == () and pair.to_row() == row
    assert PreferencePair.from_row({**PAIR, "video": ""}, AT).video is None
    with pytest.raises(RecordError, match="videos are read in training, not shown to a sampling engine"):
        Prompt.from_row({"question": "q", "answer": 1, "video": "v.mp4"}, AT)


def test_a_pair_may_have_earlier_turns_a_prompt_for_an_engine_not():
    row = {**PAIR, "history": [["Hi", "Hello"], ["Well?", "Yes"]]}
    pair = PreferencePair.from_row(row, AT)
    assert pair.history == (("Hi", "Hello"), ("Well?", "Yes")) and pair.to_row() == row
    assert pair.conversation == f"Hi\nHello\nWell?\nYes\n{PAIR['question']}"
    with pytest.raises(RecordError, match="earlier turns are read in training"):
        Prompt.from_row({"question": "q", "answer": 1, "history": [["a", "b"]]}, AT)


def test_rejected_may_be_missing_only_where_allowed():
    for row in ({**PAIR, "rejected": None}, {"question": "q", "chosen": "c"}):
        pair = PreferencePair.from_row(row, AT, allow_no_rejected=True)
        assert pair.rejected is None and pair.to_row()["rejected"] is None
    with pytest.raises(RecordError, match="not int"):
        PreferencePair.from_row({**PAIR, "rejected": 0}, AT, allow_no_rejected=True)


@pytest.mark.parametrize("answer", ["3", 3, 2.5, False, ["a", "b"], ""])
def test_prompt_answers_of_any_plain_type(answer):
    row = {"image": "a.png", "question": "q", "answer": answer, "source": "x"}
    assert Prompt.from_row(row, AT).answer == answer
    assert Prompt.from_row(row, AT).to_row() == row


def test_prompt_without_answer():
    row = {"question": "q", "rejected": None}
    with pytest.raises(RecordError, match="'answer' is missing"):
        Prompt.from_row(row, AT)
    assert Prompt.from_row(row, AT, allow_no_answer=True).to_row() == row
    with pytest.raises(RecordError, match="not an object"):
        Prompt.from_row({"question": "q", "answer": {"a": 1}}, AT)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1,}', "trailing comma at column 8"),
        (b'{"a": 1},\n', "trailing comma"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": NaN, "b": "\\ud83d"}', "not a JSON row"),
        (b'{"a": NaN,}', "not a JSON row"),
        (b'{"a": nan}', "not a JSON row"),
        (b'{"a": NaN, "a": 1}', "names given twice: ['a']"),
        (b"{'a': 1}", "single quotes"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b"[1]", "a row is a JSON object {...}, this line holds a list: [1]"),
        (b'{"a": 1', "not a JSON row"),
        (b"", "not a JSON row"),
        (b"[" * 5000, "depth limit"),
        (b'{"a": 1, "b": 2, "a": 3}', "names given twice: ['a']; keep one of each"),
    ],
)
def test_lines_that_are_no_rows(line, reason):
    with pytest.raises(RecordError) as raised:
        parse_row(line, "x.jsonl", 3)
    assert reason in raised.value.reason
    assert (raised.value.file, raised.value.line) == ("x.jsonl", 3)


def test_nan_in_a_field_that_nobody_reads_costs_nothing():
    """Python's json.dumps writes NaN, pandas makes it of empty cells."""
    row = parse_row(b'{"question": "q", "chosen": "c", "rejected": "r", "score": NaN, "more": [-Infinity]}', *AT)
    pair = PreferencePair.from_row(row, AT)
    assert pair.chosen == "c" and math.isnan(pair.extra["score"]) and pair.extra["more"] == [-math.inf]


@pytest.mark.parametrize("field", ["image", "question", "chosen", "rejected", "video", "history", "clip", "images"])
def test_nan_in_a_field_that_is_read_is_no_value(field):
    line = json.dumps({**PAIR, **({"video": "v.mp4"} if field == "clip" else {}), field: math.nan}).encode()
    if field == "images":  # as pandas writes a row without pictures
        assert PreferencePair.from_row(parse_row(line, *AT), AT).image == ()
        return
    with pytest.raises(RecordError, match=f"'{field}' must .*nan"):
        PreferencePair.from_row(parse_row(line, *AT), AT)
    with pytest.raises(RecordError, match="'answer' must be a value to compare with, not nan"):
        Prompt.from_row({"question": "q", "answer": math.nan}, AT)


def test_names_are_checked_in_time_however_many_there_are():
    many = ", ".join(f'"key {number}": {number}' for number in range(200_000))
    assert len(parse_row(f"{{{many}}}".encode(), "x", 1)) == 200_000
    with pytest.raises(RecordError, match="names given twice: .'key 7'"):
        parse_row(f'{{{many}, "key 7": 0}}'.encode(), "x", 1)


def test_a_name_may_stand_again_inside_a_field_and_as_a_value():
    row = {"a": {"a": 1, "b": "a"}, "b": ["b"], "c": '{"a": 1, "a": 2}'}
    assert parse_row(json.dumps(row).encode(), "x", 1) == row


def test_surrogate_pairs_and_line_ends_are_fine():
    assert parse_row(b'{"a": "\\ud83d\\ude00"}\r\n', "x", 1) == {"a": "\U0001f600"}


def test_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(RecordError("f", 2, "why")))
    assert (str(error), error.line, error.fault) == ("f:2: why", 2, "unusable_row")


def test_shown_is_bounded():
    assert shown("x" * 500) == "'" + "x" * 79 + "... (502 characters)"


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\ufeff \u200d\u00a0", "\u3000", "\x00"])
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text) and not is_blank(f"{text}.{text}") and not is_blank(f"好{text}")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "c", "rejected": "r"},
        {"conversations": [], "chosen": {"from": "gpt", "value": "c"}, "rejected": {"from": "gpt", "value": "r"}},
        {"messages": [], "rejected_response": "r"},
        {"messages": [], "rejected_messages": []},
        {"input": {}, "preferred_output": [], "non_preferred_output": []},
    ],
)
def test_a_row_of_another_trainer_is_refused_with_the_command_that_reads_it(row):
    with pytest.raises(RecordError, match="mpo import --rows FILE --out DIR"):
        PreferencePair.from_row(row, AT)


def test_a_row_that_lacks_an_answer_is_not_taken_for_another_trainer_s():
    with pytest.raises(RecordError) as raised:
        PreferencePair.from_row({"question": "q", "rejected": "r"}, AT)
    assert "mpo import" not in str(raised.value)
