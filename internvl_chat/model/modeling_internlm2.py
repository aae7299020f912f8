"""InternLM2 and InternLM2.5, with the parameter names of the published checkpoints.

A Llama with its projections named and fused differently, so norm, rotation and eager attention are transformers' own.
Attention goes through transformers' attention interface, keywords included: any registered function works.
Shapes: B rows, S tokens, D width, V vocabulary.
"""

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_internlm2 import InternLM2Config
from .upstream import (
    ACT2FN,
    ALL_ATTENTION_FUNCTIONS,
    GradientCheckpointingLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    can_return_tuple,
    capture_outputs,
    create_causal_mask,
    eager_attention_forward,
    merge_with_config_defaults,
)


class InternLM2Attention(nn.Module):
    """Causal attention; `wqkv` holds, for each key-value head in turn, its query heads, then key, then value."""

    is_causal = True

    def __init__(self, config: InternLM2Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // key_value_heads
        fused = (config.num_attention_heads + 2 * key_value_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, fused, bias=config.bias)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, S, D) -> (B, S, D) and, from eager attention only, the weights."""
        fused = self.wqkv(hidden_states).unflatten(-1, (-1, self.num_key_value_groups + 2, self.head_dim))
        query = fused[..., :-2, :].flatten(2, 3).transpose(1, 2)  # (B, heads, S, head_dim)
        key, value = fused[..., -2, :].transpose(1, 2), fused[..., -1, :].transpose(1, 2)  # (B, kv heads, S, head_dim)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self, query, key, value, attention_mask, scaling=self.head_dim**-0.5, dropout=0.0, **kwargs
        )
        return self.wo(output.flatten(-2)), weights


class InternLM2MLP(nn.Module):
    """Gated MLP: w2(act(w1 x) * w3 x)."""

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.w2(self.act_fn(self.w1(hidden_states)) * self.w3(hidden_states))


class InternLM2DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm decoder layer."""

    def __init__(self, config: InternLM2Config, layer_idx: int) -> None:
        super().__init__()
        self.attention = InternLM2Attention(config, layer_idx)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """(B, S, D) -> (B, S, D); `kwargs` go to the attention."""
        attended, _ = self.attention(self.attention_norm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states))


def _next_positions(inputs_embeds: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
    """Return (1, S) positions that count on from the cache."""
    seen = 0 if past_key_values is None else past_key_values.get_seq_length()
    return torch.arange(seen, seen + inputs_embeds.shape[1], device=inputs_embeds.device)[None]


class InternLM2PreTrainedModel(PreTrainedModel):
    """What transformers needs to know about both classes below."""

    config_class = InternLM2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "tok_embeddings"
    _no_split_modules = ["InternLM2DecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": InternLM2DecoderLayer, "attentions": InternLM2Attention}


class InternLM2Model(InternLM2PreTrainedModel):
    """The decoder without its output layer."""

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            [InternLM2DecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        """Decode.

        Args:
            input_ids: (B, S) token ids, or give `inputs_embeds`.
            attention_mask: (B, S), 1 for tokens and 0 for padding, or a mask that the attention function takes as is.
            position_ids: (B, S); counted on from the cache when absent.
            past_key_values: keys and values so far.
            inputs_embeds: (B, S, D).
            use_cache: return the keys and values.
            kwargs: go to the attention function.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                f"give one of input_ids ({input_ids is not None}) and inputs_embeds ({inputs_embeds is not None})"
            )
        if inputs_embeds is None:
            inputs_embeds = self.tok_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = _next_positions(inputs_embeds, past_key_values)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values if use_cache else None
        )


class InternLM2ForCausalLM(InternLM2PreTrainedModel, GenerationMixin):
    """The decoder with its output layer."""

    _tied_weights_keys = {"output.weight": "model.tok_embeddings.weight"}

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__(config)
        self.model = InternLM2Model(config)
        self.vocab_size = config.vocab_size
        self.output: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer (V, D)."""
        return self.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.output = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Decode and score.

        Args:
            input_ids: (B, S) token ids, or give `inputs_embeds`.
            labels: (B, S) with -100 where nothing is learned; adds the mean cross entropy as `loss`.
            logits_to_keep: score only the last so many positions, or these indices; 0 is all.
            kwargs: as of `InternLM2Model.forward`.

        Returns:
            `logits` (B, S, V).
        """
        outputs = self.model(input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.output(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
