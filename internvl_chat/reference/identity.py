"""Which cache of reference log-probs a run may read: named by all that changes them, once, by the first rank.

The name of its folder stands for the weights and for every setting that a log-prob may depend on; a name in it stands
for the data whose answers are all there. The first rank alone reads files for them and decides; the others hear of it,
as a rank that saw other times or an older list of files would load a model where the others train: a hang.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.checkpoint.files import checksum
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import InternVLChatConfig
from internvl_chat.records.durable import json_text, stamp, write_atomically
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 3  # of the packed forward; raise it when a change moves log-probs by more than rounding
# Flags that no log-prob of the reference depends on. All others of their groups count, a new one too until it is here.
INDIFFERENT = {
    "model_name_or_path",  # the weights count, wherever they are
    *("freeze_llm", "freeze_backbone", "freeze_mlp", "unfreeze_vit_layers"),  # they train the policy
    *("drop_path_rate", "use_backbone_lora", "use_llm_lora"),  # the reference has none
    *("meta_path", "eval_meta_path", "follow_symlinks"),  # what they lead to counts by itself
    "use_data_resampling",  # without effect
}
NUMBER_FORMAT = ("bf16", "fp16", "tf32")  # of the training's flags, hundreds, those that a forward pass depends on


@dataclass(frozen=True)
class OpenCache:
    """The cache of a run's reference.

    Attributes:
        cache: of this reference, opened for this rank.
        data: name of the run's data in it.
        is_filled: whether all answers of these data are there, so that no reference model is needed.
    """

    cache: LogpsCache
    data: str
    is_filled: bool


def open_cache(
    source: Path, settings: dict[str, Any], args: MPOConfig, datasets: Sequence[MixtureDataset]
) -> OpenCache:
    """The cache of this reference and these data, the same on all ranks whatever each of them sees; a collective.

    Args:
        source: local folder of the checkpoint that the reference is loaded from.
        settings: of `reference_settings`.
        args: with the root of all caches, the seed and the rank.
        datasets: whose answers are wanted.
    """
    names = None
    if args.process_index == 0:
        root = Path(str(args.reference_cache_dir))
        names = root / reference_name(settings, weights_digest(source, root)), data_name(datasets, args.seed)
    folder, data = gather_objects(names)[0]
    cache = LogpsCache(folder, args.process_index)
    is_filled = gather_objects(cache.is_filled(data))[0]
    logger.info("reference log-probs: %s, %s", folder, "all there" if is_filled else "some are to be computed")
    return OpenCache(cache, data, is_filled)


def reference_name(settings: dict[str, Any], weights: str) -> str:
    """Name of a reference: of its settings and the digest of its weights."""
    identity = json.dumps([LAYOUT_VERSION, settings, weights], sort_keys=True)
    return xxhash.xxh3_128_hexdigest(identity.encode())


def reference_settings(
    config: InternVLChatConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    mpo_args: MPOConfig,
    *,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """All settings that a log-prob of the reference may depend on, as JSON values.

    Args:
        config: of the checkpoint, with what the flags changed in it.
        model_args: all but the INDIFFERENT of them count, as of `data_args`.
        data_args: the same.
        mpo_args: those of NUMBER_FORMAT count.
        dtype: of the weights.
    """
    fields = json.loads(config.to_json_string())
    fields["vision_config"].pop("drop_path_rate", None)
    flags = asdict(model_args) | asdict(data_args)
    flags = {name: value for name, value in flags.items() if name not in INDIFFERENT}
    formats = {name: getattr(mpo_args, name) for name in NUMBER_FORMAT}
    return {"config": fields, **flags, **formats, "dtype": str(dtype)}


def weights_digest(source: Path, root: Path) -> str:
    """Digest of the safetensors of a checkpoint. They are read whole once, then known by size and time of change.

    Args:
        source: local folder of the checkpoint.
        root: of all caches; keeps the digest.
    """
    files = sorted(source.resolve().glob("*.safetensors"))
    stamps = [[path.name, *stamp(path)] for path in files]
    known = root / f"weights-{xxhash.xxh3_64_hexdigest(str(source.resolve()).encode())}.json"
    try:
        before = json.loads(known.read_text())
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict) and before.get("files") == stamps:
        return str(before["digest"])
    logger.info("%s: reading the weights for the name of the reference, once", source)
    digest = xxhash.xxh3_128_hexdigest(" ".join(map(checksum, files)).encode())
    write_atomically(known, [json_text({"source": str(source), "files": stamps, "digest": digest})])
    return digest


def data_name(datasets: Iterable[MixtureDataset], seed: int) -> str:
    """Name of the answers of these mixtures; files count by size and time of change, images by their content later."""
    parts = [part for dataset in datasets for part in dataset.mixture.datasets]
    stamps = [(part.spec, part.root, stamp(part.rows.path)) for part in parts]
    return xxhash.xxh3_128_hexdigest(repr((stamps, seed)).encode())
