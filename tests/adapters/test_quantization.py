"""QLoRA: adapters on a language model in 4 bits. What needs bitsandbytes is skipped without it."""

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.adapters import quantization
from internvl_chat.adapters.lora import adapted_layers, add_adapters, load_adapter, lora_config
from internvl_chat.adapters.quantization import (
    BLOCK,
    BYTES_PER_WEIGHT,
    check_four_bits,
    four_bit_weights,
    load_four_bits,
)
from internvl_chat.model import InternVLChatModel, load_config, load_model
from internvl_chat.packed.logps import answer_logps
from internvl_chat.reference.adapter import AdapterReference
from internvl_chat.train_mpo import main
from internvl_chat.training import parse_arguments
from tests.lora_runs import history, load, losses, pair_with_an_image, run_flags
from tools.merge_lora import main as merge
from tools.plan.model_sizes import published_config

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (requirements-gpu.txt has it)"
)


@pytest.fixture(scope="module")
def wide(golden_folder, tmp_path_factory):
    """Function from the name of a golden checkpoint to a random one whose rows of weights are whole blocks."""

    def made(name):
        folder = tmp_path_factory.mktemp("wide") / name
        shutil.copytree(golden_folder / "ckpt" / name, folder)
        config = load_config(folder)
        config.llm_config.intermediate_size = 128
        torch.manual_seed(0)
        model = InternVLChatModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        return folder

    return made


@pytest.fixture(scope="module", params=["tiny-qwen2", "tiny-internlm2"])
def source(request, wide):
    return wide(request.param)


@pytest.fixture(scope="module")
def flags(golden_folder, wide):
    return partial(run_flags, golden_folder, load_in_4bit=True, model_name_or_path=wide("tiny-qwen2"))


def rounded_layers(model):
    """Layers of 4 bits by the names that they have without adapters."""
    named = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    return {name: module for name, module in named.items() if type(module).__name__ == "Linear4bit"}


def dequantised(model):
    """Their weights as they take part in products."""
    from bitsandbytes.functional import dequantize_4bit

    layers = rounded_layers(model).items()
    return {f"{name}.weight": dequantize_4bit(layer.weight.data, layer.weight.quant_state) for name, layer in layers}


def with_adapters(model, source):
    """Ranks 4 and 3, with effect, the same at every call."""
    torch.manual_seed(0)
    add_adapters(model, lora_config(4, 3, source))
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    return model.train()


@needs_bitsandbytes
def test_linear_layers_of_the_language_model_are_rounded_and_nothing_else(source):
    plain, model = load_model(source), load_four_bits(source, dtype=torch.bfloat16)
    names = set(rounded_layers(model))
    assert names == {name for name in adapted_names(plain, source) if name.startswith("language_model.")}
    assert all(layer.compute_dtype == torch.bfloat16 for layer in rounded_layers(model).values())
    before, after = plain.bfloat16().state_dict(), model.state_dict()
    kept = {name for name in before if name.removesuffix(".weight") not in names}
    assert all(torch.equal(before[name], after[name]) for name in kept)


def adapted_names(model, source):
    add_adapters(model, lora_config(4, 0, source))
    names = set(adapted_layers(model))
    for name in names:  # out again
        model.set_submodule(name, model.get_submodule(name).base_layer)
    return names


@needs_bitsandbytes
def test_a_weight_takes_half_a_byte_and_its_share_of_constants(source):
    weights = [layer.weight for layer in rounded_layers(load_four_bits(source, dtype=torch.float32)).values()]
    states = [weight.quant_state for weight in weights]
    constants = sum(state.absmax.nbytes + state.state2.absmax.nbytes for state in states)
    count = four_bit_weights(load_model(source))
    assert count == sum(state.shape.numel() for state in states)
    assert sum(weight.nbytes for weight in weights) == count / 2
    assert count / 2 + constants == pytest.approx(BYTES_PER_WEIGHT * count, rel=0.01)


@needs_bitsandbytes
def test_rounding_errs_by_half_a_gap_of_nf4(source):
    """Of the values, in [-1, 1] times a constant, the two farthest apart are -1 and -0.696; constants have 8 bits."""
    original, model = load_model(source).state_dict(), load_four_bits(source, dtype=torch.float32)
    for name, weight in dequantised(model).items():
        blocks = original[name].reshape(-1, BLOCK)
        error = (weight.reshape(-1, BLOCK) - blocks).abs().amax(1) / blocks.abs().amax(1)
        assert 0.02 < error.max() < 0.152 + 0.02, name


