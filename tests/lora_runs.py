"""What tests of adapters share: a model ready for packed rows, a batch for it, and the flags of a short run."""

import json

import torch

from internvl_chat.model import load_config, load_model
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.packing import pack_batch
from tests.flags import as_flags


def load(folder, loader=load_model, **options):
    """Without drop path, for packed rows."""
    config = load_config(folder)
    config.vision_config.drop_path_rate = 0.0
    model = loader(folder, config=config, **options)
    use_shared_prefix(model)
    return model


def pair_with_an_image(model):
    """A packed pair with an image of one tile, by the image tokens of the model."""
    image = [model.img_context_token_id] * model.num_image_token
    batch = {"pixel_values": torch.randint(0, 255, (1, 3, 56, 56), dtype=torch.uint8), "image_flags": torch.ones(1)}
    for side, answer in (("chosen", [5, 6, 7, 8]), ("rejected", [9, 10])):
        batch[f"{side}_input_ids"] = torch.tensor([[3, *image, 4, *answer]])
        batch[f"{side}_labels"] = torch.tensor([[-100] * (len(image) + 2) + answer])
    return pack_batch(batch)


def run_flags(golden_folder, folder, **changes):
    """Flags of a run of four steps with adapters in both parts."""
    settings = {
        "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
        "meta_path": golden_folder / "data" / "meta.json",
        "output_dir": folder,
        "force_image_size": 56,
        "max_seq_length": 512,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "grad_checkpoint": True,
        "report_to": "none",
        "disable_tqdm": True,
        "use_llm_lora": 4,
        "use_backbone_lora": 3,
        **changes,
    }
    return as_flags(settings)


def history(folder):
    """The entries of training in the log of a run."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in log if "loss" in entry]


def losses(folder):
    """The loss of every step of a run."""
    return [entry["loss"] for entry in history(folder)]
