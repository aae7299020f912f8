"""The trainer's --push_to_hub: what a run sends to a local hub at its end, and what is said before it begins."""

import json

import pytest
from huggingface_hub import ModelCard
from transformers import TrainingArguments

from internvl_chat.publishing.contents import PublishError
from internvl_chat.publishing.trained import PUBLISHED, take_push
from internvl_chat.train_mpo import main
from tests.flags import as_flags
from tests.hub import local_hub


@pytest.mark.integration
def test_a_run_sends_its_checkpoint_with_a_card_and_nothing_else(golden, golden_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = as_flags(
        {
            "model_name_or_path": golden.ckpt,
            "meta_path": golden_folder / "data/meta.json",
            "output_dir": tmp_path / "run",
            "force_image_size": 56,
            "max_seq_length": 512,
            "per_device_train_batch_size": 2,
            "max_steps": 1,
            "save_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            "push_to_hub": True,
            "hub_model_id": "me/mine",
            "hub_private_repo": True,
            "hub_token": "hf_" + "a1" * 16,
        }
    )
    with local_hub(monkeypatch) as hub:
        main(flags)
    assert hub.repositories == [("model", "mine", True)] and hub.tokens == {"Bearer hf_" + "a1" * 16}
    assert {"README.md", "config.json", "model.safetensors"} <= hub.files.keys()
    assert not [
        name for name in hub.files if "optimizer" in name or "checkpoint-" in name or name.endswith((".bin", ".pt"))
    ]
    card = ModelCard.load(tmp_path / "run" / PUBLISHED / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and "| loss_type | sigmoid,bco_pair |" in card.text
    assert not [name for name, content in hub.files.items() if b"hf_a1" in content or str(tmp_path).encode() in content]
    assert json.loads((tmp_path / "run/settings.json").read_text())["training"]["push_to_hub"] is False


def test_the_flag_is_taken_before_the_trainer_sees_it(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, hub_model_id="me/mine", use_cpu=True)
    push = take_push(args, "ckpt/InternVL2_5-8B")
    assert not args.push_to_hub and (push.repo_id, push.base_model) == ("me/mine", "OpenGVLab/InternVL2_5-8B")
    assert take_push(args, "x") is None


def test_a_name_that_is_none_is_said_before_the_training(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, use_cpu=True)
    with pytest.raises(PublishError, match="a name on the hub is owner/name"):
        take_push(args, "ckpt/InternVL2_5-8B")
