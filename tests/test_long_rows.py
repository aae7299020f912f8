"""Long rows: what layers keep can wait in the host's memory, and a row of 8,192 tokens runs through."""

import json

import pytest
import torch
import transformers.modeling_utils

from internvl_chat.arguments import MPOConfig
from internvl_chat.model import load_model
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import pack_batch
from internvl_chat.train_mpo import main


def long_batch(model, tokens):
    """A pair whose packed row is a little over `tokens` long, most of it image."""
    tiles = tokens // model.num_image_token
    image = [model.img_context_token_id] * (tiles * model.num_image_token)
    batch = {"pixel_values": torch.zeros(tiles, 3, 56, 56, dtype=torch.uint8), "image_flags": torch.ones(tiles)}
    for side, answer in (("chosen", [5, 6, 7]), ("rejected", [8, 9])):
        batch[f"{side}_input_ids"] = torch.tensor([[3, *image, 4, *answer]])
        batch[f"{side}_labels"] = torch.tensor([[-100] * (len(image) + 2) + answer])
    return pack_batch(batch)


@pytest.fixture(params=["tiny-qwen2", "tiny-internlm2"])
def model(request, golden_folder):
    model = load_model(golden_folder / "ckpt" / request.param).train()
    use_shared_prefix(model)
    return model


def test_what_every_layer_keeps_is_moved(model, monkeypatch):
    moved = []
    save = transformers.modeling_utils.save_on_cpu
    monkeypatch.setattr(
        transformers.modeling_utils, "save_on_cpu", lambda **options: moved.append(options) or save(**options)
    )
    batch = long_batch(model, 64)
    torch.manual_seed(0)  # of drop path
    answer_logps(model, batch).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    model.activation_checkpointing_enable(offload=True)
    torch.manual_seed(0)
    answer_logps(model, batch).sum().backward()
    layers = model.config.vision_config.num_hidden_layers + model.config.llm_config.num_hidden_layers
    assert len(moved) == layers and all(options["pin_memory"] for options in moved)
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))


def test_the_flag_needs_checkpointing_and_changes_no_loss(golden_folder, tmp_path):
    with pytest.raises(ValueError, match="--offload_activations True moves what --grad_checkpoint True keeps"):
        MPOConfig(output_dir="x", offload_activations=True)
    losses = []
    for offload in (False, True):
        flags = f"--model_name_or_path {golden_folder}/ckpt/tiny-qwen2 --meta_path {golden_folder}/data/meta.json"
        flags += f" --output_dir {tmp_path}/{offload} --force_image_size 56 --max_seq_length 512 --max_steps 2"
        flags += " --grad_checkpoint True --save_strategy no --logging_steps 1 --report_to none --disable_tqdm True"
        main([*flags.split(), "--offload_activations", str(offload)])
        log = json.loads((tmp_path / str(offload) / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["loss"] for entry in log if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and len(losses[0]) == 2


@pytest.mark.integration
def test_a_row_of_8192_tokens(model):
    model.activation_checkpointing_enable()
    batch = long_batch(model, 8_192)
    assert batch["packed"].input_ids.numel() > 8_192
    logps = answer_logps(model, batch)
    logps.sum().backward()
    assert torch.isfinite(logps).all() and (logps < 0).all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
