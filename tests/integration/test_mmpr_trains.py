"""Each published layout, small, from its zips to a trained checkpoint in a folder for the hub, as documented."""

import json

import pytest
from huggingface_hub import ModelCard

from internvl_chat.model import load_model
from internvl_chat.train_mpo import main as train
from tests.flags import as_flags
from tests.mmpr_sets import WRITERS
from tools import curate, mixture, prepare_mmpr, publish, validate

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["MMPR", "MMPR-v1.1", "MMPR-v1.2"])
def test_from_the_zips_to_a_folder_for_the_hub(golden, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "download").mkdir()
    WRITERS[name](tmp_path / "download")
    prepare_mmpr.main(["--source", str(tmp_path / "download"), "--out", str(tmp_path)])
    meta, mixed, curated = tmp_path / name / "meta.json", tmp_path / "mixture.json", tmp_path / "curated"
    mixture.main([str(meta), "--set", "*=1", "--out", str(mixed)])
    curate.main(["--meta_path", str(mixed), "--out", str(curated), "--near_duplicates", "--num_workers", "1"])
    flags = {"meta_path": curated / "meta.json", "force_image_size": 56, "max_seq_length": 512}
    assert validate.main(as_flags({**flags, "output_dir": tmp_path / "report", "num_workers": 1})) == 0
    run = {
        "model_name_or_path": golden.ckpt,
        "output_dir": tmp_path / "run",
        "per_device_train_batch_size": 2,
        "max_steps": 2,
    }
    quiet = {"report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 0, "save_strategy": "no"}
    train(as_flags({**flags, **run, **quiet}))
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    assert (ledger["used"], ledger["skipped"]) == (4, 0)
    out = tmp_path / "published"
    publish.main([str(tmp_path / "run"), "--to", "me/mine", "--base_model", "me/base", "--dry_run", "--out", str(out)])
    load_model(out)
    assert (
        "Of 4 rows that the mixture promised 4 were trained on and 0 skipped." in ModelCard.load(out / "README.md").text
    )
