"""Every family of language models: two steps of training, both layouts of the result, and what cannot be trained."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_model, load_tokenizer
from internvl_chat.model.conversation import THINKING_SYSTEM_MESSAGE, get_template
from internvl_chat.packed import attention
from internvl_chat.packed.attention import check_attention, kernel_refusals, use_shared_prefix
from internvl_chat.train_mpo import main
from internvl_chat.training import parse_arguments
from tests.tools.test_convert import FAMILIES, SIZES, build
from tools.checkpoints import conversion

TRAINED = [name for name in FAMILIES if not name.startswith("qwen2")]  # which most other tests train


@pytest.fixture(scope="module")
def train(golden_folder):
    """Function from a checkpoint, a folder and more flags to a run of two steps."""

    def trained(source, folder, *more):
        flags = f"--model_name_or_path {source} --meta_path {golden_folder}/data/meta.json --output_dir {folder}"
        flags += " --force_image_size 56 --max_seq_length 512 --max_steps 2 --learning_rate 1e-3 --logging_steps 1"
        flags += " --grad_checkpoint True --save_strategy no --report_to none --disable_tqdm True"
        main([*flags.split(), *more])

    return trained


@pytest.fixture(scope="module", params=TRAINED)
def run(request, golden_folder, train, tmp_path_factory):
    """(checkpoint, folder of a run from it)."""
    root = tmp_path_factory.mktemp(request.param)
    source = build(root / "source", golden_folder / "ckpt" / "tiny-qwen2", request.param)
    train(source, root / "run", "--system_prompt", "thinking")
    return source, root / "run"


@pytest.mark.parametrize("family", ["qwen3_moe", "internlm3", "gpt_oss"])
@pytest.mark.parametrize("layout", ["published", "hf"])
def test_adapters_on_any_family_and_layout(family, layout, golden_folder, train, tmp_path):
    source = build(tmp_path / "published", golden_folder / "ckpt" / "tiny-qwen2", family)
    if layout == "hf":
        conversion.convert_to_hf(source, tmp_path / "hf")
    train(tmp_path / layout, tmp_path / "run", "--use_llm_lora", "4", "--use_backbone_lora", "4")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / layout, tmp_path / "run"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("self_attn.v_proj" in name for name in moved) and any(".fc2." in name for name in moved)
    assert not any("norm" in name or "embed" in name or "mlp1" in name for name in moved)
    load_model(tmp_path / "run")


def test_the_run_moves_every_weight_and_keeps_the_names(run):
    before, after = (load_file(folder / "model.safetensors") for folder in run)
    assert before.keys() == after.keys()
    # Two steps reach few rows of the embedding, but all matrices; an expert that no token chose rests.
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert all(".experts." in name or name.endswith("attn.qkv.bias") for name in still), sorted(still)[:5]
    history = json.loads((run[1] / "trainer_state.json").read_text())["log_history"]
    first, second = (entry for entry in history if "loss" in entry)
    assert first["rewards/chosen"] == 0 and second["rewards/chosen"] != 0


def test_transformers_computes_what_the_trained_model_does(run, tmp_path):
    conversion.convert_to_hf(run[1], tmp_path / "hf")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", dtype="auto").eval()
    ours = load_model(run[1])
    ids = torch.arange(20, 50)[None]
    ids[0, 5:9] = ours.img_context_token_id
    tiles = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=tiles).logits
        assert torch.allclose(ours(tiles, ids).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model_type": "qwen3_next"}, "qwen3_next has linear_attention"),
        ({"model_type": "gemma2", "head_dim": 16}, "gemma2 has attn_logit_softcapping"),
        ({"model_type": "gpt_oss", "head_dim": 16, "num_local_experts": 2, "sliding_window": 0}, ".* sliding_window 0"),
    ],
)
def test_attention_that_packed_rows_would_change_is_refused(fields, kind):
    config = InternVLChatConfig(
        template="internvl2_5",
        vision_config={**SIZES, "image_size": 56},
        llm_config={**SIZES, "num_key_value_heads": 2, **fields},
    )
    with torch.device("meta"):
        model = InternVLChatModel(config)
    with pytest.raises(ValueError, match=f"{kind}, which training on packed rows does not compute"):
        use_shared_prefix(model)


def test_a_kind_of_layer_that_nobody_knows_yet_is_refused():
    config = SimpleNamespace(model_type="llama9", layer_types=["full_attention", "chunked_attention"])
    with pytest.raises(ValueError, match="llama9 has chunked_attention, which training on packed rows"):
        check_attention(SimpleNamespace(config=config))
    check_attention(SimpleNamespace(config=SimpleNamespace(layer_types=["full_attention", "sliding_attention"])))


def test_the_log_names_each_kind_of_layer_that_the_kernel_does_not_take(golden_folder, tmp_path, monkeypatch):
    model = load_model(build(tmp_path, golden_folder / "ckpt" / "tiny-qwen2", "gpt_oss")).language_model
    device = torch.device("cpu")
    kinds = [f"{kind}_attention: the kernel needs a GPU, this is cpu" for kind in ("full", "sliding")]
    assert kernel_refusals(model, device, torch.bfloat16) == kinds
    monkeypatch.setattr(attention, "varlen_refusal", lambda *_, windowed, with_sinks: "no" if windowed else "")
    assert kernel_refusals(model, device, torch.bfloat16) == ["sliding_attention: no"]


def test_the_thinking_prompt_takes_the_place_of_the_system_message(golden_folder):
    tokenizer = load_tokenizer(golden_folder / "ckpt" / "tiny-qwen2")
    flags = ["--model_name_or_path", "x", "--meta_path", "y", "--output_dir", "z", "--system_prompt"]
    assert parse_arguments([*flags, "Be brief."])[1].system_message == "Be brief."
    message = parse_arguments([*flags, "thinking"])[1].system_message
    assert message == THINKING_SYSTEM_MESSAGE and "<think> and </think>" in message and len(message) == 608
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "system_message": message}
    sample = MixtureDataset(golden_folder / "data" / "meta.json", tokenizer, **options)[0]
    text = tokenizer.decode(sample["prompt_ids"])
    expected = get_template("internvl2_5").prompt([("user", "")], message)
    assert text.startswith(expected.partition("<|im_end|>")[0])
