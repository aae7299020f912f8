"""The quick look before training: a data set of no use stops the run, a single bad row does not, and it stays quick."""

import json
import logging

import pytest

from internvl_chat.data import preflight as preflight_module
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.preflight import preflight

GOOD = {"question": "Why?", "chosen": "Yes", "rejected": "No"}
LOST = {**GOOD, "image": "gone.png"}


@pytest.fixture
def look(tmp_path, tokenizer, monkeypatch):
    """Function from rows by data set to a preflight of that mixture; returns the rows looked at, (name, row)."""

    def looked(**sets):
        meta = {name: {"root": ".", "annotation": f"{name}.jsonl"} for name in sets}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        for name, rows in sets.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "cache_dir": tmp_path / "cache"}
        dataset = MixtureDataset(tmp_path / "meta.json", tokenizer, **options)
        seen, plan = [], dataset.plan_row

        def plan_row(data, row):
            seen.append((data.spec.name, row))
            return plan(data, row)

        monkeypatch.setattr(dataset, "plan_row", plan_row)
        preflight(dataset, tmp_path / "meta.json")
        return seen

    return looked


def test_a_data_set_of_no_use_stops_the_run(look):
    with pytest.raises(ValueError, match="no row that was looked at") as raised:
        look(fine=[GOOD] * 3, lost=[LOST] * 50, wrong=[{"question": "Why?", "chosen": "Yes"}])
    text = str(raised.value)
    assert "'lost'" in text and "lost.jsonl:1: " in text and "gone.png: no such file" in text
    assert "'wrong'" in text and "field 'rejected' is missing" in text and "'fine'" not in text
    assert "tools/validate.py --meta_path" in text


def test_some_bad_rows_are_told_and_the_run_goes_on(look, caplog):
    with caplog.at_level(logging.INFO, logger=preflight_module.__name__):
        look(mixed=[GOOD, LOST, GOOD])
    assert "mixed: 1 of 3 rows are of no use" in caplog.text and "2 of 3 rows looked at can be used" in caplog.text


def test_first_and_last_rows_are_looked_at_and_never_many(look):
    seen = look(one=[GOOD] * 1000, other=[GOOD])
    assert ("one", 0) in seen and ("one", 999) in seen and seen.count(("other", 0)) == 1
    assert len(seen) == preflight_module.MOST + 1
    assert len(look(**{f"set{n}": [GOOD] * 9 for n in range(100)})) == 100 * preflight_module.LEAST
