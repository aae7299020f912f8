"""The files of flags in examples/: each trains, on the rows of examples/own_rows, and keeps what it says."""

import json
from pathlib import Path

import pytest

from internvl_chat.config_file import read_config
from internvl_chat.records.meta import read_meta
from internvl_chat.train_mpo import main
from tools.footprint import main as plan
from tools.validate import main as validate

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))
TRAINED = ["full.yaml", "lora.yaml", "own_rows.yaml"]
# What a CPU and the tiny checkpoint need; all else is as the file says.
SMALL = {
    "model_name_or_path": "ckpt/tiny-base",
    "meta_path": "examples/own_rows/meta.json",
    "force_image_size": 56,
    "max_dynamic_patch": 1,
    "max_seq_length": 512,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "bf16": False,
    "deepspeed": "",
    "dataloader_num_workers": 0,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def at_root(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_there_is_one_of_each_kind_and_each_key_has_a_place():
    kinds = "dropout_ntp_mix full hf_layout lora many_nodes_78b own_rows qlora video"
    assert [f"{kind}.yaml" for kind in kinds.split()] == EXAMPLES
    page = (ROOT / "examples/README.md").read_text()
    for name in EXAMPLES:
        assert f"[{name}]({name})" in page
        text = (ROOT / "examples" / name).read_text()
        assert text.startswith("# ") and f"examples/{name}" in text and text.count("#") >= 7


# GPUs at which it fits, GiB of one, and GPUs at which it must not fit.
PLANS = {
    "dropout_ntp_mix.yaml": (8, 80, 1),
    "full.yaml": (8, 80, 1),
    "hf_layout.yaml": (8, 80, 1),
    "lora.yaml": (1, 80, None),
    "many_nodes_78b.yaml": (512, 80, 8),
    "own_rows.yaml": (1, 80, None),
    "qlora.yaml": (1, 24, None),
    "video.yaml": (8, 80, 1),
}


def estimate(name, gpus, memory, capsys):
    """What the dry run prints of a recipe, and its last words; checkpoint and data may be missing."""
    try:
        plan(["--gpus", str(gpus), "--gpu_memory", str(memory), "--", f"examples/{name}"])
    except SystemExit as ended:
        return capsys.readouterr().out, str(ended.code)
    return capsys.readouterr().out, ""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_where_it_says(name, capsys):
    fits, memory, too_few = PLANS[name]
    printed, ended = estimate(name, fits, memory, capsys)
    assert "memory per GPU: " in printed and "does not fit" not in ended
    if too_few:
        assert "does not fit" in estimate(name, too_few, memory, capsys)[1]


def test_the_mixture_of_dropout_ntp_is_one():
    specs = {spec.name: spec for spec in read_meta("examples/dropout_ntp_mix.json")}
    assert {name: float(spec.repeat_time) for name, spec in specs.items()} == {"correctness": 1, "dropout_ntp": 0.5}


@pytest.mark.parametrize("name", TRAINED)
def test_an_example_trains(name, tmp_path):
    path = Path("examples") / name
    main([str(path), *(f"--{key}={value}" for key, value in SMALL.items()), "--output_dir", str(tmp_path / "run")])
    settings = json.loads((tmp_path / "run/settings.json").read_text())
    flat = {**settings["model"], **settings["data"], **settings["training"]}
    assert flat["learning_rate"] == float(dict(read_config(path))["learning_rate"])
    assert (flat["use_llm_lora"], flat["save_adapter_only"]) == ((16, True) if name == "lora.yaml" else (0, False))
    saved = "adapter_model.safetensors" if name == "lora.yaml" else "model.safetensors"
    assert list((tmp_path / "run").rglob(saved))
    assert json.loads((tmp_path / "run/train_results.json").read_text())["skipped_rows"] == 0


def test_the_own_rows_are_of_every_kind_and_valid(tmp_path):
    rows = [json.loads(line) for line in (ROOT / "examples/own_rows/pairs.jsonl").read_text().splitlines()]
    assert {type(row.get("image")) for row in rows} == {str, list, type(None)}
    argv = ["--meta_path", "examples/own_rows/meta.json", "--model_name_or_path", "ckpt/tiny-base"]
    argv += ["--force_image_size", "56", "--strict", "True", "--num_workers", "1", "--output_dir", str(tmp_path)]
    assert validate(argv) == 0
