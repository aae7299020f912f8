"""Images as in a hub's cache, symlinks of single files, at every entry point: refused, and read by one flag."""

import json
from importlib import import_module

import pytest

from internvl_chat.records.rows import RecordError
from internvl_chat.training import build_dataset, parse_arguments
from tests.videos import picture
from tools import evaluate, validate, view_pairs
from tools.evaluation import split
from tools.evaluation.preference import pair_batches

FLAGS = ("--follow_symlinks", "--follow-symlinks")
ROW = {"image": "a.png", "question": "What?", "chosen": "Grey.", "rejected": "Red.", "answer": "grey"}


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A folder whose image is a symlink to a blob, with rows and a meta.json."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "snapshots" / "main"
    root.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    picture(7).save(tmp_path / "blobs" / "0a1b", "PNG")
    (root / "a.png").symlink_to("../../blobs/0a1b")
    (root / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (root / "meta.json").write_text(json.dumps({"d": {"root": ".", "annotation": "rows.jsonl"}}))
    return root


@pytest.mark.parametrize("flag", FLAGS)
def test_training(snapshot, golden, tokenizer, tmp_path, flag):
    words = [
        "--model_name_or_path",
        str(golden.ckpt),
        "--meta_path",
        str(snapshot / "meta.json"),
        "--report_to",
        "none",
    ]
    words += ["--output_dir", str(tmp_path / "run"), "--force_image_size", "56"]
    _, data, mpo = parse_arguments(words)
    with pytest.raises(ValueError, match="a symlink of a single file out of its root .*; give --follow_symlinks"):
        build_dataset(data.meta_path, tokenizer, data, mpo, 4)
    _, data, mpo = parse_arguments([*words, flag])
    assert len(build_dataset(data.meta_path, tokenizer, data, mpo, 4)[0]["image_flags"]) == 1
    assert parse_arguments([*words, flag, "True"])[1].follow_symlinks


@pytest.mark.parametrize("flag", FLAGS)
def test_validation(snapshot, tmp_path, flag, capsys):
    words = ["--meta_path", str(snapshot / "meta.json"), "--num_workers", "1", "--output_dir", str(tmp_path / "v")]
    assert validate.main(words) == 1
    assert "image_outside_root" in capsys.readouterr().out
    assert validate.main([*words, flag]) == 0


@pytest.mark.parametrize("flag", FLAGS)
def test_evaluation(snapshot, golden, flag):
    words = ["--checkpoint", "x", "--direct", str(snapshot / "rows.jsonl")]
    with pytest.raises(RecordError, match="give --follow_symlinks"):
        evaluate.plan(evaluate.parse_arguments([*words, "--image-root", str(snapshot)]))
    args = evaluate.parse_arguments([*words, "--image-root", str(snapshot), flag])
    assert [len(way.questions) for way in evaluate.plan(args) if way.name == "direct"] == [1]
    assert not pair_batches(str(golden.ckpt), snapshot / "meta.json", 1, 1)
    assert len(pair_batches(str(golden.ckpt), snapshot / "meta.json", 1, 1, follow_symlinks=True)) == 1


@pytest.mark.parametrize("flag", FLAGS)
def test_splitting(snapshot, tmp_path, flag):
    words = ["--prompts", str(snapshot / "rows.jsonl"), "--image-root", str(snapshot), "--out", str(tmp_path / "out")]
    with pytest.raises(RecordError, match="give --follow_symlinks"):
        split.split(split.parse_arguments(words))
    with pytest.raises(ValueError, match="no row is left for held_out"):  # of one row, which was read
        split.split(split.parse_arguments([*words, flag]))


@pytest.mark.parametrize("flag", FLAGS)
def test_the_page_of_pairs(snapshot, tmp_path, flag):
    words = ["--meta", str(snapshot / "meta.json"), "--out", str(tmp_path / "page.html")]
    view_pairs.main(words)
    assert "data:image/jpeg" not in (tmp_path / "page.html").read_text()
    view_pairs.main([*words, flag])
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("script", ["correctness", "dropout_ntp"])
def test_samplers(snapshot, tmp_path, flag, script):
    module = import_module(f"tools.reasoning_data_pipeline.mmpr_data_pipeline_{script}")
    words = ["--prompt-path", str(snapshot / "rows.jsonl"), "--image-root", str(snapshot), "--engine", "scripted"]
    words += ["--out-dir", str(tmp_path / "out"), "--num-return-sequences", "1"]
    assert module.main(words) == 1  # nothing was made
    assert module.main([*words, flag, "--overwrite"]) == 0
