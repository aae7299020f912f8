"""Configuration of InternViT, with the field names of the published checkpoints."""

from transformers import PreTrainedConfig


class InternVisionConfig(PreTrainedConfig):
    """Sizes and options of InternViT. Both forms carry the model type of the 6B one.

    Attributes:
        num_channels: colour channels of a tile.
        patch_size: side of a patch in pixels.
        image_size: side of a tile in pixels for which the position embedding is made.
        hidden_size: width D, a multiple of `num_attention_heads`.
        num_attention_heads: heads.
        intermediate_size: width of the MLP.
        num_hidden_layers: layers.
        qkv_bias: bias in the fused query-key-value projection (300M form).
        qk_normalization: RMS norm of queries and keys over all heads (6B form).
        norm_type: "layer_norm" (300M) or "rms_norm" (6B).
        layer_norm_eps: epsilon of the norms.
        hidden_act: activation of the MLP.
        drop_path_rate: stochastic depth of the last layer in 0..1; rises linearly from 0 at the first.
        dropout: dropout after the attention projection, 0..1.
        attention_dropout: dropout of attention weights, 0..1.
        initializer_range: standard deviation of fresh weights.
        initializer_factor: first value of the layer scales.
        use_flash_attn: kept from the checkpoint, without effect here: attention is chosen by `attn_implementation`.

    Raises:
        ValueError: heads do not divide the width, or the norm type is unknown.
    """

    model_type = "intern_vit_6b"
    base_config_key = "vision_config"

    num_channels: int = 3
    patch_size: int = 14
    image_size: int = 224
    hidden_size: int = 3200
    num_attention_heads: int = 25
    intermediate_size: int = 12800
    num_hidden_layers: int = 48
    qkv_bias: bool = False
    qk_normalization: bool = True
    norm_type: str = "rms_norm"
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    drop_path_rate: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 0.1
    use_flash_attn: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"vision hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} attention heads"
            )
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(f"vision norm_type is {self.norm_type!r}; known: 'layer_norm', 'rms_norm'")
        super().__post_init__(**kwargs)
