"""InternVL: tiles -> InternViT -> pixel shuffle -> MLP -> image tokens among the text of a language model.

The forward pass in four sentences. Every tile becomes P image tokens (`extract_feature`). Those of the tiles whose flag
is 1 replace, in order, the embeddings of the `<IMG_CONTEXT>` tokens (`embed`). The language model runs over the result.
A tile with flag 0 touches the graph without changing a value: rows without images then have the same backward pass.

Which tiles and which tokens these are can be said in index tensors, as training does: else the host has to wait for the
GPU to learn how many there are.

Shapes: B rows, S tokens, T tiles, P image tokens per tile, D width, V vocabulary.
"""

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_internlm2 import InternLM2Config
from .configuration_internvl_chat import InternVLChatConfig
from .constants import NORMALIZATIONS
from .modeling_intern_vit import InternVisionModel
from .modeling_internlm2 import InternLM2ForCausalLM


class InternVLNetwork(PreTrainedModel, GenerationMixin):
    """All modules, with the parameter names of the published checkpoints, and the way through them.

    Attributes:
        num_image_token: P.
        img_context_token_id: id of `<IMG_CONTEXT>`; set by `load_model` and by `chat`.
        normalize_type: of uint8 tiles; that of all published models unless set otherwise.
    """

    config_class = InternVLChatConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: InternVLChatConfig) -> None:
        super().__init__(config)
        self.num_image_token = config.num_image_token
        self.img_context_token_id: int | None = None
        self.normalize_type = "imagenet"
        self.vision_model = InternVisionModel(config.vision_config)
        # It shares the configuration object, so both stay in step.
        self.language_model = language_model_class(config)(config.llm_config)
        self.mlp1 = _projector(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer (V, D) of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    def forward(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        image_flags: torch.Tensor | None = None,
        *,
        image_tiles: torch.Tensor | None = None,
        image_positions: torch.Tensor | None = None,
        head_labels: torch.Tensor | None = None,
        head_positions: torch.Tensor | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Score every next token.

        Args:
            pixel_values: (T, 3, H, W) tiles of all rows in order, as of `extract_feature`; None without images.
            input_ids: (B, S).
            attention_mask: (B, S), 1 for tokens and 0 for padding.
            position_ids: (B, S).
            image_flags: (T,), as of `embed`.
            image_tiles: as of `embed`.
            image_positions: as of `embed`.
            head_labels: (B, S), given to an output layer that takes labels besides hidden states and then need not
                form the logits; it runs in here because DDP watches what a forward uses.
            head_positions: (L,) where labels stand, given to that output layer as `positions`.
            kwargs: of the language model: `labels` (B, S) adds a loss; `use_cache`, `past_key_values`, ...; unknown
                ones reach the attention function.

        Returns:
            `logits` (B, S, V), and `loss` with labels; with `head_labels`, as `logits` what the output layer says.

        Raises:
            ValueError: as of `embed`.
        """
        decode = self.language_model if head_labels is None else self.language_model.model
        decoded = decode(
            inputs_embeds=self.embed(
                pixel_values, input_ids, image_flags, image_tiles=image_tiles, image_positions=image_positions
            ),
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
        )
        if head_labels is None:
            return decoded
        known = {} if head_positions is None else {"positions": head_positions}
        head = self.get_output_embeddings()
        return CausalLMOutputWithPast(logits=head(decoded.last_hidden_state, head_labels, **known))

    def embed(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor,
        image_flags: torch.Tensor | None = None,
        *,
        image_tiles: torch.Tensor | None = None,
        image_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embeddings of the tokens, image features in place of `<IMG_CONTEXT>`.

        Args:
            pixel_values: (T, 3, H, W) as of `extract_feature`; None when there is no image.
            input_ids: (B, S).
            image_flags: (T,) or (T, 1); 1 for tiles of images, 0 for a stand-in tile of a row without image. All 1
                when absent.
            image_tiles: (T',) the tiles whose flag is 1, in place of the flags.
            image_positions: (K,) as of `insert_features`.

        Returns:
            (B, S, D).

        Raises:
            ValueError: the image tokens of the tiles and of the text differ in number, or their id is unset.
        """
        if pixel_values is None:
            return self.insert_features(input_ids, None)
        features = self.extract_feature(pixel_values)
        # Selecting keeps the graph even when nothing is selected: stand-in tiles get a gradient of exactly zero.
        if image_tiles is not None:
            features = features.index_select(0, image_tiles)
        elif image_flags is not None:
            features = features[image_flags.reshape(-1).to(features.device).bool()]
        return self.insert_features(input_ids, features, image_positions)

    def insert_features(
        self, input_ids: torch.Tensor, features: torch.Tensor | None, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the embeddings of `input_ids` (B, S) with `features` (T, P, D) in place of `<IMG_CONTEXT>`.

        `positions` (K,) are those of `<IMG_CONTEXT>` in the flattened ids, looked up where they are not given.

        Raises:
            ValueError: as of `embed`.
        """
        inputs_embeds = self.language_model.get_input_embeddings()(input_ids)  # (B, S, D)
        if features is None:
            return inputs_embeds
        if positions is None:
            positions = self._image_positions(input_ids)
        wanted, given = len(positions), features.shape[0] * features.shape[1]
        if wanted != given:
            raise ValueError(
                f"the text has {wanted} image tokens but the tiles give {given} ({features.shape[0]} tiles of "
                f"{features.shape[1]}): an image was cut, left out or tiled differently from its text; "
                "check num_image_token and that max_seq_length cuts no image"
            )
        flat = inputs_embeds.flatten(0, 1)
        filled = flat.index_copy(0, positions, features.flatten(0, 1).to(flat.dtype))
        return filled.view_as(inputs_embeds)

    def _image_positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return where `<IMG_CONTEXT>` stands in the flattened ids (B * S,)."""
        if self.img_context_token_id is None:
            raise ValueError(
                f"img_context_token_id is {self.img_context_token_id}: load with load_model, or set it to "
                "tokenizer.convert_tokens_to_ids('<IMG_CONTEXT>')"
            )
        return (input_ids.flatten() == self.img_context_token_id).nonzero().squeeze(-1)

    def extract_feature(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Turn tiles into image tokens.

        Args:
            pixel_values: (T, 3, H, W), float and normalised, or uint8, which is then normalised here.

        Returns:
            (T, P, D) in the width of the language model.
        """
        if pixel_values.dtype == torch.uint8:
            pixel_values = normalize_tiles(pixel_values, self.normalize_type)
        features = self._vision_features(pixel_values)[:, 1:]  # without the class token
        side = int(features.shape[1] ** 0.5)
        features = self.pixel_shuffle(features.unflatten(1, (side, side)), self.config.downsample_ratio)
        return self.mlp1(features.flatten(1, 2))

    def _vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the chosen hidden state (T, N, D of InternViT)."""
        if self.config.select_layer == -1:
            return self.vision_model(pixel_values).last_hidden_state
        return self.vision_model(pixel_values, output_hidden_states=True).hidden_states[self.config.select_layer]

    def pixel_shuffle(self, x: torch.Tensor, scale_factor: float = 0.5) -> torch.Tensor:
        """Move neighbouring patches into channels: (T, h, w, C) -> (T, h * s, w * s, C / s ** 2).

        "v1" leaves height and width swapped, which models of that version were trained with.
        """
        tiles, height, width, channels = x.shape
        x = x.reshape(tiles, height, int(width * scale_factor), int(channels / scale_factor))
        x = x.permute(0, 2, 1, 3)  # (T, w * s, h, C / s)
        x = x.reshape(tiles, int(width * scale_factor), int(height * scale_factor), int(channels / scale_factor**2))
        return x if self.config.ps_version == "v1" else x.permute(0, 2, 1, 3)


def language_model_class(config: InternVLChatConfig) -> type[PreTrainedModel]:
    """Return the class of the language model; transformers' own are imported when they are first asked for."""
    # By name, not by class: as remote code, transformers loads a module for the config and again for the model.
    if config.llm_config.model_type == InternLM2Config.model_type:
        return InternLM2ForCausalLM
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config.llm_config)]


def _projector(config: InternVLChatConfig) -> nn.Sequential:
    """Build `mlp1`, from shuffled InternViT features to the width of the language model."""
    shuffled = config.vision_config.hidden_size * int(1 / config.downsample_ratio) ** 2
    width = config.llm_config.hidden_size
    return nn.Sequential(nn.LayerNorm(shuffled), nn.Linear(shuffled, width), nn.GELU(), nn.Linear(width, width))


def normalize_tiles(tiles: torch.Tensor, normalize_type: str = "imagenet") -> torch.Tensor:
    """Return `(tiles / 255 - mean) / std`, bit for bit what float preprocessing on the host gives.

    Args:
        tiles: (T, 3, H, W) uint8, RGB, on any device.
        normalize_type: "imagenet", "clip" or "siglip".

    Returns:
        (T, 3, H, W) float32.

    Raises:
        ValueError: the tiles are not uint8 (they may be normalised already), or the type is unknown.
    """
    if tiles.dtype != torch.uint8:
        raise ValueError(f"normalize_tiles takes uint8 tiles, got {tiles.dtype}: were they normalised before?")
    if normalize_type not in NORMALIZATIONS:
        raise ValueError(f"unknown normalize_type {normalize_type!r}; known: {', '.join(NORMALIZATIONS)}")
    # Numbers are filled in on the device, not copied to it: for a copy the host would wait until the GPU is idle.
    mean, std = (
        torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=tiles.device) for value in values])
        for values in NORMALIZATIONS[normalize_type]
    )
    # The divisor is a tensor on the device: CUDA divides by a Python number through its reciprocal, off by one ulp.
    scale = torch.full((), 255.0, dtype=torch.float32, device=tiles.device)
    return (tiles.to(torch.float32) / scale - mean) / std
