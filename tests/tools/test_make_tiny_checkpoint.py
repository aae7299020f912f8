"""Tiny checkpoints: the published layout, both families, a tokenizer that loses nothing, weights by the seed."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.model import load_config, load_model, load_tokenizer
from internvl_chat.model.conversation import get_template
from tools.checkpoints.fresh import IMAGE_TOKENS, VIT_FORMS
from tools.checkpoints.tiny import corpus, make_tiny_checkpoint
from tools.make_tiny_checkpoint import parse_arguments
from tools.visual_reasoning.questions import ask_anything

SMALL = ["--vocab_size", "512", "--hidden_size", "64", "--intermediate_size", "96", "--vit_hidden_size", "48"]
GOLDEN = {("qwen2", "300M"): "tiny-qwen2", ("internlm2", "6B"): "tiny-internlm2"}


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    """A few rows, so that tokenizers are trained quickly."""
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    rng = random.Random(0)
    questions = [ask_anything(rng) for _ in range(60)]
    rows = [{"question": question.step_by_step, "chosen": question.solution().response} for question in questions]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder, corpus_file, *flags):
    make_tiny_checkpoint(parse_arguments(["--out", str(folder), "--corpus", str(corpus_file), *SMALL, *flags]))
    return folder


@pytest.fixture(scope="module", params=[(family, vit) for family in ("qwen2", "internlm2") for vit in VIT_FORMS])
def made(request, tmp_path_factory, corpus_file):
    family, vit = request.param
    folder = make(tmp_path_factory.mktemp(f"{family}-{vit}") / "model", corpus_file, "--family", family, "--vit", vit)
    return family, vit, folder


def test_it_loads_and_answers(made):
    _, _, folder = made
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    tiles = torch.zeros(3, 3, 56, 56)
    answer = model.chat(tokenizer, tiles, "有几个圆形？", {"max_new_tokens": 3, "do_sample": False})
    assert isinstance(answer, str)
    assert model.num_image_token == 4


def test_other_tools_ask_as_the_model_was_trained(made):
    """By the chat template of the tokenizer: lmdeploy and vLLM put a question bare where there is none."""
    _, _, folder = made
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    turns = [("user", "<image>\nHow many?"), ("assistant", None)]
    assert rendered == get_template("internvl2_5").prompt(turns)
    assert not (folder / "chat_template.jinja").exists()


def test_tensors_are_named_and_shaped_as_the_published_ones(made, golden_folder):
    family, vit, folder = made
    if (family, vit) not in GOLDEN:
        pytest.skip("no golden checkpoint of this combination")
    published = load_file(golden_folder / "ckpt" / GOLDEN[family, vit] / "model.safetensors")
    ours = load_file(folder / "model.safetensors")
    deeper = {name.replace(".layers.2.", ".layers.1.") for name in set(ours) ^ set(published)}
    assert deeper <= set(ours) & set(published)  # only the number of layers differs
    assert {name: tensor.dim() for name, tensor in ours.items() if name in published} == {
        name: tensor.dim() for name, tensor in published.items() if name in ours
    }


def test_config_has_the_fields_of_the_published_layout(made, golden_folder):
    family, vit, folder = made
    published = json.loads((golden_folder / "ckpt" / f"tiny-{family}" / "config.json").read_text())
    ours = json.loads((folder / "config.json").read_text())
    same = ("architectures", "auto_map", "model_type", "template", "ps_version", "select_layer", "downsample_ratio")
    same += (
        "force_image_size",
        "dynamic_image_size",
        "use_thumbnail",
        "max_dynamic_patch",
        "pad2square",
        "torch_dtype",
    )
    assert {name: ours[name] for name in same} == {name: published[name] for name in same}
    assert ours["llm_config"]["architectures"] == published["llm_config"]["architectures"]
    assert ours["llm_config"]["rope_theta"] == published["llm_config"]["rope_theta"]
    assert not ours["llm_config"]["tie_word_embeddings"]
    assert {name: ours["vision_config"][name] for name in VIT_FORMS[vit]} == VIT_FORMS[vit]


def test_the_tokenizer_loses_nothing_and_keeps_special_tokens_whole(made):
    family, _, folder = made
    tokenizer = load_tokenizer(folder)
    for text in ("Card 1: 2.\n\n2 + 13 = 15.", "第1张：有3个 圆形。", "never seen: Ünïcødé 🙂 { }"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    special = [*IMAGE_TOKENS, "<|im_start|>", "<|im_end|>"]
    assert [len(tokenizer.encode(token, add_special_tokens=False)) for token in special] == [1] * len(special)
    config = load_config(folder)
    assert config.llm_config.vocab_size == len(tokenizer)
    expected = {"qwen2": ("<|im_end|>", "<|endoftext|>"), "internlm2": ("</s>", "</s>")}[family]
    assert (tokenizer.eos_token, tokenizer.pad_token) == expected
    assert config.llm_config.eos_token_id == tokenizer.eos_token_id


def test_generation_stops_at_the_end_of_a_turn(made):
    _, _, folder = made
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert load_tokenizer(folder).convert_tokens_to_ids("<|im_end|>") in stops


def test_the_system_message_takes_few_tokens(tmp_path):
    """It opens every prompt: with a token per byte a small model would read little else."""
    make_tiny_checkpoint(parse_arguments(["--out", str(tmp_path)]))
    message = get_template("internvl2_5").system_message
    assert len(load_tokenizer(tmp_path).encode(message)) < 20 < len(message.encode())


def test_weights_have_the_spread_of_one_over_the_root_of_their_width(made):
    _, _, folder = made
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("ls1", "ls2")):
            assert (weight == 0.5).all()
        elif weight.dim() == 2:
            assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.1), name
        elif weight.dim() == 1:
            assert (weight == (0 if name.endswith("bias") else 1)).all(), name


def test_the_seed_decides_every_byte(tmp_path, corpus_file):
    def read(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first, again = (read(make(tmp_path / name, corpus_file)) for name in "ab")
    other = read(make(tmp_path / "c", corpus_file, "--seed", "1"))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_a_checkpoint_is_not_overwritten(tmp_path, corpus_file):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        make(tmp_path, corpus_file)


def test_a_vocabulary_without_room_for_every_character_is_refused(tmp_path, corpus_file):
    with pytest.raises(ValueError, match="--vocab_size 300"):
        make(tmp_path, corpus_file, "--family", "internlm2", "--vocab_size", "300")


def test_a_corpus_of_plain_text_is_read_by_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    texts = corpus([path])
    assert texts[:2] == ["one", "two"]
    assert texts[2].startswith("<|im_start|>system\n")
