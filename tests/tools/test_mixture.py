"""tools/mixture.py on a prepared set: what it shows, what it writes, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from internvl_chat.data.mixture import Mixture
from internvl_chat.records.meta import read_meta
from tests.door import end_of
from tests.mmpr_sets import PREFIX, SHAPES, WRITERS
from tools import mixture, prepare_mmpr

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    """meta.json of a prepared MMPR-v1.2 of 5 and 3 rows."""
    folder = tmp_path_factory.mktemp("mmpr")
    (folder / "source").mkdir()
    WRITERS["MMPR-v1.2"](folder / "source")
    prepare_mmpr.main(["--source", str(folder / "source"), "--out", str(folder)])
    return folder / "MMPR-v1.2/meta.json"


@pytest.fixture
def own(tmp_path):
    """meta.json of own rows of text."""
    rows = [{"question": f"What is {number}?", "chosen": "x" * 36, "rejected": "y" * 40} for number in range(10)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.json").write_text(
        json.dumps({"own_math": {"root": "", "annotation": str(tmp_path / "own.jsonl")}})
    )
    return tmp_path / "own.json"


def test_shows_rows_shares_tokens_and_steps(meta, own, capsys):
    mixture.main([str(meta), str(own), "--batch_size", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["own_math", "other", "10", "1", "10", "55.6%", "22", "1.1%"]  # 88 characters / 4
    assert any(line.startswith("all of correctness") and " 5 " in line for line in lines)
    assert lines[-1].startswith("18 pairs of 18 rows, about 0.0 M tokens") and lines[-1].endswith("5 steps of 4")


def test_a_recipe_with_own_rows_on_top_is_written_and_opens(meta, own, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"rules": [
        {"match": "own_*", "repeat_time": 1, "source": "ours"}, {"match": "*", "rows": 4, "source": "ours"},
    ]}))  # fmt: skip
    out = tmp_path / "deeper/mixture.json"
    mixture.main([str(meta), str(own), "--recipe", str(recipe), "--out", str(out)])
    assert {data.spec.name: len(data.order) for data in Mixture.from_meta(out).datasets} == {
        SHAPES: 3, PREFIX: 1, "own_math": 10,
    }  # fmt: skip
    assert not any(Path(spec.root).is_absolute() or Path(spec.annotation).is_absolute() for spec in read_meta(out))


def test_ratios_change_by_pattern_and_others_stay(meta, tmp_path, capsys):
    out = tmp_path / "mixture.json"
    mixture.main([str(meta), "--set", "*_correctness_rules=2", "openbmb/*=0", "--out", str(out)])
    [spec] = read_meta(out)
    assert (spec.name, spec.repeat_time) == (SHAPES, 2)
    assert f"left out: {PREFIX}" in capsys.readouterr().out
    mixture.main([str(meta), "--set", "*_correctness_rules=2", "--out", str(out)])
    assert {spec.name: spec.repeat_time for spec in read_meta(out)} == {SHAPES: 2, PREFIX: 1}


@pytest.mark.parametrize(("flags", "words"), [
    (["--set", "none*=1"], "no data set is named none*"),
    (["--set", "*=0", "--out", "mixture.json"], "no row is left"),
    (["--recipe", "nowhere.json"], "nowhere.json: no such recipe"),
])  # fmt: skip
def test_refusals(meta, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert end_of(mixture.main, meta, *flags) == 2
    assert words in capsys.readouterr().err


def test_a_name_in_two_files_is_refused(meta, capsys):
    assert end_of(mixture.main, meta, meta) == 2
    assert "is in another meta.json too" in capsys.readouterr().err


def test_hours_of_a_checkpoint(meta, capsys):
    mixture.main([str(meta), "--model_name_or_path", str(ROOT / "ckpt/tiny-base"), "--gpus", "2"])
    assert "h on 2 GPUs at 400 TFLOP/s each: estimated from FLOPs, not measured" in capsys.readouterr().out


def test_needs_no_torch():
    code = "import sys, tools.mixture; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
