import pytest
import torch
from torch import nn

from internvl_chat.model.configuration_intern_vit import InternVisionConfig
from internvl_chat.model.modeling_intern_vit import InternAttention, InternVisionModel, resize_position_grid
from internvl_chat.model.modeling_internvl import normalize_tiles

TOLERANCE = 1e-4  # of the golden figures; measured differences are below 2e-6


def small(**fields):
    settings = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 3}
    return InternVisionConfig(**{**settings, "image_size": 28, "patch_size": 14, **fields})


@pytest.mark.parametrize("side", ["policy", "ref"])
def test_golden_hidden_states(family, side):
    with torch.no_grad():
        states = family.load(side).vision_model(normalize_tiles(family.tiles("en-4", "en-3"))).last_hidden_state
    expected = torch.from_numpy(family.forward[f"{side}|b2|vit_last_hidden_state"])
    torch.testing.assert_close(states, expected, atol=TOLERANCE, rtol=0)


def test_golden_other_tile_size(family):
    with torch.no_grad():
        states = family.load().vision_model(family.vit["in84"]).last_hidden_state
    torch.testing.assert_close(states, family.vit["in84|vit"], atol=TOLERANCE, rtol=0)


def test_golden_resized_position_embedding(family):
    vision = family.load().vision_model
    before = vision(family.vit["in84"]).last_hidden_state
    vision.resize_pos_embeddings(56, 84, 14)
    resized = vision.embeddings.position_embedding.detach()
    torch.testing.assert_close(resized, family.vit["pos_embed_resized_56_to_84"], atol=1e-6, rtol=0)
    assert vision.config.image_size == 84
    torch.testing.assert_close(vision(family.vit["in84"]).last_hidden_state, before)


def test_resizing_to_the_same_grid_changes_no_bit():
    positions = torch.randn(1, 9, 4)
    assert torch.equal(resize_position_grid(positions, 3, 3, 3), positions)


def test_eager_equals_sdpa(family):
    tiles = normalize_tiles(family.tiles("en-4"))
    vision = family.load().vision_model
    with torch.no_grad():
        fused = vision(tiles).last_hidden_state
        vision.set_attn_implementation("eager")
        eager = vision(tiles, output_attentions=True)
    torch.testing.assert_close(eager.last_hidden_state, fused, atol=1e-5, rtol=0)
    assert eager.attentions[0].shape == (len(tiles), 4, 17, 17)


def test_attention_by_hand():
    config = small(num_attention_heads=2, qk_normalization=True, qkv_bias=True)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    attention = InternAttention(config)
    nn.init.uniform_(attention.q_norm.weight)
    states = torch.randn(1, 5, 8)
    query, key, value = attention.qkv(states)[0].split(8, dim=-1)
    query, key = (  # one norm over both heads
        rows / rows.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() * norm.weight
        for rows, norm in ((query, attention.q_norm), (key, attention.k_norm))
    )
    heads = [
        torch.softmax(query[:, part] @ key[:, part].T / 4**0.5, dim=-1) @ value[:, part]
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(attention(states)[0][0], attention.proj(torch.cat(heads, dim=-1)))


def test_drop_path_rises_from_zero_to_the_rate():
    model = InternVisionModel(small(drop_path_rate=0.4))
    assert [layer.drop_path1.drop_prob for layer in model.encoder.layers] == pytest.approx([0, 0.2, 0.4])
    assert [layer.drop_path2.drop_prob for layer in model.encoder.layers] == pytest.approx([0, 0.2, 0.4])


def test_drop_path_drops_whole_branches_in_training_only():
    model = InternVisionModel(small(drop_path_rate=0.9))
    tiles = torch.randn(1, 3, 28, 28)
    assert torch.equal(model.eval()(tiles).last_hidden_state, model(tiles).last_hidden_state)
    model.train()
    outputs = {model(tiles).last_hidden_state.sum().item() for _ in range(8)}
    assert len(outputs) > 1


def test_hidden_states_are_the_embeddings_and_every_layer():
    model = InternVisionModel(small()).eval()
    out = model(torch.randn(2, 3, 28, 28), output_hidden_states=True)
    assert len(out.hidden_states) == 4
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.pooler_output, out.last_hidden_state[:, 0])


@pytest.mark.parametrize("tiles", [1, 2])
def test_gradients_lie_in_memory_as_the_weights_do(tiles):
    """DDP copies, and warns of, what it has to lay out anew."""
    model = InternVisionModel(small())
    model(torch.randn(tiles, 3, 28, 28)).last_hidden_state.sum().backward()
    assert all(weight.grad.stride() == weight.stride() for weight in model.parameters())


def test_fresh_weights():
    model = InternVisionModel(small(initializer_range=0.5, initializer_factor=0.25))
    assert model.encoder.layers[0].ls1.unique().tolist() == [0.25]
    assert 0.2 < model.embeddings.position_embedding.std() < 0.8


def test_bfloat16_autocast_of_the_6b_form(internlm2):
    vision = internlm2.load().vision_model
    tiles = normalize_tiles(internlm2.tiles("en-0"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = vision(tiles).last_hidden_state
    expected = vision(tiles).last_hidden_state
    torch.testing.assert_close(states.float(), expected, atol=0.1, rtol=0.05)
