"""Fixtures of the model tests: both golden families, and small models of other families."""

import json

import numpy as np
import pytest
import torch

from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_model, load_tokenizer

FAMILIES = ("tiny-qwen2", "tiny-internlm2")
VISION = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "image_size": 56,
    "norm_type": "layer_norm",
    "qk_normalization": False,
    "qkv_bias": True,
}
LANGUAGE = {
    "vocab_size": 632,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


class Family:
    """One golden family: its checkpoints, tokenizer and figures."""

    def __init__(self, name, golden):
        self.name = name
        self.folder = golden / "ckpt" / name
        self.policy_folder = golden / "ckpt" / f"{name}-policy"
        self.tokenizer = load_tokenizer(self.folder)
        self.samples = json.loads((golden / "out" / f"samples_{name}.json").read_text(encoding="utf-8"))
        self.ids = np.load(golden / "out" / f"samples_{name}.npz")
        self.forward = np.load(golden / "out" / f"forward_{name}.npz")
        self.vit = {
            key.removeprefix(f"{name}|"): torch.from_numpy(value)
            for key, value in np.load(golden / "out" / "vit_extra.npz").items()
            if key.startswith(f"{name}|")
        }
        self.pixels = np.load(golden / "out" / "pixels_u8.npz")

    def load(self, side="ref", **options):
        """Load "policy" or "ref", in evaluation mode."""
        return load_model(self.policy_folder if side == "policy" else self.folder, **options)

    def tiles(self, *ids):
        """uint8 tiles of the samples, as one tensor."""
        return torch.from_numpy(np.concatenate([self.pixels[sample] for sample in ids]))

    def flags(self, *ids):
        """Image flags of the tiles of the samples."""
        samples = self.samples["templates"]["internvl2_5"]["samples"]
        return torch.tensor([flag for sample in ids for flag in samples[sample]["image_flags"]])

    def sequence(self, sample, side, *, template="internvl2_5"):
        """Token ids and labels of one answer, without the padding that multi-image samples were stored with."""
        length = self.samples["templates"][template]["samples"][sample][side]["real_len"]
        key = f"{template}|{sample}|{side}_"
        return self.ids[f"{key}input_ids"][:length].tolist(), self.ids[f"{key}labels"][:length].tolist()

    def padded(self, sequences):
        """(B, S) ids and mask, padded on the right."""
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        return ids, mask


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, golden_folder):
    return Family(request.param, golden_folder)


@pytest.fixture(scope="session")
def qwen2(golden_folder):
    return Family("tiny-qwen2", golden_folder)


@pytest.fixture(scope="session")
def internlm2(golden_folder):
    return Family("tiny-internlm2", golden_folder)


@pytest.fixture
def build_config():
    """Function from a language model type, and what differs, to a small configuration."""

    def built(model_type, *, vision=None, **language):
        return InternVLChatConfig(
            vision_config={**VISION, **(vision or {})},
            llm_config={**LANGUAGE, "model_type": model_type, **language},
            template="internvl2_5",
            ps_version="v2",
        )

    return built


@pytest.fixture
def build_model(build_config):
    """Function from a language model type, and what differs, to a small random model."""

    def built(model_type, **options):
        torch.manual_seed(0)
        model = InternVLChatModel(build_config(model_type, **options)).eval()
        model.img_context_token_id = 625
        return model

    return built
