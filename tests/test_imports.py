"""Who may import whom, that importing does nothing, and that every module imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "internvl_chat"
# A module imports only from rows above its own, or from a module listed before it in the same row.
LAYERS = [
    ["distributed", "signals", "objects", "output", "watchdog", "records", "meta", "jsonl", "model"],
    ["pair_losses", "losses", "logps", "logps_cache", "images", "video", "tokenization", "quantization"],
    ["segments", "sequence_parallel", "attention_groups", "attention_sinks", "attention_varlen", "attention"],
    ["mixture", "sampler", "dataset", "preflight", "row_costs", "collator", "packing", "forward"],
    ["metrics", "ledger", "guards", "reference", "checkpoint", "resume", "lora", "arguments", "epoch_order"],
    ["resumable", "trainer"],
    ["train_mpo"],
]
ORDER = {name: (row, column) for row, names in enumerate(LAYERS) for column, name in enumerate(names)}
WITHOUT_TORCH = ["internvl_chat.records.rows", "internvl_chat.records.meta"]


def modules(folder):
    return sorted(
        path for path in folder.rglob("*.py") if path.name != "__init__.py" and "__pycache__" not in path.parts
    )


def imported(path):
    """Dotted names of the modules that a file imports, relative ones left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    """Name as in LAYERS of an imported module of the package, None for what is none."""
    short = name.removeprefix("internvl_chat.")
    if short in ORDER:
        return short
    return "model" if short.startswith("model") and name != short else None


@pytest.mark.parametrize("path", [p for p in modules(PACKAGE) if p.parent == PACKAGE], ids=lambda p: p.stem)
def test_imports_follow_the_data_flow(path):
    for name in imported(path):
        target = layer(name)
        if target is not None and name.startswith("internvl_chat") and target != path.stem:
            assert ORDER[target] < ORDER[path.stem], f"{path.stem} imports {target}"


@pytest.mark.parametrize("path", modules(PACKAGE / "model"), ids=lambda p: p.stem)
def test_model_files_can_travel_with_a_checkpoint(path):
    assert not [name for name in imported(path) if name.split(".")[0] in ("internvl_chat", "tools")]


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: p.stem)
def test_the_library_knows_no_tools_and_no_engine(path):
    heavy = {"tools", "lmdeploy"} | ({"deepspeed"} if path.stem not in ("process", "trainer", "frozen") else set())
    assert not [name for name in imported(path) if name.split(".")[0] in heavy]


def test_every_module_imports_and_leaves_no_trace():
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for f in ("internvl_chat", "tools")
        for p in modules(ROOT / f)
    ]
    code = (
        "import importlib, os, sys\n"
        "import torch, transformers, accelerate, trl, timm\n"
        "before = dict(os.environ)\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "from transformers import AttentionInterface\n"
        "assert dict(os.environ) == before, 'the environment changed'\n"
        "assert 'shared_prefix' not in AttentionInterface().valid_keys(), 'attention was registered'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rows_load_without_torch(name):
    code = f"import {name}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
