"""Pairs of RLAIF-V and of other trainers: tables with pictures inside, rows that name pictures by a path."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model.conversation import THINKING_SYSTEM_MESSAGE
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
    with pytest.raises(ValueError, match=r"other.parquet: no known layout: the fields are image, prompt; known: MMPR"):
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


PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]


def said(text):
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def formatted(*images):
    """A row as HuggingFaceH4/rlaif-v_formatted has it."""
    cells = [{"bytes": image, "path": None} for image in images]
    prompt = [{"role": "user", "content": PARTS}]
    return {"chosen": said("A square."), "rejected": said("A circle."), "images": cells, "prompt": prompt}


def test_a_table_of_trl_is_read(imported, tmp_path, capsys):
    status, pairs, rejects = imported(formatted(picture("red")), formatted())
    [pair] = pairs
    assert {**pair, "image": ""} == {
        "image": "",
        "question": "<image>\nWhat is it?",
        "chosen": "A square.",
        "rejected": "A circle.",
    }
    assert (tmp_path / "out" / "images" / pair["image"]).read_bytes() == picture("red")
    assert status == 0 and [reject["line"] for reject in rejects] == [2] and "1 <image>" in rejects[0]["reason"]
    said = "1 pairs, 1 rows could not be used (rejects.jsonl); files by layout: 1 of TRL (prompt, chosen, rejected)\n"
    assert capsys.readouterr().out.endswith(said)


def test_a_table_of_llama_factory_is_read(imported):
    turn = {"from": "human", "value": "<image>What is it?"}
    chosen, rejected = ({"from": "gpt", "value": value} for value in ("A square.", "A circle."))
    row = {"conversations": [turn], "chosen": chosen, "rejected": rejected, "images": [{"bytes": picture("red")}]}
    status, [pair], rejects = imported(row)
    assert (status, rejects, pair["question"]) == (0, [], "<image>What is it?")


@pytest.fixture
def rows_imported(tmp_path):
    """Function from files of rows to the exit status, the pairs and the rejects; red.png lies in the folder `shots`."""
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "red.png").write_bytes(picture("red"))

    def run(files, *flags):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        names = [str(tmp_path / name) for name in files]
        status = main(["--rows", *names, "--out", str(tmp_path / "out"), *flags])
        read = [(tmp_path / "out" / name).read_text().splitlines() for name in ("pairs.jsonl", "rejects.jsonl")]
        return status, *[[json.loads(line) for line in lines] for lines in read]

    return run


def swift(picture, **changes):
    messages = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A square."}]
    return {"messages": messages, "rejected_response": "A circle.", "images": [picture], **changes}


def trl(**changes):
    return {"prompt": "What is it?", "chosen": "A square.", "rejected": "A circle.", **changes}


def test_files_of_several_layouts_become_one_set(rows_imported, tmp_path, capsys):
    lines = "".join(json.dumps(row) + "\n" for row in (swift("shots/red.png"), swift("shots/rad.png"), {"messages": 3}))
    status, pairs, rejects = rows_imported({"a.jsonl": lines, "b.json": json.dumps([trl(), trl(chosen=None)])})
    assert status == 0 and [pair["question"] for pair in pairs] == ["<image>What is it?", "What is it?"]
    assert (tmp_path / "out" / "images" / pairs[0]["image"]).read_bytes() == picture("red")
    wanted = [("a.jsonl", 2, "shots/rad.png"), ("a.jsonl", 3, "'messages'"), ("b.json", 2, "'chosen'")]
    for reject, (name, line, words) in zip(rejects, wanted, strict=True):
        assert (reject["file"], reject["line"]) == (str(tmp_path / name), line) and words in reject["reason"]
    out = capsys.readouterr().out
    assert "2 pairs, 3 rows could not be used" in out
    assert "1 of ms-swift (messages, rejected_response); 1 of TRL (prompt, chosen, rejected)" in out
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["out"]["length"] == 2


def test_pictures_lie_below_the_root(rows_imported, tmp_path):
    rows = {"a.jsonl": json.dumps(swift("red.png")) + "\n"}
    assert rows_imported(rows)[0] == 1
    assert rows_imported(rows, "--root", str(tmp_path / "shots"))[0] == 0


def test_links_are_followed_where_that_is_wanted(rows_imported, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "red.png").symlink_to(tmp_path / "shots" / "red.png")
    rows, flags = {"a.jsonl": json.dumps(swift("red.png"))}, ("--root", str(tmp_path / "root"))
    assert rows_imported(rows, *flags)[0] == 1
    assert rows_imported(rows, *flags, "--follow_symlinks")[0] == 0


def test_a_table_may_name_pictures_below_a_root(tmp_path, rows_imported):
    pq.write_table(pa.Table.from_pylist([{**row(None), "image": "shots/red.png"}]), tmp_path / "part.parquet")
    flags = ["--parquet", str(tmp_path / "part.parquet"), "--out", str(tmp_path / "out")]
    assert main(flags) == 1
    assert main([*flags, "--root", str(tmp_path)]) == 0


def test_rows_of_ours_come_back_as_they_are(rows_imported):
    row = {"question": "What is it?", "chosen": "a", "rejected": "b", "history": [["c", "d"]], "rules": {"a": [None]}}
    status, pairs, rejects = rows_imported({"a.jsonl": json.dumps({**row, "image": None})})
    assert (status, pairs, rejects) == (0, [row], [])


@pytest.mark.parametrize(("flag", "message"), [("thinking", THINKING_SYSTEM_MESSAGE), ("Be kind.", "Be kind.")])
def test_a_system_message_that_training_will_use_is_taken(rows_imported, flag, message):
    rows = {"a.jsonl": json.dumps(trl(system=message))}
    assert rows_imported(rows)[0] == 1
    assert rows_imported(rows, "--system_prompt", flag)[0] == 0


def test_a_picture_of_an_earlier_turn_trains_at_its_place(rows_imported, tmp_path, tokenizer):
    prompt = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "A shape."}]
    row = trl(prompt=[*prompt, {"role": "user", "content": "Which one?"}], images=["shots/red.png"])
    rows_imported({"a.jsonl": json.dumps(row)}, "--max-num", "1")
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "cache_dir": tmp_path / "cache"}
    item = MixtureDataset(tmp_path / "out" / "meta.json", tokenizer, **options)[0]
    text = tokenizer.decode(item["prompt_ids"])
    wanted = "user\n<img>" + "<IMG_CONTEXT>" * 4 + "</img>\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA shape."
    assert wanted in text and text.endswith("user\nWhich one?<|im_end|>\n<|im_start|>assistant\n")


def test_fields_that_json_cannot_hold_are_named(imported, capsys):
    assert imported(row(picture("red"), mask=b"0"))[0] == 0
    assert capsys.readouterr().out.endswith("fields left out, as JSON cannot hold them: mask\n")


@pytest.mark.parametrize("name", ["pairs.jsonl", "rejects.jsonl", "meta.json"])
def test_a_file_that_is_read_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(trl()))
    with pytest.raises(ValueError, match=f"{name}: is read and would be written over"):
        main(["--rows", str(tmp_path / name), "--out", str(tmp_path)])
    assert json.loads((tmp_path / name).read_text()) == trl()