@needs_bitsandbytes
def test_a_step_is_that_on_the_dequantised_weights(source):
    policy = with_adapters(load(source, load_four_bits, dtype=torch.float32), source)
    weights = dequantised(policy)
    plain = load(source)
    plain.load_state_dict(weights, strict=False)
    plain = with_adapters(plain, source)
    batch = pair_with_an_image(policy)
    logps = [answer_logps(model, batch) for model in (policy, plain)]
    assert (logps[0] - logps[1]).abs().max() < 1e-4
    for chosen, rejected in logps:
        (chosen - rejected).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    trained = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
    assert trained.keys() == expected.keys() and all(".lora_" in name for name in trained)
    for name, gradient in trained.items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-7, name


@needs_bitsandbytes
def test_the_reference_is_exactly_the_rounded_model(source):
    base = load(source, load_four_bits, dtype=torch.float32)
    policy = with_adapters(load(source, load_four_bits, dtype=torch.float32), source)
    batch = pair_with_an_image(base)
    before = answer_logps(policy, batch)
    with torch.no_grad():
        expected = answer_logps(base, batch)
    assert torch.equal(AdapterReference(policy).answer_logps(batch), expected)
    original = answer_logps(load(source).eval(), batch)
    assert (original - expected).abs().min() > 1e-3  # rounding shows
    after = answer_logps(policy, batch)
    assert torch.equal(before, after) and after.requires_grad  # the pass in between left the weights alone


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    """Folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("qlora")
    main(flags(folder))
    return folder


@needs_bitsandbytes
def test_a_run_saves_the_original_weights_plus_adapters(run, flags):
    source = Path(parse_arguments(flags(run))[0].model_name_or_path)
    before, after = load_file(source / "model.safetensors"), load_file(run / "model.safetensors")
    adapted = load_model(source)
    add_adapters(adapted, lora_config(4, 3, source))
    load_adapter(adapted, run)
    deltas = {f"{n}.weight": layer.get_delta_weight("default") for n, layer in adapted_layers(adapted).items()}
    assert before.keys() == after.keys()
    for name, weight in after.items():
        expected = before[name] + deltas[name] if name in deltas else before[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6 if name in deltas else 0)
    assert "quantization_config" not in (run / "config.json").read_text()
    first, *_, last = history(run)
    assert first["rewards/chosen"] == 0 and last["loss"] != first["loss"]


@needs_bitsandbytes
def test_a_rerun_goes_on_and_the_merge_is_what_a_run_saves(run, flags, tmp_path):
    main(flags(tmp_path / "run", save_adapter_only=True, max_steps=2))
    main(flags(tmp_path / "run", save_adapter_only=True))
    assert losses(tmp_path / "run") == losses(run)
    merge(["--adapter", str(tmp_path / "run"), "--out", str(tmp_path / "merged")])
    expected, merged = load_file(run / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert expected.keys() == merged.keys()
    assert all(torch.equal(expected[name], merged[name]) for name in expected)


@needs_bitsandbytes
@pytest.mark.parametrize("reference", ["model", "cache"])
def test_every_reference_is_the_rounded_model(reference, run, flags, tmp_path):
    main(flags(tmp_path / "run", reference=reference))
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-6)


@needs_bitsandbytes
def test_a_run_in_bfloat16_follows(run, flags, tmp_path):
    main(flags(tmp_path / "run", bf16=True, save_adapter_only=True))
    assert losses(tmp_path / "run") == pytest.approx(losses(run), rel=0.02)
    assert losses(tmp_path / "run") != losses(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_llm_lora": 0, "use_backbone_lora": 0}, "--load_in_4bit True needs adapters: set --use_llm_lora"),
        ({"fsdp": True}, "--load_in_4bit True with --fsdp True: .* are not sharded"),
        ({"deepspeed": "zero_stage3_config.json"}, "with --deepspeed .*zero_stage3_config.json: .* take --deepspeed"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message, flags):
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags("x", **changes))


def test_a_missing_package_is_named_before_anything_is_loaded(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr("internvl_chat.training.build_dataset", None)
    with pytest.raises(ModuleNotFoundError, match="needs bitsandbytes: pip install bitsandbytes=="):
        main(flags(tmp_path / "run"))


@needs_bitsandbytes
def test_rows_that_a_cpu_gets_wrong_are_refused(golden_folder):
    with pytest.raises(ValueError, match=r"tiny-qwen2: .* whole blocks of 64, .*down_proj has 112; take a GPU"):
        load_four_bits(golden_folder / "ckpt" / "tiny-qwen2", dtype=torch.float32)


def test_experts_are_refused():
    with pytest.raises(ValueError, match="experts are none, .* train adapters without it"):
        check_four_bits(published_config("InternVL3_5-30B-A3B"))
    with pytest.raises(ValueError, match="experts are none"):
        check_four_bits(SimpleNamespace(llm_config=SimpleNamespace(num_experts=4)))
