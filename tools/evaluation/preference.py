"""Does a model prefer what it should? Log-probs and rewards of held-out pairs, nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import load_config, load_model, load_tokenizer
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import collate_packed
from internvl_chat.run.bars import track
from tools.evaluation.accuracy import percent, percents
from tools.evaluation.statistics import mean_interval, wilson


def measure_pairs(
    checkpoint: str,
    reference: str | None,
    meta: Path,
    *,
    beta: float,
    batch_size: int,
    max_tiles: int,
    follow_symlinks: bool = False,
) -> dict[str, Any]:
    """What a checkpoint says of the pairs of a mixture, as JSON values.

    Args:
        checkpoint: folder or hub name, as is `reference`.
        reference: that rewards beta * log(policy / reference) are measured against; None for no rewards.
        meta: meta.json of the pairs.
        beta: of the rewards, > 0.
        batch_size: pairs at once.
        max_tiles: tile limit of a pair's pictures.
        follow_symlinks: see `resolve_image`.

    Returns:
        `pairs` that could be read; percent of them whose chosen answer is `likelier` than the rejected one; with a
        reference `reward_accuracy`, percent whose chosen answer has the higher reward, and `reward_margin`, the mean
        of chosen minus rejected. Each figure has its interval under <name>_interval.

    Raises:
        FileNotFoundError: there is no such checkpoint or reference.
        ValueError: no pair of the mixture could be read.
    """
    source = local_checkpoint(checkpoint)
    base = None if reference is None else local_checkpoint(reference)
    batches = pair_batches(source, meta, batch_size, max_tiles, follow_symlinks=follow_symlinks)
    if not batches:
        raise ValueError(f"{meta}: no pair could be read from it")
    gaps = _gaps(log_probs(source, batches, "pairs"))
    found: dict[str, Any] = {"pairs": len(gaps), **_share("likelier", gaps)}
    if base is not None:
        margins = beta * (gaps - _gaps(log_probs(base, batches, "pairs, reference")))
        found |= _share("reward_accuracy", margins)
        found["reward_margin"] = round(margins.mean().item(), 4)
        found["reward_margin_interval"] = [round(bound, 4) for bound in mean_interval(margins.tolist())]
    return found


def pair_batches(
    checkpoint: str | Path, meta: Path, batch_size: int, max_tiles: int, *, follow_symlinks: bool = False
) -> list[dict[str, Any]]:
    """The pairs of a mixture as packed batches, by the checkpoint's own tokenizer, template and tiling.

    Raises:
        ValueError: the checkpoint names no chat template, or meta.json is not usable.
    """
    config = load_config(checkpoint)
    if config.template is None:
        raise ValueError(f"{checkpoint}: config.json has template {config.template!r}: it must name the chat template")
    dataset = MixtureDataset(
        meta,
        load_tokenizer(checkpoint),
        template=config.template,
        num_image_token=config.num_image_token,
        image_size=config.force_image_size or config.vision_config.image_size,
        max_dynamic_patch=max_tiles,
        dynamic_image_size=config.dynamic_image_size,
        use_thumbnail=config.use_thumbnail,
        pad2square=config.pad2square,
        allow_file_symlinks=follow_symlinks,
    )
    collate = partial(collate_packed, image_token_id=dataset.rows.image.context)
    return [batch for batch in DataLoader(dataset, batch_size, collate_fn=collate) if "packed" in batch]


@torch.inference_mode()
def log_probs(checkpoint: str | Path, batches: Sequence[dict[str, Any]], title: str) -> torch.Tensor:
    """Log-probs of chosen and rejected answers of all pairs of all batches, (2, B) float64 nats."""
    model = load_model(checkpoint, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    use_shared_prefix(model)
    parts = []
    for batch in track(batches, desc=title):
        moved = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        parts.append(answer_logps(model, moved)[moved["packed"].pair_answers])
    return torch.cat(parts, 1).cpu()


def _gaps(logps: torch.Tensor) -> torch.Tensor:
    """Log-prob (B,) of chosen minus rejected."""
    chosen, rejected = logps
    return chosen - rejected


def _share(name: str, values: torch.Tensor) -> dict[str, Any]:
    """Percent of values above 0, and its interval."""
    above = int((values > 0).sum())
    return {name: percent(above / len(values)), f"{name}_interval": percents(wilson(above, len(values)))}
