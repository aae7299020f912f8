import pytest
import torch

from internvl_chat.model import InternVLChatModel, load_config

TOLERANCE = 1e-4  # of the golden figures; measured differences are below 1e-5
BATCHES = {
    "b1": ["en-1"],
    "b2": ["en-4", "en-3"],
    "b3": ["zh-3", "en-0", "en-2"],
    "b4": ["zh-0", "zh-4"],
    "b5": ["en-3", "zh-2"],
}


def token_logps(logits, labels):
    """(B, S, V) and (B, S) -> (B, S - 1), zero where there is no label."""
    targets = labels[:, 1:].clamp(min=0).unsqueeze(-1)
    logps = logits[:, :-1].log_softmax(-1).gather(-1, targets).squeeze(-1)
    return logps * (labels[:, 1:] != -100)


@pytest.mark.parametrize("side", ["policy", "ref"])
def test_golden_features(family, side):
    with torch.no_grad():
        features = family.load(side).extract_feature(family.tiles("en-4", "en-3"))
    expected = torch.from_numpy(family.forward[f"{side}|b2|extract_feature"])
    torch.testing.assert_close(features, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("settings", "pixels", "key"),
    [
        ({}, "in84", "in84|extract_feature"),
        ({}, "in56", "in56|extract_feature_v2"),
        ({"ps_version": "v1"}, "in56", "in56|extract_feature_v1"),
        ({"select_layer": -2}, "in56", "in56|extract_feature_select_-2"),
    ],
)
def test_golden_feature_variants(family, settings, pixels, key):
    config = load_config(family.folder)
    for name, value in settings.items():
        setattr(config, name, value)
    with torch.no_grad():
        features = family.load(config=config).extract_feature(family.vit[pixels])
    torch.testing.assert_close(features, family.vit[key], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_golden_logits_and_hidden_states(family, attention):
    model = family.load("policy", attn_implementation=attention)
    sequences = [family.sequence(sample, "chosen")[0] for sample in BATCHES["b2"]]
    ids, mask = family.padded(sequences)
    with torch.no_grad():
        embeds = model.embed(family.tiles(*BATCHES["b2"]), ids, family.flags(*BATCHES["b2"]))
        states = model.language_model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        logits = model(family.tiles(*BATCHES["b2"]), ids, mask, image_flags=family.flags(*BATCHES["b2"])).logits
    for name, values in (("inputs_embeds", embeds), ("last_hidden", states), ("logits", logits)):
        expected = torch.from_numpy(family.forward[f"policy|b2|chosen_{name}"])
        for row, sequence in enumerate(sequences):  # padding is nobody's business
            real = slice(len(sequence))
            torch.testing.assert_close(values[row, real], expected[row, real], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("side", ["policy", "ref"])
def test_golden_token_logps(family, side, batch):
    model = family.load(side)
    rows = [family.sequence(sample, answer) for answer in ("chosen", "rejected") for sample in BATCHES[batch]]
    ids, mask = family.padded([row[0] for row in rows])
    labels = family.padded([row[1] for row in rows])[0].masked_fill(mask == 0, -100)
    samples = BATCHES[batch] * 2
    with torch.no_grad():
        logits = model(family.tiles(*samples), ids, mask, image_flags=family.flags(*samples)).logits
    expected = torch.from_numpy(family.forward[f"{side}|{batch}|token_logps"])[:, : ids.shape[1] - 1]
    torch.testing.assert_close(token_logps(logits, labels), expected, atol=TOLERANCE, rtol=0)


def test_pixel_shuffle_by_hand(build_model):
    model = build_model("qwen2")
    patches = torch.arange(16.0).view(1, 4, 4, 1)  # value = 4 * row + column
    shuffled = model.pixel_shuffle(patches, 0.5)  # each 2 x 2 block becomes 4 channels
    assert shuffled[0, 0, 0].tolist() == [0, 1, 4, 5]
    assert shuffled[0, 0, 1].tolist() == [2, 3, 6, 7]
    assert shuffled[0, 1, 0].tolist() == [8, 9, 12, 13]
    model.config.ps_version = "v1"
    assert model.pixel_shuffle(patches, 0.5)[0, 0, 1].tolist() == [8, 9, 12, 13]


def test_features_stand_in_the_place_of_their_tokens(build_model):
    model = build_model("qwen2")
    tiles = torch.randint(0, 255, (3, 3, 56, 56), dtype=torch.uint8)
    ids = torch.full((2, 12), 7)
    ids[0, 2:6] = ids[1, 1:5] = model.img_context_token_id
    embeds = model.embed(tiles, ids, torch.tensor([[1], [0], [1]]))  # the middle tile is a stand-in
    features, words = model.extract_feature(tiles), model.get_input_embeddings()(ids)
    assert torch.equal(embeds[0, 2:6], features[0])
    assert torch.equal(embeds[1, 1:5], features[2])
    assert torch.equal(embeds[0, 6:], words[0, 6:]) and torch.equal(embeds[1, :1], words[1, :1])


def test_uint8_tiles_equal_normalised_ones(family):
    model = family.load()
    tiles = family.tiles("en-0")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        assert torch.equal(model.extract_feature(tiles), model.extract_feature((tiles / 255 - mean) / std))


def test_a_stand_in_tile_changes_nothing_and_has_zero_gradient(family):
    model, ids = family.load(), torch.arange(20)[None]
    blank = torch.full((1, 3, 56, 56), 255, dtype=torch.uint8)
    logits = model(blank, ids, image_flags=torch.tensor([0])).logits
    assert torch.equal(logits, model(None, ids).logits)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("vision_model", "mlp1")):
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_gradients_reach_every_part(family):
    model = family.load()
    ids, mask = family.padded([family.sequence("en-0", "chosen")[0]])
    model(family.tiles("en-0"), ids, mask, labels=ids).loss.backward()
    for part in ("vision_model.embeddings.patch_embedding", "mlp1.3", "language_model.model.layers.0.mlp"):
        name = part.replace("mlp", "feed_forward") if "layers" in part and family.name == "tiny-internlm2" else part
        assert any(p.grad.any() for n, p in model.named_parameters() if n.startswith(name)), name


def test_gradient_checkpointing_gives_the_same_gradients(family):
    ids, mask = family.padded([family.sequence("en-0", "chosen")[0]])
    gradients = []
    for enabled in (False, True):
        config = load_config(family.folder)
        config.vision_config.drop_path_rate = 0.0
        model = family.load(config=config).train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.vision_model.encoder.layers[0].gradient_checkpointing
        model(family.tiles("en-0"), ids, mask, labels=ids, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_attention_is_chosen_per_part(family):
    model = family.load()
    assert model.vision_model.config._attn_implementation == "sdpa"
    assert model.language_model.config._attn_implementation == "sdpa"
    model.language_model.set_attn_implementation("eager")
    assert model.vision_model.config._attn_implementation == "sdpa"
    assert model.language_model.config._attn_implementation == "eager"


@pytest.mark.parametrize("flags", [[1, 1], [0, 0]])
def test_a_count_mismatch_names_both_counts(build_model, flags):
    model = build_model("qwen2")
    ids = torch.full((1, 10), 7)
    ids[0, 2:6] = model.img_context_token_id
    with pytest.raises(ValueError, match=f"4 image tokens but the tiles give {4 * sum(flags)} .*max_seq_length"):
        model(torch.zeros(2, 3, 56, 56), ids, image_flags=torch.tensor(flags))


def test_an_unset_context_token_id_names_the_cure(build_model):
    model = build_model("qwen2")
    model.img_context_token_id = None
    with pytest.raises(ValueError, match="img_context_token_id is None: load with load_model"):
        model(torch.zeros(1, 3, 56, 56), torch.full((1, 10), 7))


def test_an_unknown_template_is_known_at_once(build_config):
    config = build_config("qwen2")
    config.template = "internvl9"
    with pytest.raises(ValueError, match="unknown chat template 'internvl9'"):
        InternVLChatModel(config)


def test_language_model_shares_the_configuration(family):
    model = family.load()
    assert model.language_model.config is model.config.llm_config
    model.resize_token_embeddings(1000, mean_resizing=False)
    assert model.config.llm_config.vocab_size == 1000
    assert model.get_output_embeddings().weight.shape[0] == 1000


@pytest.mark.parametrize("rows", [1, 3])
def test_bfloat16(family, rows):
    model = family.load(dtype=torch.bfloat16)
    ids, mask = family.padded([family.sequence("en-0", "chosen")[0]] * rows)
    logits = model(family.tiles(*["en-0"] * rows), ids, mask).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
