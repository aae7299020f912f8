"""Checkpoints that other tools load, and the weights that they do not hold exactly, which the run continues from.

An exported folder is the source folder with new weights: tokenizer, remote code, preprocessor and generation
settings are copied as they are, and config.json keeps every field that we did not change. That is what lmdeploy,
vLLM, VLMEvalKit and `trust_remote_code` expect of the published InternVL2.5 layout.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from internvl_chat import model as remote_code
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.model.configuration_internvl_chat import AUTO_MAP
from internvl_chat.model.hf_layout import HF_MODEL_TYPE, run_settings

CONFIG_NAME = "config.json"
RESUME_FOLDER = "resume"  # of a checkpoint: what only the run itself reads; no weights beside the exported ones
EXACT_WEIGHTS = "weights.safetensors"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".safetensors.index.json", ".bin.index.json")
COPIED_SUFFIXES = (".json", ".model", ".txt", ".py", ".jinja", ".md")
RUN_STATE = (
    "trainer_state.json",
    "preference_state.json",
    "checksums.json",
    "ledger.json",
    "settings.json",
    "eval_results.json",
    "training_args.bin",
    "all_results.json",
    "train_results.json",
)
NO_REMOTE_CODE = ("__init__.py", "checkpoint_files.py", "file_kinds.py", "hf_layout.py", "json_object.py", "loading.py")
# Fields of config.json that a run may set; all others stay as the source had them.
RUN_FIELDS = (
    "template",
    "select_layer",
    "ps_version",
    "downsample_ratio",
    "force_image_size",
    "dynamic_image_size",
    "use_thumbnail",
    "pad2square",
    "min_dynamic_patch",
    "max_dynamic_patch",
)


def export_checkpoint(
    model: InternVLChatModel,
    source: str | Path,
    folder: str | Path,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the model to `folder` in the layout and dtype of the checkpoint it came from.

    Args:
        model: the policy, unwrapped.
        source: local folder it was loaded from.
        folder: made when absent.
        state_dict: whole weights where `model` holds only shards of them (ZeRO-3).

    Raises:
        FileNotFoundError: `source` is gone.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: the checkpoint that this run came from is gone; bring it back")
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict() if state_dict is None else state_dict
    dtypes = stored_dtypes(source)
    [(usual, _)] = Counter(dtypes.values()).most_common(1)  # for weights that the file has under another name
    stored = {key: weight.to(dtypes.get(key, usual)) for key, weight in weights.items()}
    model.save_pretrained(folder, state_dict=stored, max_shard_size="5GB")  # as the published files are cut
    copy_companions(source, folder)
    if json.loads((folder / CONFIG_NAME).read_text())["model_type"] == HF_MODEL_TYPE:
        write_hf_settings(folder, model.config)
        return
    # A critic is chosen by what its remote code can do: score steps, sort answers. A source's own cannot.
    copy_remote_code(source, folder, replace=bool(model.config.critic))
    write_config(source, folder, model.config.to_dict())


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Number format of each weight in the safetensors files of a checkpoint; reads only their headers."""
    dtypes: dict[str, torch.dtype] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            dtypes |= {key: FLOATS[file.get_slice(key).get_dtype()] for key in file.keys()}  # noqa: SIM118
    return dtypes


def save_exact_weights(model: torch.nn.Module, source: Path, folder: Path) -> None:
    """Save the weights that the export does not hold exactly: rounded to the format of `source`, or renamed."""
    dtypes = stored_dtypes(source)
    rounded: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, weight in model.state_dict().items():
        is_exact = name in dtypes and torch.equal(weight.to(dtypes[name]).to(weight.dtype), weight)
        if not is_exact and weight.data_ptr() not in seen:  # tied weights once
            seen.add(weight.data_ptr())
            rounded[name] = weight
    save_weights(rounded, folder / RESUME_FOLDER / EXACT_WEIGHTS)


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Save tensors by name, unless there are none."""
    if weights:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the small files beside the weights: tokenizer, remote code, settings."""
    for path in sorted(source.iterdir()):
        is_weight = path.name.endswith(WEIGHT_SUFFIXES)
        if path.is_file() and path.suffix in COPIED_SUFFIXES and not is_weight and path.name not in RUN_STATE:
            shutil.copyfile(path, folder / path.name)


def remote_code_files() -> list[Path]:
    """The files of `internvl_chat.model` that make a checkpoint load elsewhere with `trust_remote_code=True`."""
    return sorted(file for file in Path(remote_code.__path__[0]).glob("*.py") if file.name not in NO_REMOTE_CODE)


def copy_remote_code(source: Path, folder: Path, *, replace: bool = False) -> None:
    """Copy our remote code where the source names some but brought none; with `replace`, over the source's own."""
    if replace or not any(source.glob("modeling_*.py")):
        for path in remote_code_files():
            shutil.copyfile(path, folder / path.name)


def write_config(source: Path, folder: Path, current: Mapping[str, Any]) -> None:
    """Write config.json: the source's, with the fields that this run sets."""
    config = json.loads((source / CONFIG_NAME).read_text())
    config.update({name: current[name] for name in RUN_FIELDS if name in current})
    config["auto_map"] = config.get("auto_map") or current["auto_map"]
    if current["critic"]:
        config |= {"critic": current["critic"], "auto_map": AUTO_MAP}
    # Another tile size resizes the position embedding, so the weights tell their own size.
    config["vision_config"]["image_size"] = current["vision_config"]["image_size"]
    write_json(folder / CONFIG_NAME, config)


def write_hf_settings(folder: Path, config: InternVLChatConfig) -> None:
    """Write the fields that this run sets into the config and processor copied from a source in the `-hf` layout."""
    settings, image_settings = run_settings(config)
    side = config.vision_config.image_size  # of the position embedding
    fields = json.loads((folder / CONFIG_NAME).read_text()) | settings
    fields["vision_config"]["image_size"] = [side, side]
    write_json(folder / CONFIG_NAME, fields)
    # The image processor has a file of its own, or a section in that of the whole processor.
    for path in filter(Path.is_file, (folder / "preprocessor_config.json", folder / "processor_config.json")):
        fields = json.loads(path.read_text())
        fields.get("image_processor", fields if path.name.startswith("pre") else {}).update(image_settings)
        if "image_seq_length" in fields:
            fields["image_seq_length"] = config.num_image_token
        write_json(path, fields)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write readable JSON that ends with a newline."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
