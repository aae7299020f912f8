import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from internvl_chat.model.configuration_internlm2 import InternLM2Config
from internvl_chat.model.modeling_internlm2 import InternLM2Attention, InternLM2ForCausalLM


def config(**fields):
    settings = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    return InternLM2Config(**{**settings, "bias": False, "rope_theta": 1e4, **fields})


def build(**fields):
    torch.manual_seed(0)
    return InternLM2ForCausalLM(config(**fields)).eval()


IDS = torch.arange(40).view(2, 20) % 47


def test_wqkv_interleaves_queries_key_and_value_per_key_value_head():
    settings = config()
    settings._attn_implementation = "eager"
    attention = InternLM2Attention(settings, layer_idx=0)
    states, length = torch.randn(1, 5, 32), 5
    cos, sin = torch.ones(1, length, 8), torch.zeros(1, length, 8)  # no rotation
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
    output, _ = attention(states, position_embeddings=(cos, sin), attention_mask=causal)

    rows = attention.wqkv(states)[0]  # blocks of 8: q q k v | q q k v
    blocks = rows.split(8, dim=-1)
    heads = []
    for query, key, value in ((0, 2, 3), (1, 2, 3), (4, 6, 7), (5, 6, 7)):
        scores = blocks[query] @ blocks[key].T / 8**0.5 + causal[0, 0]
        heads.append(torch.softmax(scores, dim=-1) @ blocks[value])
    torch.testing.assert_close(output[0], attention.wo(torch.cat(heads, dim=-1)))


def test_eager_equals_sdpa_with_padding():
    mask = torch.ones_like(IDS)
    mask[0, 15:] = 0
    model = build()
    fused = model(IDS, attention_mask=mask).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(IDS, attention_mask=mask).logits[mask.bool()], fused[mask.bool()])


def test_linear_rope_scaling_divides_positions():
    scaled, plain = build(rope_scaling={"type": "linear", "factor": 2.0}), build()
    positions = torch.arange(20)[None]
    torch.testing.assert_close(scaled(IDS).logits, plain(IDS, position_ids=positions / 2).logits)


def test_dynamic_rope_scaling_changes_the_base_beyond_the_trained_length():
    factor, limit, head_dim = 2.0, 16, 8
    dynamic = build(rope_scaling={"type": "dynamic", "factor": factor}, max_position_embeddings=limit)
    torch.testing.assert_close(dynamic(IDS[:, :16]).logits, build()(IDS[:, :16]).logits)
    stretch = (factor * 20 / limit - (factor - 1)) ** (head_dim / (head_dim - 2))
    torch.testing.assert_close(dynamic(IDS).logits, build(rope_theta=1e4 * stretch)(IDS).logits)
    torch.testing.assert_close(dynamic(IDS[:, :15]).logits, build()(IDS[:, :15]).logits)  # and back again


def test_cache_gives_the_same_logits():
    model = build()
    whole = model(IDS).logits
    first = model(IDS[:, :12], use_cache=True)
    second = model(IDS[:, 12:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole)


def test_generation_with_and_without_cache():
    model = build()
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(IDS)
    cached = model.generate(IDS, attention_mask=mask, **options)
    assert cached.shape == (2, 32)
    assert torch.equal(cached, model.generate(IDS, attention_mask=mask, use_cache=False, **options))


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for enabled in (False, True):
        model = build().train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_loss_is_the_shifted_cross_entropy():
    labels = IDS.clone()
    labels[:, :5] = -100
    out = build()(IDS, labels=labels)
    logps = out.logits.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(out.loss, -logps[:, 4:].mean())


def test_logits_to_keep():
    model = build()
    whole = model(IDS).logits
    torch.testing.assert_close(model(IDS, logits_to_keep=3).logits, whole[:, -3:])
    torch.testing.assert_close(model(IDS, logits_to_keep=torch.tensor([0, 7])).logits, whole[:, [0, 7]])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_keyword_reaches_a_registered_attention(checkpointing):
    seen = []

    def recording(module, query, key, value, attention_mask, **kwargs):
        seen.append((module.layer_idx, kwargs["plan"]))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("recording", recording)
    model = build().train()
    model.set_attn_implementation("recording")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()
    states = model.model(inputs_embeds=embeds, plan="packed", use_cache=False).last_hidden_state
    states.sum().backward()
    forward = [(0, "packed"), (1, "packed")]
    assert seen == forward + ([(1, "packed"), (0, "packed")] if checkpointing else [])
    assert embeds.grad.abs().sum() > 0


def test_hidden_states_and_attentions_on_request():
    model = build()
    model.set_attn_implementation("eager")
    out = model(IDS, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in out.hidden_states] == [(2, 20, 32)] * 3
    assert out.attentions[0].shape == (2, 4, 20, 20)


def test_tied_embeddings():
    model = build(tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_exactly_one_input():
    with pytest.raises(ValueError, match="give one of input_ids"):
        build().model()
