"""Between the published layout and `-hf`: the same weights, configuration, prompts, logits and answers."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from internvl_chat.critic.scoring import StepCritic
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_config, load_model, load_tokenizer
from internvl_chat.model.configuration_internlm2 import InternLM2Config
from internvl_chat.model.conversation import TEMPLATES, get_template
from internvl_chat.records.rows import Source
from tools import convert
from tools.checkpoints import conversion, files
from tools.checkpoints.files import save_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIX_B = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {  # language model, vision tower, language model's own fields
    "qwen2": ("qwen2", {}, {}),
    "qwen2, 6B vision": ("qwen2", SIX_B, {}),
    "qwen2, tied": ("qwen2", {}, {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}, {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", {}, {"head_dim": 32, **MOE}),
    "llama": ("llama", {}, {}),
    "internlm3": ("internlm3", {}, {"head_dim": 16}),
    "gpt_oss": ("gpt_oss", {}, {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
}
GPT_OSS_TOKENS = ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"]
GREEDY = {"max_new_tokens": 8, "do_sample": False}


def build(folder, tokenizer_folder, family="qwen2", *, dtype=torch.float32, **fields):
    """Write a random model of a family with the golden tokenizer, in the published layout and in its chat template."""
    language, vision, own = FAMILIES[family]
    tokenizer = load_tokenizer(tokenizer_folder)
    if family == "gpt_oss":
        tokenizer.add_tokens(GPT_OSS_TOKENS, special_tokens=True)
    language_fields = {**SIZES, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "model_type": language, **own}
    language_fields = {"tie_word_embeddings": False, "max_position_embeddings": 512, **language_fields}
    language_fields["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[language]]
    vision_fields = {**SIZES, "qk_normalization": False, "qkv_bias": True, "norm_type": "layer_norm", **vision}
    options = {
        "template": "internvl3_5_gpt_oss" if family == "gpt_oss" else "internvl2_5",
        "ps_version": "v2",
        "dynamic_image_size": True,
        "use_thumbnail": True,
        **fields,
    }
    torch.manual_seed(0)
    config = InternVLChatConfig(
        vision_config={**vision_fields, "image_size": 56, "architectures": ["InternVisionModel"]},
        llm_config={**language_fields, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
        architectures=["InternVLChatModel"],
        force_image_size=56,
        max_dynamic_patch=options.pop("max_dynamic_patch", 4),
        tie_word_embeddings=language_fields["tie_word_embeddings"],
        **options,
    )
    model = InternVLChatModel(config)
    for parameter in model.parameters():  # nothing stays 0 or 1, so that no weight can be mistaken for another
        torch.nn.init.normal_(parameter, std=0.2)
    model.to(dtype).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_folder / name, folder)
    if family == "gpt_oss":
        save_tokenizer(tokenizer, folder, get_template(config.template))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(golden_folder):
    return golden_folder / "ckpt" / "tiny-qwen2"


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request, tokenizer_folder, tmp_path_factory):
    """One model in the published layout, and converted to -hf."""
    root = tmp_path_factory.mktemp("convert")
    published = build(root / "published", tokenizer_folder, request.param)
    conversion.convert_to_hf(published, root / "hf")
    return SimpleNamespace(published=published, hf=root / "hf", family=request.param)


@pytest.fixture
def one(tokenizer_folder, tmp_path):
    return build(tmp_path / "published", tokenizer_folder)


@pytest.fixture
def batch(tokenizer_folder):
    """Two tiles of noise and a row with their image tokens."""
    context = load_tokenizer(tokenizer_folder).convert_tokens_to_ids("<IMG_CONTEXT>")
    ids = torch.arange(20, 50)[None]
    ids[0, 5:13] = context
    generator = torch.Generator().manual_seed(1)
    return {"ids": ids, "tiles": torch.randn(2, 3, 56, 56, generator=generator)}


@pytest.fixture(params=[(50, 60), (130, 60)], ids=["one tile", "three tiles"])
def picture(request):
    width, height = request.param
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def weights(folder):
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )


def test_there_and_back_changes_nothing(pair, tmp_path):
    convert.main(["--checkpoint", str(pair.hf), "--out", str(tmp_path)])
    assert same(weights(pair.published), weights(tmp_path))
    assert load_config(tmp_path).to_dict() == load_config(pair.published).to_dict()
    before, after = load_tokenizer(pair.published), load_tokenizer(tmp_path)
    assert after.get_vocab() == before.get_vocab() and after.all_special_tokens == before.all_special_tokens
    asked = [{"role": "user", "content": "<image>\nHow many?"}]
    rendered = after.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    template = get_template(load_config(tmp_path).template)
    assert rendered == template.prompt([("user", "<image>\nHow many?"), ("assistant", None)])
    text = "<|im_start|>user\n<img><IMG_CONTEXT></img> <video> 3 + 4?<|im_end|>"
    assert after.encode(text) == before.encode(text)
    conversion.convert_to_hf(tmp_path, tmp_path / "hf")
    assert same(weights(pair.hf), weights(tmp_path / "hf"))
    assert (pair.hf / "config.json").read_text() == (tmp_path / "hf" / "config.json").read_text()


def test_transformers_own_class_computes_the_same(pair, batch):
    theirs, report = AutoModelForImageTextToText.from_pretrained(pair.hf, dtype="auto", output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        expected = load_model(pair.published)(batch["tiles"], batch["ids"]).logits
        read_as_hf = load_model(pair.hf)(batch["tiles"], batch["ids"]).logits
        logits = theirs.eval()(input_ids=batch["ids"], pixel_values=batch["tiles"]).logits
    assert torch.equal(read_as_hf, expected)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_what_transformers_saves_is_read_again(pair, tmp_path):
    """A checkpoint that was never ours: transformers writes it, we publish it, and turn it back."""
    AutoModelForImageTextToText.from_pretrained(pair.hf, dtype="auto").save_pretrained(tmp_path / "theirs")
    AutoProcessor.from_pretrained(pair.hf).save_pretrained(tmp_path / "theirs")
    conversion.convert_to_published(tmp_path / "theirs", tmp_path / "published")
    assert same(weights(pair.published), weights(tmp_path / "published"))
    conversion.convert_to_hf(tmp_path / "published", tmp_path / "again")
    assert same(weights(tmp_path / "theirs"), weights(tmp_path / "again"))


@pytest.mark.integration
def test_both_layouts_compute_the_same_without_this_package(tokenizer_folder, batch, logits_elsewhere, tmp_path):
    """By their own code and by transformers' class, for a checkpoint that went to `-hf` and back."""
    expected, folders = [], []
    for family in ("qwen2", "qwen2, 6B vision", "qwen3", "gpt_oss"):
        first, hf, again = (tmp_path / f"{family[-5:].strip()}-{layout}" for layout in ("first", "hf", "again"))
        build(first, tokenizer_folder, family)
        conversion.convert_to_hf(first, hf)
        conversion.convert_to_published(hf, again)
        with torch.no_grad():
            expected += [load_model(first)(batch["tiles"], batch["ids"]).logits] * 2
        folders += [hf, again]
    for folder, ours, theirs in zip(folders, expected, logits_elsewhere(batch, folders), strict=True):
        assert torch.allclose(theirs, ours, rtol=0, atol=1e-5), folder


