"""Pairs in the layout of RLAIF-V: columns of texts, pictures inside the table."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from internvl_chat.data.dataset import MixtureDataset
from tools.import_pairs import main


def picture(colour, kind="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, kind)
    return content.getvalue()


def row(image, **changes):
    fields = {"question": "What is it?", "chosen": "A square.", "rejected": "A circle.", "origin_dataset": "COCO"}
    return {"ds_name": "RLAIF-V", "image": {"bytes": image, "path": "any.jpg"}, **fields, "idx": 7, **changes}


@pytest.fixture
def imported(tmp_path):
    """Function from rows to the exit status, the pairs and the rejects."""

    def run(*rows):
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "part.parquet")
        status = main(["--parquet", str(tmp_path / "part.parquet"), "--out", str(tmp_path / "out")])
        read = [(tmp_path / "out" / name).read_text().splitlines() for name in ("pairs.jsonl", "rejects.jsonl")]
        return status, *[[json.loads(line) for line in lines] for lines in read]

    return run


def test_pictures_become_files_and_rows_keep_their_columns(imported, tmp_path):
    red, blue = picture("red"), picture("blue", "JPEG")
    status, pairs, rejects = imported(row(red), row(blue, chosen="Blue."), row(red, rejected="A dog."))
    assert (status, rejects) == (0, [])
    assert [pair["chosen"] for pair in pairs] == ["A square.", "Blue.", "A square."]
    assert pairs[0]["image"] == pairs[2]["image"] != pairs[1]["image"]
    assert {name: pairs[0][name] for name in ("ds_name", "origin_dataset", "idx")} == {
        "ds_name": "RLAIF-V",
        "origin_dataset": "COCO",
        "idx": 7,
    }
    images = tmp_path / "out" / "images"
    assert (images / pairs[0]["image"]).read_bytes() == red
    assert sorted(path.suffix for path in images.rglob("*.*")) == [".jpeg", ".png"]


def test_what_was_imported_trains(imported, tmp_path, tokenizer):
    imported(row(picture("red")))
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "cache_dir": tmp_path / "cache"}
    dataset = MixtureDataset(tmp_path / "out" / "meta.json", tokenizer, **options)
    assert len(dataset) == 1 and len(dataset[0]["pixel_values"]) == 13  # 8 x 6 pixels as 4 x 3 tiles and a thumbnail


def test_rows_of_no_use_are_written_down(imported, tmp_path):
    status, pairs, rejects = imported(
        row(b"no picture"), row(picture("red"), chosen=None), row(None), row(picture("red"))
    )
    assert (status, len(pairs)) == (0, 1)
    assert [reject["line"] for reject in rejects] == [1, 2, 3]
    for reject, words in zip(rejects, ("cannot be opened", "'chosen'", "bytes of a picture"), strict=True):
        assert words in reject["reason"]
    assert len([path for path in (tmp_path / "out" / "images").rglob("*") if path.is_file()]) == 1


def test_nothing_usable_is_an_error(imported):
    assert imported(row(None))[0] == 1


def test_other_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "image": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column question, chosen, rejected; the file has prompt, image"):
        main(["--parquet", str(tmp_path / "other.parquet"), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"image": "a.png"}\n', 'this is text that begins with \'{"image": "a.png"}\', not parquet'),
        (b"version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer, not parquet; run 'git lfs pull'"),
        (b"PAR1 and no more", "cannot be read as parquet"),
        (b"", "cannot be read as parquet"),
    ],
)
def test_a_file_that_is_no_parquet_is_named(tmp_path, content, reason):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        main(["--parquet", str(tmp_path / "x.parquet"), "--out", str(tmp_path / "out")])
    assert str(raised.value).startswith(f"{tmp_path / 'x.parquet'}: ") and reason in str(raised.value)
