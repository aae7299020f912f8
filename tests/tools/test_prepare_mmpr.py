"""All five published sets, small: prepared, validated, trained; restarts; what is said about bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from internvl_chat.records.meta import read_meta
from tests.door import end_of
from tests.mmpr_sets import PREFIX, SHAPES, WRITERS, jsonl, pair, picture, write_zip
from tools import prepare_mmpr, validate
from tools.mmpr.annotations import find_end
from tools.mmpr.prompts import number_placeholders
from tools.reasoning_data_pipeline.prompts.files import ImageRoots

ROOT = Path(__file__).parents[2]
PAIR_SETS = ("MMPR", "MMPR-v1.1", "MMPR-v1.2")


@pytest.fixture
def source(tmp_path):
    """Function from names of sets to a folder with them as downloaded."""

    def made(*names):
        for name in names:
            (tmp_path / "source" / name).mkdir(parents=True)
            WRITERS[name](tmp_path / "source" / name)
        return tmp_path / "source"

    return made


def prepare(source, out, *flags):
    return end_of(prepare_mmpr.main, "--source", source, "--out", out, *flags)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", PAIR_SETS)
def test_pairs_of_every_version_train_as_they_come_out(source, tmp_path, name, capsys):
    assert prepare(source(name) / name, tmp_path / "out") == 0
    folder = tmp_path / "out" / name
    shapes, prefix = read_meta(folder / "meta.json")
    assert (shapes.name, shapes.root, shapes.annotation) == (SHAPES, "images/Shapes", f"annotations/{SHAPES}.jsonl")
    assert (prefix.name, prefix.root, prefix.length) == (PREFIX, "images/openbmb/RLAIF-V-Dataset", 3)
    assert prefix.annotation == f"usable/{PREFIX.replace('/', '__')}.jsonl"
    [left_out] = rows(folder / "left_out.jsonl")
    assert (left_out["data_set"], left_out["line"], left_out["fault"]) == (PREFIX, 4, "image_missing")
    record = json.loads((folder / "prepared.json").read_text())
    counts = record["data_sets"][PREFIX]
    assert (counts["rows"], counts["usable"], counts["text_only"], counts["missing_images"]) == (4, 3, 1, 1)
    assert record["data_sets"][SHAPES]["several_images"] == 1
    assert f"{PREFIX}: 1 rows left out, image_missing" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "prefix"), [("MMPR-v1.2", ""), ("MMPR", "MMPR")])  # as `unzip` leaves their images
def test_a_set_that_is_unpacked_is_linked(source, tmp_path, name, prefix):
    folder = source(name) / name
    assert prepare(folder, tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole" / name / "images", folder / prefix / "images")
    for piece in folder.glob("images.zip*"):
        piece.unlink()
    assert prepare(folder, tmp_path / "out", "--link") == prepare(folder, tmp_path / "out", "--link") == 0
    found, whole = tmp_path / "out" / name, tmp_path / "whole" / name
    assert (found / "images").is_symlink() and not (found / "annotations").is_symlink()
    for file in ("meta.json", "left_out.jsonl"):
        assert (found / file).read_text().replace(str(found), str(whole)) == (whole / file).read_text()
    command = ["--meta_path", str(found / "meta.json"), "--output_dir", str(tmp_path / "report"), "--num_workers", "1"]
    assert validate.main(command) == 0


def test_what_is_unpacked_is_told_of_and_what_was_written_is_not_replaced(source, tmp_path, capsys):
    folder = source("MMPR-v1.2") / "MMPR-v1.2"
    assert prepare(folder, tmp_path / "out") == 0
    shutil.copytree(tmp_path / "out/MMPR-v1.2/images", folder / "images")
    assert prepare(folder, tmp_path / "out", "--link") == 2
    assert "is a folder of its own, no link to" in capsys.readouterr().err
    for piece in folder.glob("images.zip*"):
        piece.unlink()
    assert prepare(folder, tmp_path / "other") == 2
    assert f"{folder}/images is unpacked: take --link" in capsys.readouterr().err


def test_prompts_of_both_pipelines(source, tmp_path):
    name = "MMPR-v1.2-prompts"
    assert prepare(source(name), tmp_path / "out") == 0
    folder = tmp_path / "out" / name
    correctness = rows(folder / "prompts/correctness/shapes_en.jsonl")
    assert [row["image"] for row in correctness] == [f"correctness_images/{number}.png" for number in range(3)]
    dropout = rows(folder / "prompts/dropoutntp/geo.jsonl")
    assert dropout[1]["image"] == ["dropoutntp_images/geo/0.png", "dropoutntp_images/geo/1.png"]
    roots = ImageRoots(folder / "prompts/correctness", folder)  # as the pipelines look for them
    assert Path(roots.resolve(("correctness_images/0.png",), None)[0]).read_bytes() == picture(0)


def test_only_the_archives_that_are_asked_for(source, tmp_path):
    name = "MMPR-v1.2-prompts"
    folder = source(name)
    for path in (folder / name).glob("dropoutntp*"):
        path.unlink()
    assert prepare(folder, tmp_path / "out") == 2
    assert prepare(folder, tmp_path / "out", "--archives", "correctness_images", "correctness_prompts") == 0
    assert not (tmp_path / "out" / name / "prompts/dropoutntp").exists()


def test_rows_of_the_table_become_prompts(source, tmp_path):
    assert prepare(source("MMPR-Tiny"), tmp_path / "out") == 0
    one, two, none = rows(tmp_path / "out/MMPR-Tiny/prompts.jsonl")
    assert one == {"data_source": "tiny", "image": "images/0.png", "question": "<image>\nHow many?", "answer": "3"}
    assert (two["image"], two["question"]) == (["images/1.png", "images/0.png"], "Is <image> larger than <image>?")
    assert none["image"] == []


def test_numbered_images_stand_in_the_order_of_their_places():
    assert number_placeholders("<image_2> or <image_1>, <image_2>?", ["a", "b"]) == (
        "<image> or <image>, image 2?",
        ["b", "a"],
    )
    assert number_placeholders("What is <image_2>?", ["a", "b"]) == ("<image>\nWhat is <image>?", ["a", "b"])
    assert number_placeholders("<image>\nWhat?", ["a"]) == ("<image>\nWhat?", ["a"])


def test_all_sets_of_a_folder_at_once_and_by_name(source, tmp_path):
    folder = source(*WRITERS)
    assert prepare(folder, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(WRITERS)
    assert prepare(folder, tmp_path / "one", "--sets", "MMPR-v1.2") == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["MMPR-v1.2"]


def test_a_download_that_is_its_own_output_is_prepared_once(source, tmp_path):
    folder = source("MMPR-v1.1")
    for _ in range(2):
        assert prepare(folder / "MMPR-v1.1", folder) == 0
        assert [spec.length for spec in read_meta(folder / "MMPR-v1.1/meta.json")] == [5, 3]


def test_a_second_run_changes_no_byte(source, tmp_path):
    folder = source("MMPR-v1.2")

    def tree():
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    assert prepare(folder, tmp_path / "out") == 0
    first = tree()
    assert prepare(folder, tmp_path / "out") == 0
    second = tree()
    first.pop(record := tmp_path / "out/MMPR-v1.2/prepared.json"), second.pop(record)
    assert first == second


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "annotations.zip").unlink(), "no annotations.zip and no piece of it; hf download Open"),
    (lambda folder: (folder / "images.zip_ab").unlink(), "images.zip_ab: this piece is missing"),
    (lambda folder: write_zip(folder / "annotations.zip", {"other.jsonl": b"{}"}), "is annotations.zip of the same"),
    (lambda folder: (folder / "meta.json").write_text("{"), "not a usable meta.json"),
    (lambda folder: write_zip(folder / "annotations.zip", {
        f"annotations/{name}.jsonl": jsonl([pair(1, image="nowhere.png")]) for name in (SHAPES, PREFIX)
     }), "no row of its 2 data sets can be used"),
])  # fmt: skip
def test_what_is_missing_is_said_with_its_cure(source, tmp_path, capsys, spoil, words):
    folder = source("MMPR-v1.2")
    spoil(folder / "MMPR-v1.2")
    assert prepare(folder / "MMPR-v1.2", tmp_path / "out") == 2
    assert words in capsys.readouterr().err


def test_sources_that_are_none(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", "nobody/knows/this", "OpenGVLab", "OpenGVLab/MMPR-v9"):
        assert prepare(given, tmp_path / "out") == 2
        assert ": --source" in capsys.readouterr().err


def test_the_hub_is_asked_for_what_is_wanted_and_offline_what_is_there_does(tmp_path, monkeypatch, capsys):
    asked = []

    def download(repository, **settings):
        asked.append((repository, settings["repo_type"], settings["allow_patterns"]))
        WRITERS["MMPR-Tiny"](settings["local_dir"])

    def offline(repository, **settings):
        raise ConnectionError("no network")

    monkeypatch.setattr("tools.mmpr.sources.snapshot_download", offline)
    assert prepare("OpenGVLab/MMPR-Tiny", tmp_path / "out") == 2
    assert "on a machine with network: hf download OpenGVLab/MMPR-Tiny --repo-type dataset" in capsys.readouterr().err
    monkeypatch.setattr("tools.mmpr.sources.snapshot_download", download)
    assert prepare("OpenGVLab/MMPR-Tiny", tmp_path / "out") == 0
    assert asked == [("OpenGVLab/MMPR-Tiny", "dataset", ["mmpr_tiny.parquet", "images.zip*"])]
    monkeypatch.setattr("tools.mmpr.sources.snapshot_download", offline)
    assert prepare("OpenGVLab", tmp_path / "out", "--sets", "MMPR-Tiny") == 0


def test_the_longest_end_of_a_path_counts(tmp_path):
    for path in ("images/a/b", "images/b"):
        (tmp_path / path).mkdir(parents=True)
    assert find_end("/mnt/x/images/a/b", [tmp_path], Path.is_dir) == tmp_path / "images/a/b"
    assert find_end("/mnt/x/c/b", [tmp_path / "images"], Path.is_dir) == tmp_path / "images/b"
    assert find_end("../../etc", [tmp_path / "images"], Path.is_dir) is None


@pytest.mark.parametrize("name", PAIR_SETS)
def test_validate_passes_what_was_prepared(source, tmp_path, name):
    assert prepare(source(name), tmp_path / "out") == 0
    flags = ["--meta_path", str(tmp_path / "out" / name / "meta.json"), "--output_dir", str(tmp_path / "report")]
    assert validate.main([*flags, "--num_workers", "1"]) == 0


def test_help_needs_no_torch():
    code = "import sys, tools.prepare_mmpr; assert not {'torch', 'transformers'} & sys.modules.keys(), 'heavy'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_a_kill_left_of_replaced_files_is_removed(source, tmp_path):
    folder = tmp_path / "out/MMPR-v1.2"
    (folder / "usable").mkdir(parents=True)
    left = [folder / "meta.json.0123abcd.tmp", folder / "usable/x.jsonl.0123abcd.tmp"]
    for path in left:
        path.write_text("half")
    assert prepare(source("MMPR-v1.2"), tmp_path / "out") == 0
    assert not any(path.exists() for path in left)
