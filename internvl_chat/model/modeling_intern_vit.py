"""InternViT: the vision tower of InternVL, with the parameter names of the published checkpoints.

Two forms share this code: 300M (layer norm, bias in qkv) and 6B (RMS norm, normalised queries and keys).
Shapes: T tiles, N = 1 + (image / patch) ** 2 tokens of a tile (the class token first), D width.
"""

import torch
from timm.layers import DropPath
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_intern_vit import InternVisionConfig
from .upstream import (
    ACT2FN,
    ALL_ATTENTION_FUNCTIONS,
    GradientCheckpointingLayer,
    LlamaRMSNorm,
    capture_outputs,
    eager_attention_forward,
)
from .upstream import initialization as init

NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": LlamaRMSNorm}


def resize_position_grid(positions: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """Resize the position embedding of a square patch grid, bicubic in float32.

    Args:
        positions: (1, side * side, D).
        side: patches along a side now.
        height: patches along the height wanted.
        width: patches along the width wanted.

    Returns:
        (1, height * width, D) in the dtype of `positions`.
    """
    grid = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(positions.dtype)


class InternVisionEmbeddings(nn.Module):
    """Patches, class token and positions."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.randn(1, 1 + (config.image_size // patch) ** 2, width))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(T, 3, H, W) -> (T, N, D); any H and W that are multiples of the patch."""
        patches = self.patch_embedding(pixel_values)  # (T, D, h, w)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        # flatten: of a single tile the gradient would else keep the strides of all its tokens, and DDP warn of them
        tokens = torch.cat([self.class_embedding.flatten().expand(len(tokens), 1, -1), tokens], dim=1)
        return tokens + self._positions(height, width)

    def _positions(self, height: int, width: int) -> torch.Tensor:
        side = self.config.image_size // self.config.patch_size
        if (height, width) == (side, side):
            return self.position_embedding
        first, grid = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        return torch.cat([first, resize_position_grid(grid, side, height, width)], dim=1)


class InternAttention(nn.Module):
    """Full self-attention within a tile, through transformers' attention interface."""

    is_causal = False
    num_key_value_groups = 1  # read by transformers' attention functions

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        if config.qk_normalization:
            self.q_norm = LlamaRMSNorm(width, eps=config.layer_norm_eps)
            self.k_norm = LlamaRMSNorm(width, eps=config.layer_norm_eps)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(T, N, D) -> (T, N, D) and, from eager attention only, the weights (T, heads, N, N)."""
        query, key, value = self.qkv(hidden_states).chunk(3, dim=-1)
        if self.config.qk_normalization:  # over all heads at once, as trained
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )  # each (T, heads, N, head_dim)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self,
            query,
            key,
            value,
            None,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        return self.proj_drop(self.proj(output.flatten(-2))), weights


class InternMLP(nn.Module):
    """The two-layer MLP of a layer."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.act = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(T, N, D) -> (T, N, D)."""
        return self.fc2(self.act(self.fc1(hidden_states)))


class InternVisionEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer with layer scale and stochastic depth."""

    def __init__(self, config: InternVisionConfig, drop_path_rate: float) -> None:
        super().__init__()
        width, norm = config.hidden_size, NORMS[config.norm_type]
        self.attn = InternAttention(config)
        self.mlp = InternMLP(config)
        self.norm1 = norm(width, eps=config.layer_norm_eps)
        self.norm2 = norm(width, eps=config.layer_norm_eps)
        self.ls1 = nn.Parameter(config.initializer_factor * torch.ones(width))
        self.ls2 = nn.Parameter(config.initializer_factor * torch.ones(width))
        self.drop_path1 = DropPath(drop_path_rate)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(T, N, D) -> (T, N, D)."""
        attended, _ = self.attn(self.norm1(hidden_states))
        hidden_states = hidden_states + self.drop_path1(attended * self.ls1)
        return hidden_states + self.drop_path2(self.mlp(self.norm2(hidden_states)) * self.ls2)


class InternVisionEncoder(nn.Module):
    """The stack of layers; stochastic depth rises linearly from 0 to `drop_path_rate`."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * index / last for index in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList([InternVisionEncoderLayer(config, rate) for rate in rates])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(T, N, D) -> (T, N, D)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class InternVisionModel(PreTrainedModel):
    """InternViT: tiles in, one vector per patch and a class token out; no norm after the last layer."""

    config_class = InternVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _input_embed_layer = "patch_embedding"
    _no_split_modules = ["InternVisionEncoderLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": InternVisionEncoderLayer, "attentions": InternAttention}

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = InternVisionEmbeddings(config)
        self.encoder = InternVisionEncoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InternVisionEmbeddings):
            init.normal_(module.class_embedding, std=self.config.initializer_range)
            init.normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, InternVisionEncoderLayer):
            init.constant_(module.ls1, self.config.initializer_factor)
            init.constant_(module.ls2, self.config.initializer_factor)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """Encode tiles.

        Args:
            pixel_values: (T, 3, H, W) float, normalised; H and W multiples of the patch.
            kwargs: `output_hidden_states=True` adds the embeddings and every layer's output, each (T, N, D);
                `output_attentions=True` adds the weights where attention is eager.

        Returns:
            `last_hidden_state` (T, N, D) and `pooler_output` (T, D), its class token.
        """
        hidden_states = self.encoder(self.embeddings(pixel_values.to(self.dtype)))
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])

    @torch.no_grad()
    def resize_pos_embeddings(self, old_size: int, new_size: int, patch_size: int) -> None:
        """Make the position embedding that of another tile size, for good (other sizes also work without).

        Args:
            old_size: side of a tile in pixels now.
            new_size: side of a tile in pixels wanted.
            patch_size: side of a patch in pixels.
        """
        positions, side = self.embeddings.position_embedding, new_size // patch_size
        grid = resize_position_grid(positions[:, 1:], old_size // patch_size, side, side)
        self.embeddings.position_embedding = nn.Parameter(torch.cat([positions[:, :1], grid], dim=1))
        self.config.image_size = new_size