def ask(processor, text, pictures):
    """The inputs of a question by transformers' processor."""
    content = [{"type": "image", "image": picture} for picture in pictures] + [{"type": "text", "text": text}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template([{"role": "user", "content": content}], **options)


def test_the_processor_asks_as_we_do_and_gets_our_answer(tokenizer_folder, picture, tmp_path):
    published = build(tmp_path / "published", tokenizer_folder)
    conversion.convert_to_hf(published, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    inputs = ask(processor, "How many?", [picture])
    rows = RowTokenizer(load_tokenizer(published), "internvl2_5", 4)
    tiles = len(inputs["pixel_values"])
    assert tiles == (1 if picture.width < 60 else 3)
    row = rows.tokenize("<image>\nHow many?", ["x"], 1, Source("here", 1))
    assert inputs["input_ids"][0].tolist() == list(row.prompt_ids([tiles]))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", dtype="auto").eval()
    output = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(output, skip_special_tokens=True).strip()
    ours = load_model(published)
    expected = ours.chat(processor.tokenizer, inputs["pixel_values"], "How many?", GREEDY)
    assert answer == expected and len(answer) > 3


@pytest.mark.parametrize("family", ["qwen2", "gpt_oss"])
def test_conversations_in_the_chat_template(family, tokenizer_folder, tmp_path):
    conversion.convert_to_hf(build(tmp_path / "published", tokenizer_folder, family), tmp_path / "hf")
    processor, template = AutoProcessor.from_pretrained(tmp_path / "hf"), load_model(tmp_path / "hf").conv_template
    turns = [("user", "1 + 1?"), ("assistant", "2"), ("user", "And \\boxed{}?"), ("assistant", "3")]
    for system in (None, "Think first."):
        first = [{"role": "system", "content": system}] if system else []
        messages = first + [{"role": role, "content": content} for role, content in turns]
        rendered = processor.apply_chat_template(messages, tokenize=False)
        assert rendered == template.prompt(turns, system)
        asked = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        assert asked == template.prompt([*turns[:-1], ("assistant", None)], system)


def test_several_pictures_in_the_chat_template(one, tmp_path):
    conversion.convert_to_hf(one, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    pictures = [Image.new("RGB", (56, 56)), Image.new("RGB", (56, 56), "red")]
    context = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    text = processor.tokenizer.decode(ask(processor, "Which?", pictures)["input_ids"][0])
    assert text.endswith(f"<|im_start|>user\n{context}\n{context}\nWhich?<|im_end|>\n<|im_start|>assistant\n")


def test_published_settings_survive_in_the_processor(tokenizer_folder, tmp_path):
    options = {"max_dynamic_patch": 9, "min_dynamic_patch": 2, "template": "Hermes-2", "select_layer": -2}
    build(tmp_path / "a", tokenizer_folder, **options)
    conversion.convert_to_hf(tmp_path / "a", tmp_path / "b")
    config = load_config(tmp_path / "b")
    assert {name: getattr(config, name) for name in options} == options


def test_a_critic_stays_one(tokenizer_folder, tmp_path):
    """There, back, and through a save by transformers' own class: all that its training noted, read by who scores."""
    noted = {"system_message": 'Judge "this".', "more": [1, {"of": "it"}]}
    published = build(tmp_path / "published", tokenizer_folder, critic=noted)
    conversion.convert_to_hf(published, tmp_path / "hf")
    conversion.convert_to_published(tmp_path / "hf", tmp_path / "again")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", dtype="auto").save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["critic"] == noted
    for name in ("published", "hf", "again"):
        critic = StepCritic.load(str(tmp_path / name), device="cpu")
        assert critic.system == critic.model.system_message == noted["system_message"], name
        assert critic.model.config.critic == noted


def test_an_hf_checkpoint_without_a_chat_template_gets_that_of_its_language_model(
    tokenizer_folder, tmp_path, monkeypatch
):
    """Also where a template without a system message is known: that would be found in any text."""
    monkeypatch.setitem(TEMPLATES, "bare", replace(TEMPLATES["internvl2_5"], name="bare", system_message=""))
    for family, template in (("gpt_oss", "internvl3_5_gpt_oss"), ("qwen3", "internvl2_5")):
        conversion.convert_to_hf(build(tmp_path / "a" / family, tokenizer_folder, family), tmp_path / "b" / family)
        (tmp_path / "b" / family / "chat_template.jinja").unlink()
        assert load_config(tmp_path / "b" / family).template == template


def test_without_tiling_the_processor_makes_one_tile(tokenizer_folder, tmp_path):
    build(tmp_path / "a", tokenizer_folder, dynamic_image_size=False)
    conversion.convert_to_hf(tmp_path / "a", tmp_path / "b")
    inputs = ask(AutoProcessor.from_pretrained(tmp_path / "b"), "What?", [Image.new("RGB", (200, 50))])
    assert len(inputs["pixel_values"]) == 1


def test_bfloat16_in_several_files_keeps_every_bit(tokenizer_folder, tmp_path, monkeypatch):
    build(tmp_path / "a", tokenizer_folder, dtype=torch.bfloat16)
    monkeypatch.setattr(files, "SHARD_SIZE", "100KB")
    conversion.convert_to_hf(tmp_path / "a", tmp_path / "b")
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 2
    conversion.convert_to_published(tmp_path / "b", tmp_path / "c")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert {value.dtype for value in weights(tmp_path / "b").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "c" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_internlm2_has_no_hf_layout(golden_folder, tmp_path, monkeypatch):
    """Also where an engine made it known to transformers' Auto classes."""
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "internlm2", InternLM2Config)
    with pytest.raises(ValueError, match="'internlm2', for which transformers has no class.*keep the published layout"):
        conversion.convert_to_hf(golden_folder / "ckpt" / "tiny-internlm2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"pad2square": True}, "pad2square"),
        ({"use_thumbnail": False}, "without a thumbnail"),
    ],
)
def test_what_the_hf_layout_has_no_place_for(tokenizer_folder, tmp_path, fields, message):
    build(tmp_path / "a", tokenizer_folder, **fields)
    with pytest.raises(ValueError, match=message):
        conversion.convert_to_hf(tmp_path / "a", tmp_path / "b")


def test_an_epsilon_that_the_hf_layout_ignores(tokenizer_folder, tmp_path):
    build(tmp_path / "a", tokenizer_folder, "qwen2, 6B vision")
    path = tmp_path / "a" / "config.json"
    path.write_text(path.read_text().replace('"layer_norm_eps": 1e-06', '"layer_norm_eps": 1e-05'))
    with pytest.raises(ValueError, match="layer_norm_eps is 1e-05"):
        conversion.convert_to_hf(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (None, {"projector_hidden_act": "relu"}, "'projector_hidden_act': 'relu'}, which no published InternVL has"),
        (None, {"vision_feature_select_strategy": "full"}, "'vision_feature_select_strategy': 'full'"),
        (None, {"vision_feature_layer": [-1, -2]}, "'vision_feature_layer'"),
        ("vision_config", {"image_size": [56, 84]}, "squares"),
        ("text_config", {"model_type": "clip_text_model"}, "'text_config.model_type': 'clip_text_model'"),
    ],
)
def test_what_no_published_model_has(one, tmp_path, part, fields, message):
    conversion.convert_to_hf(one, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    content = json.loads(path.read_text())
    (content[part] if part else content).update(fields)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "hf")


def test_a_weight_that_hf_has_and_we_do_not(one, tmp_path):
    conversion.convert_to_hf(one, tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    save_file({**load_file(path), "vision_tower.layernorm.weight": torch.ones(64)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 unexpected: vision_tower.layernorm.weight"):
        load_model(tmp_path / "hf")


def test_weights_in_several_number_formats(one, tmp_path):
    path = one / "model.safetensors"
    content = load_file(path)
    content["mlp1.1.weight"] = content["mlp1.1.weight"].bfloat16()
    save_file(content, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="several number formats .torch.bfloat16, torch.float32"):
        conversion.convert_to_hf(one, tmp_path / "hf")


def test_only_pickled_weights(one, tmp_path):
    (one / "model.safetensors").rename(one / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only pickled weights"):
        conversion.convert_to_hf(one, tmp_path / "hf")


def test_nothing_is_overwritten(one):
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        conversion.convert_to_hf(one, one)


def test_the_help_tells_both_directions(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    text = capsys.readouterr().out
    assert "published -> -hf" in text and "-hf -> published" in text and "InternLM2 has no" in text


def test_the_direction_is_said(one, tmp_path, capsys):
    convert.main(["--checkpoint", str(one), "--out", str(tmp_path / "hf")])
    convert.main(["--checkpoint", str(tmp_path / "hf"), "--out", str(tmp_path / "again")])
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path / 'again'}: -hf -> published"
