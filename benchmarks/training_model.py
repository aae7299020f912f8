"""Models and rows that the training benchmarks run on: random weights in published shapes, or small ones in proportion.

`cpu` keeps what decides the ratios of InternVL2.5-2B (InternViT-300M and InternLM2.5-1.8B): tiles of 448 pixels with
1025 patches and class token in the vision tower and 256 tokens in the language model; the layers of the vision tower
cost 0.93 of what the decoder's weights cost on the tokens of the same tile (2B: 722 of 773 GFLOP forward), and the LM
head 0.125 of what they cost per token (2B: 0.38 of 3.02 GFLOP). The MLP of a decoder layer is four times as wide as the
layer, and there are half as many key-value heads as heads. In layers this narrow attention weighs more than in a 2B.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlamaConfig

from internvl_chat.data.collator import dpo_concat_pad_data_collator
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX

IMAGE_TOKEN = 3  # id of <IMG_CONTEXT>; ids of text begin behind it
TEXT_TOKENS = 64  # of a prompt: system message, question and the marks around them


@dataclass(frozen=True)
class Size:
    """Widths of a model. One tile has `patches` patches, 4 of which become one token of the language model."""

    vision_width: int
    vision_mlp: int
    vision_heads: int
    vision_layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int
    tile_side: int = 448
    patch_side: int = 14

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.tile_side // self.patch_side) ** 2

    @property
    def tile_tokens(self) -> int:
        """Tokens of a tile in the language model."""
        return self.patches // 4

    @property
    def patch_flops(self) -> int:
        """Of the patch embedding of a tile, forward."""
        return 2 * self.patches * 3 * self.patch_side**2 * self.vision_width

    @property
    def projector_flops(self) -> int:
        """Of the projector on a tile, forward."""
        return 2 * self.tile_tokens * (4 * self.vision_width * self.width + self.width**2)

    @property
    def head_flops(self) -> int:
        """Of the LM head at one position, forward."""
        return 2 * self.width * self.vocabulary


SIZES = {
    "toy": Size(32, 64, 2, 1, 64, 128, 4, 2, 1, vocabulary=128, tile_side=56),
    "cpu": Size(128, 736, 2, 1, 384, 1536, 6, 3, 1, vocabulary=722),
    "1B": Size(1024, 4096, 16, 24, 896, 4864, 14, 2, 24, vocabulary=151674),
    "2B": Size(1024, 4096, 16, 24, 2048, 8192, 16, 8, 24, vocabulary=92553),
    "8B": Size(1024, 4096, 16, 24, 4096, 14336, 32, 8, 32, vocabulary=92553),
}


@dataclass(frozen=True)
class Shape:
    """Preference pairs of one length: tiles per prompt, tokens per answer, pairs, and whether they share a prompt.

    With `same_image` each has a question of its own, about one image.
    """

    tiles: int
    chosen: int
    rejected: int
    pairs: int = 1
    same_prompt: bool = False
    tile_tokens: int = 256
    same_image: bool = False

    @property
    def image_end(self) -> int:
        """Tokens of a prompt up to the end of its image."""
        return TEXT_TOKENS // 2 + self.tiles * self.tile_tokens

    @property
    def prompts(self) -> int:
        """Different ones."""
        return 1 if self.same_prompt else self.pairs

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt."""
        return TEXT_TOKENS + self.tiles * self.tile_tokens

    @property
    def answer_tokens(self) -> int:
        """Tokens with a label."""
        return self.pairs * (self.chosen + self.rejected)

    @property
    def tokens(self) -> int:
        """Tokens of all rows without padding, as a user counts them: prompt and answer of either side."""
        return self.pairs * 2 * self.prompt_length + self.answer_tokens


