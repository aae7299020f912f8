"""Validation of judged steps: planted faults are found where they stand, and training skips the very same rows."""

import json

import pytest

from internvl_chat.critic.dataset import JudgedDataset
from internvl_chat.model import load_tokenizer
from internvl_chat.records.samples import SkippedRow
from internvl_chat.records.step_targets import StepTargets
from tests.critic.judged_rows import judged_row, write_mixture
from tools import validate

GOOD = [
    judged_row(f"How many in {number}?", ("Two.", 1.0), ("So 2.", 0.5), image="wide_2to1.png") for number in range(5)
]


def changed(**turns_of):
    """A good row whose turns, by number, have other texts."""
    row = json.loads(json.dumps(judged_row("How many?", ("Two.", 1.0), ("So 2.", 0.5), image="wide_2to1.png")))
    for number, text in turns_of.items():
        row["conversations"][int(number[1:])]["value"] = text
    return row


def without_turn(number):
    row = changed()
    del row["conversations"][number]
    return row


PLANTED = {
    "turn_order": without_turn(2),
    "other_judgement": changed(t2="Good"),
    "empty_step": changed(t3="\n"),
    "nothing_measured": {**changed(t2="", t4=""), "scores": None},
    "wrong_scores": {**changed(), "scores": [1.0]},
    "other_system_message": changed(t0="Judge."),
    "placeholder_mismatch": changed(t1="### Question:\n<image> and <image>?\n\n### Solution Process:\nTwo."),
    "image_missing": {**changed(), "image": "gone.png"},
    "too_long": changed(t3="word " * 600),
    "image_mark": changed(t1="### Question:\nIn <image1>?\n\n### Solution Process:\nTwo."),
    "duplicate_pair": GOOD[0],
}
WARNINGS = {"image_mark", "duplicate_pair"}


@pytest.fixture
def run(golden_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def check(rows, checkpoint=golden_folder / "ckpt" / "tiny-qwen2"):
        meta = write_mixture(tmp_path / "data", golden_folder / "data" / "images", steps_prm=rows)
        flags = ["--meta_path", str(meta), "--force_image_size", "56", "--max_seq_length", "1024", "--num_workers", "1"]
        flags += ["--output_dir", str(tmp_path / "out")]
        flags += ["--model_name_or_path", str(checkpoint)] if checkpoint else []
        code = validate.main(flags)
        found = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
        return code, {(finding["line"], finding["fault"]) for finding in found}, meta

    return check


def test_rows_of_the_pipeline_pass(run):
    assert run(GOOD)[:2] == (0, set())
    assert run(GOOD, checkpoint=None)[:2] == (0, set())


def test_planted_faults_are_found_and_training_skips_the_same_rows(run, golden_folder, capsys):
    code, found, meta = run([*GOOD, *PLANTED.values()])
    assert code == 1 and found == set(enumerate(PLANTED, len(GOOD) + 1))
    dataset = JudgedDataset(
        meta,
        load_tokenizer(golden_folder / "ckpt" / "tiny-qwen2"),
        targets=StepTargets(),
        template="internvl2_5",
        num_image_token=4,
        image_size=56,
        max_seq_length=1024,
    )
    skipped = [row for row in map(dataset.__getitem__, range(len(dataset))) if isinstance(row, SkippedRow)]
    assert {(row.line, row.fault) for row in skipped} == {pair for pair in found if pair[1] not in WARNINGS}
    assert "step 1 is judged 'Good'" in capsys.readouterr().out


def test_pairs_and_judged_steps_do_not_mix(golden_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pair = {"question": "q", "chosen": "a b", "rejected": "c d"}
    meta = write_mixture(tmp_path, golden_folder / "data" / "images", steps=GOOD[:1], pairs=[pair])
    assert validate.main(["--meta_path", str(meta), "--num_workers", "1", "--output_dir", str(tmp_path / "out")]) == 1
    assert "'steps'] are of judged steps (--loss_type prm), ['pairs'] of pairs" in capsys.readouterr().out
