"""Files that are something else are recognised by their first bytes, by every reader, with a cure that helps."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import struct
import tarfile
import zipfile

import pytest

from internvl_chat.data.images import ImageError, load_image
from internvl_chat.data.video import open_video
from internvl_chat.model import load_config, load_model, load_tokenizer
from internvl_chat.model.file_kinds import kind_of, wrong_kind
from internvl_chat.records.jsonl import JsonlFile, WrongFileError
from internvl_chat.records.meta import read_meta
from tests.videos import picture, write_mp4

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
ROW = b'{"image": "a.png", "question": "q", "chosen": "c", "rejected": "r"}\n'
PAGE = b"\n  <!DOCTYPE html>\n<html><body>404</body></html>"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def archive(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("pairs.jsonl", ROW)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as file:
            info = tarfile.TarInfo("pairs.jsonl")
            info.size = len(ROW)
            file.addfile(info, io.BytesIO(ROW))
    return buffer.getvalue()


def drawn(form):
    buffer = io.BytesIO()
    picture(3).save(buffer, form)
    return buffer.getvalue()


SAFETENSORS = struct.pack("<Q", 2) + b"{}"
KINDS = {
    "a Git LFS pointer": POINTER,
    "a git-annex pointer": b"/annex/objects/SHA256E-s1--0.png\n",
    "a gzip archive": gzip.compress(ROW),
    "a bzip2 archive": bz2.compress(ROW),
    "an xz archive": lzma.compress(ROW),
    "a zstd archive": b"\x28\xb5\x2f\xfd\x04\x00",
    "a zip archive": archive("zip"),
    "a tar archive": archive("tar"),
    "a parquet file": b"PAR1\x15\x04",
    "an Arrow file": b"ARROW1\0\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "an SQLite database": b"SQLite format 3\0",
    "a NumPy array": b"\x93NUMPY\1\0",
    "a pickle": pickle.dumps({"a": 1}, 4),
    "GGUF weights": b"GGUF\3\0\0\0",
    "a PDF": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0\n",
    "a web page": PAGE,
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "an SVG drawing": SVG,
    "text in UTF-16": "\ufeff{}".encode("utf-16-le"),
    "text in UTF-32": "\ufeff{}".encode("utf-32-le"),
    "a HEIC picture": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "an ICO icon": b"\0\0\1\0\1\0",
    "a JPEG XL picture": b"\xff\x0a\xfa\x1f",
    "a Photoshop document": b"8BPS\0\1",
    "an OpenEXR picture": b"\x76\x2f\x31\x01\2\0\0\0",
    "a DICOM picture": b"\0" * 127 + b"\1DICM",
    "zero bytes only": b"\0" * 5000,
}
OWN = {"a safetensors file": SAFETENSORS, "a PNG picture": drawn("PNG"), "a JPEG picture": drawn("JPEG")}


@pytest.mark.parametrize("what", KINDS | OWN)
def test_every_reader_of_rows_says_what_the_file_is(tmp_path, what):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes((KINDS | OWN)[what])
    with pytest.raises(WrongFileError, match=f"pairs.jsonl: this is .*{what}.*, not rows; .") as raised:
        JsonlFile(path, tmp_path)
    assert ("git lfs pull" in str(raised.value)) == (what == "a Git LFS pointer")
    with pytest.raises(ValueError, match=f"meta.json: this is .*{what}.*, not JSON; ."):
        path.rename(tmp_path / "meta.json")
        read_meta(tmp_path / "meta.json")


@pytest.mark.parametrize("what", [*KINDS, "a safetensors file", "text that begins with 'Entry not found'"])
def test_what_is_no_picture_says_what_it_is(tmp_path, what):
    path = tmp_path / "a.png"
    path.write_bytes({**KINDS, **OWN}.get(what, b"Entry not found"))
    with pytest.raises(ImageError, match=f"a.png: cannot be opened as an image .this is .*{what}.*, not a picture; ."):
        load_image(str(path))


@pytest.mark.parametrize("what", [*KINDS, "a PNG picture"])
def test_what_is_no_video_says_what_it_is(tmp_path, what):
    path = tmp_path / "a.mp4"
    path.write_bytes((KINDS | OWN)[what])
    with pytest.raises(ImageError, match=f"a.mp4: cannot be read as a video .this is .*{what}.*, not a video; ."):
        open_video(str(path))


def test_pictures_and_videos_under_each_others_name(tmp_path):
    film = write_mp4(tmp_path / "a.mp4", 4)
    with pytest.raises(ImageError, match="an MP4 or MOV video, not a picture; name it under 'video'"):
        load_image(str(film))
    picture(1).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="a PNG picture, not a video; name it under 'image'"):
        open_video(str(tmp_path / "b.png"))


ROWS = [json.loads(ROW)] * 3


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (json.dumps(ROWS), "a JSON array"),
        (json.dumps(ROWS, indent=1), "a JSON array"),
        ("[" + ",\n".join(map(json.dumps, ROWS)) + "]", "a JSON array"),
        ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", "a JSON array"),
        ("\ufeff" + json.dumps(ROWS), "a JSON array"),
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "JSON over several lines"),
        (json.dumps({"data": ROWS}, indent=2), "JSON over several lines"),
    ],
)
def test_json_that_is_no_jsonl_names_the_command_that_makes_it(tmp_path, text, what):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(WrongFileError, match=f"this is {what}.*jq -c"):
        JsonlFile(tmp_path / "a.jsonl", tmp_path)


@pytest.mark.parametrize(
    "first", [b"[1, 2]\n", b"\n\n", b"\xef\xbb\xbf", b"not JSON\n", b"{}\n", b"<think>\n", b"\xff\xffx\n"]
)
def test_a_bad_row_among_rows_is_a_bad_row(tmp_path, first):
    (tmp_path / "a.jsonl").write_bytes(first + ROW)
    assert len(JsonlFile(tmp_path / "a.jsonl", tmp_path)) >= 1


def test_what_is_right_passes(tmp_path):
    for wanted, content in (
        ("rows", ROW),
        ("rows", b" " + ROW),
        ("JSON", b"[1]"),
        ("safetensors weights", SAFETENSORS),
    ):
        (tmp_path / "x").write_bytes(content)
        assert wrong_kind(tmp_path / "x", wanted) is None
    assert kind_of(b"\x07unknown") is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("what", ["a Git LFS pointer", "a web page", "a gzip archive"])
def test_files_of_a_checkpoint(tmp_path, golden_folder, name, what):
    folder = tmp_path / "ckpt"
    shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", folder)
    if not (folder / name).is_file():
        pytest.fail(f"the golden checkpoint has no {name}")
    (folder / name).unlink()
    (folder / name).write_bytes(KINDS[what])
    cure = {"a Git LFS pointer": "git lfs pull", "a web page": "page of an error", "a gzip archive": "gunzip"}[what]
    with pytest.raises(ValueError, match=f"{name}: this is {what}.*{cure}"):
        load_config(folder)
        load_tokenizer(folder)
        load_model(folder)


def test_a_sentencepiece_model_that_is_a_pointer(tmp_path, golden_folder):
    folder = tmp_path / "ckpt"
    shutil.copytree(golden_folder / "ckpt" / "tiny-internlm2", folder)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.model").write_bytes(POINTER)
    with pytest.raises(ValueError, match="tokenizer.model: this is a Git LFS pointer, not a sentencepiece model"):
        load_tokenizer(folder)
