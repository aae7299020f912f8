"""Configuration of InternLM2, with the field names of the published checkpoints."""

from transformers import PreTrainedConfig


class InternLM2Config(PreTrainedConfig):
    """Sizes and options of InternLM2 and InternLM2.5.

    `rope_theta` and `rope_scaling` of a published config.json become `rope_parameters`, as in every transformers model.

    Attributes:
        vocab_size: V.
        hidden_size: width D.
        intermediate_size: width of the gated MLP.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: key-value heads, a divisor of the query heads; as many as those if None.
        hidden_act: activation of the gate.
        max_position_embeddings: positions without rope scaling.
        initializer_range: standard deviation of fresh weights.
        rms_norm_eps: epsilon of the norms.
        use_cache: keep keys and values when generating.
        tie_word_embeddings: one matrix for the embedding and the output.
        bias: bias in the attention projections.
        rope_parameters: {"rope_type", "rope_theta", "factor"}.

    Raises:
        ValueError: the heads do not divide as they must.
    """

    model_type = "internlm2"
    keys_to_ignore_at_inference = ["past_key_values"]
    default_theta = 10000.0

    vocab_size: int = 103168
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bias: bool = True
    rope_parameters: dict | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: object) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % groups:
            raise ValueError(
                f"InternLM2: {heads} heads must divide the width {self.hidden_size}, "
                f"and {groups} key-value heads must divide the heads"
            )
        super().__post_init__(**kwargs)