def with_vocabulary(size: Size, vocabulary: int, width: int) -> Size:
    """Another vocabulary, and a decoder of another width with heads of 64."""
    return replace(size, vocabulary=vocabulary, width=width, mlp=4 * width, heads=width // 64, kv_heads=width // 128)


def build_model(size: Size, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> InternVLChatModel:
    """A random model, the same for every call with the same size; a Llama stands for InternLM2, whose maths it has."""
    torch.manual_seed(0)
    config = InternVLChatConfig(
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": size.vision_mlp,
            "num_attention_heads": size.vision_heads,
            "num_hidden_layers": size.vision_layers,
            "image_size": size.tile_side,
            "patch_size": size.patch_side,
            "norm_type": "layer_norm",
            "qk_normalization": False,
            "qkv_bias": True,
        },
        llm_config=language_settings(size),
        template="internvl2_5",
        ps_version="v2",
        force_image_size=size.tile_side,
    )
    with torch.device(device):
        model = InternVLChatModel._from_config(config, dtype=dtype)  # .to(dtype) would round the rotary frequencies
    model.img_context_token_id = IMAGE_TOKEN
    model.set_attn_implementation("sdpa")
    return model


def language_settings(size: Size) -> dict[str, Any]:
    """Keywords of the decoder's configuration."""
    return {
        "model_type": "llama",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": False,
    }


def to_transformers(model: InternVLChatModel, size: Size) -> InternVLForConditionalGeneration:
    """The same weights in transformers' own InternVL class, which TRL can train."""
    vision = model.config.vision_config
    config = InternVLConfig(
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": size.vision_mlp,
            "num_attention_heads": size.vision_heads,
            "num_hidden_layers": size.vision_layers,
            "image_size": [size.tile_side] * 2,
            "patch_size": [size.patch_side] * 2,
            "attention_bias": True,
            "layer_norm_eps": vision.layer_norm_eps,
            "norm_type": "layer_norm",
            "use_mean_pooling": True,
        },
        text_config=LlamaConfig(**{k: v for k, v in language_settings(size).items() if k != "model_type"}),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=size.tile_tokens,
        tie_word_embeddings=False,
    )
    with torch.device(model.device):
        twin = InternVLForConditionalGeneration._from_config(config, dtype=model.dtype)
    twin.load_state_dict(renamed_weights(model))
    twin.set_attn_implementation("sdpa")
    return twin


PLACES = (  # prefixes of our names and of transformers', in the order to try
    ("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
    ("vision_model.embeddings.position_embedding", "model.vision_tower.embeddings.position_embeddings"),
    ("vision_model.embeddings.patch_embedding", "model.vision_tower.embeddings.patch_embeddings.projection"),
    ("vision_model.encoder.layers", "model.vision_tower.encoder.layer"),
    ("mlp1.0", "model.multi_modal_projector.layer_norm"),
    ("mlp1.1", "model.multi_modal_projector.linear_1"),
    ("mlp1.3", "model.multi_modal_projector.linear_2"),
    ("language_model.lm_head", "lm_head"),
    ("language_model.model", "model.language_model"),
)
LAYER_PARTS = (
    (".attn.proj.", ".attention.projection_layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
)


def renamed_weights(model: InternVLChatModel) -> dict[str, torch.Tensor]:
    """State dict of `model` under the names of transformers' class, the fused qkv taken apart."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        ours, theirs = next(place for place in PLACES if name.startswith(place[0]))
        name = theirs + name.removeprefix(ours)
        for part, other in LAYER_PARTS:
            name = name.replace(part, other)
        if ".attn.qkv." in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.{letter}_proj.")] = third.clone()
        else:
            renamed[name] = tensor.clone()
    return renamed


def make_batch(shape: Shape, size: Size) -> dict[str, Any]:
    """Collated pairs of that shape."""
    return dpo_concat_pad_data_collator(make_rows(shape, size))


def make_rows(shape: Shape, size: Size) -> list[dict[str, Any]]:
    """Samples of that shape: random tiles and tokens; pairs of one prompt differ in their answers alone."""
    generator = torch.Generator().manual_seed(1)
    tiles = (shape.tiles, 3, size.tile_side, size.tile_side)

    def text(length: int) -> torch.Tensor:
        return torch.randint(IMAGE_TOKEN + 1, size.vocabulary, (length,), generator=generator)

    def image() -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.full((shape.tiles * size.tile_tokens,), IMAGE_TOKEN)
        pixels = torch.randint(0, 256, tiles, generator=generator, dtype=torch.uint8)
        return torch.cat([text(TEXT_TOKENS // 2), tokens]), pixels

    rows: list[dict[str, Any]] = []
    for number in range(shape.pairs):
        if number == 0 or not (shape.same_prompt or shape.same_image):
            beginning, pixels = image()
        if number == 0 or not shape.same_prompt:
            prompt = torch.cat([beginning, text(TEXT_TOKENS - TEXT_TOKENS // 2)])
        row = {
            "pixel_values": pixels,
            "image_flags": torch.ones(shape.tiles, dtype=torch.long),
            "row_id": f"benchmark:{number + 1}",
            "prompt_length": shape.prompt_length,
        }
        for side, length in (("chosen", shape.chosen), ("rejected", shape.rejected)):
            answer = text(length)
            row[f"{side}_input_ids"] = torch.cat([prompt, answer])
            row[f"{side}_labels"] = torch.cat([torch.full_like(prompt, IGNORE_INDEX), answer])
        rows.append(row)
    return rows


def frozen_copy(model: torch.nn.Module) -> Any:
    """The same weights again, without gradients."""
    return deepcopy(model).requires_grad_(False).eval()
