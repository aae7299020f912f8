"""Files of rows by their first bytes and fields: entries with their numbers, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from internvl_chat.records.rows import RecordError, Source
from tools.importing.sources import NO_PICTURE, as_row, open_file

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
LINE = json.dumps(PAIR).encode()


@pytest.fixture
def opened(tmp_path):
    """Function from bytes to the file of rows that they are."""

    def write(content, name="rows.json"):
        (tmp_path / name).write_bytes(content)
        return open_file(tmp_path / name, is_table=False)

    return write


def read(file):
    return [(number, as_row(entry, Source("f", number))) for number, entry in file.entries()]


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        (LINE + b"\n\n" + LINE, [1, 3]),
        (LINE + b"\r\n" + LINE + b"\r\n", [1, 2]),
        (b"\xef\xbb\xbf" + LINE, [1]),
        (b"[" + LINE + b",\n" + LINE + b"]", [1, 2]),
        (b"\xef\xbb\xbf \n[" + LINE + b"]\n", [1]),
        (json.dumps([PAIR], indent=2).encode(), [1]),
    ],
    ids=["lines", "crlf", "mark", "list", "list_mark", "indented_list"],
)
def test_rows_come_with_their_numbers(opened, content, numbers):
    file = opened(content)
    assert file.layout.name == "TRL" and file.total is None
    assert read(file) == [(number, PAIR) for number in numbers]


def test_a_table_comes_without_nulls_but_for_a_lacking_picture(tmp_path):
    rows = [{**PAIR, "image": b"a", "score": None}, {**PAIR, "image": None, "score": 1.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    file = open_file(tmp_path / "a.parquet", is_table=True)
    assert (file.layout.name, file.total) == ("TRL", 2)
    assert read(file) == [(1, {**PAIR, "image": b"a"}), (2, {**PAIR, "image": NO_PICTURE, "score": 1.0})]


def test_the_layout_is_that_of_the_first_row_that_is_one(opened):
    file = opened(b"no row\n[1]\n" + LINE)
    assert file.layout.name == "TRL"
    entries = dict(file.entries())
    for number in (1, 2):
        with pytest.raises(RecordError):
            as_row(entries[number], Source("f", number))


def test_a_file_without_rows_has_no_layout(opened):
    assert opened(b"").layout is None and opened(b"[]").layout is None


@pytest.mark.parametrize("entry", [3, "text", [PAIR], None])
def test_what_is_no_object_is_no_row(entry):
    with pytest.raises(RecordError, match=r"f:7: a row is a JSON object"):
        as_row(entry, Source("f", 7))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}', "rows.json: row 1: no known layout: the fields are text;"),
        (b'[3, {"text": "a"}]', "rows.json: row 2: no known layout: the fields are text;"),
        (b'[{"prompt": "a"},]', "rows.json: cannot be read as JSON"),
        (b'{\n "prompt": "a"\n}', "JSON over several lines"),
        (b"PAR1", "--parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html><html>", "a web page"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_cure(opened, content, words):
    with pytest.raises(ValueError) as raised:
        opened(content)
    assert "rows.json: " in str(raised.value) and words in str(raised.value)
