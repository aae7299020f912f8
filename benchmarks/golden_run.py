"""The tiny training that benchmarks start, kill and warn: the golden checkpoint on the golden rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def golden_flags(out: Path, **settings: Any) -> list[str]:
    """The command line of a run into `out`, with what a benchmark sets besides."""
    run = {
        "model_name_or_path": GOLDEN / "ckpt" / "tiny-qwen2",
        "meta_path": GOLDEN / "data" / "meta.json",
        "output_dir": out,
        "force_image_size": 56,
        "max_seq_length": 512,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        **settings,
    }
    return [word for name, value in run.items() for word in (f"--{name}", str(value))]
