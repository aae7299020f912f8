"""Adapters: off they are not there, on they are W + alpha / rank B A; what is saved of them, and a run with them."""

from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from internvl_chat.adapters.lora import (
    adapted_layers,
    add_adapters,
    load_adapter,
    lora_config,
    merged_weights,
    save_adapter,
    saved_critic,
)
from internvl_chat.arguments import ModelArguments
from internvl_chat.model import load_config, load_model
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.reference.adapter import AdapterReference
from internvl_chat.train_mpo import main
from internvl_chat.training import parse_arguments
from tests.lora_runs import history, load, losses, pair_with_an_image, run_flags
from tools.merge_lora import main as merge


@pytest.fixture(params=["tiny-qwen2", "tiny-internlm2"])
def source(request, golden_folder):
    return golden_folder / "ckpt" / request.param


@pytest.fixture
def adapted(source):
    """Ranks 4 and 3, with effect."""
    torch.manual_seed(0)
    model = load(source)
    add_adapters(model, lora_config(4, 3, source))
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    return model.train()


@pytest.fixture
def batch(source):
    return pair_with_an_image(load(source))


def test_both_parts_are_adapted_and_nothing_else_is_trained(adapted):
    ranks = {name: layer.r["default"] for name, layer in adapted_layers(adapted).items()}
    assert {rank for name, rank in ranks.items() if name.startswith("vision_model")} == {3}
    assert {rank for name, rank in ranks.items() if name.startswith("language_model")} == {4}
    assert len(ranks) == 3 * 4 + 2 * (7 if "q_proj" in " ".join(ranks) else 5)
    assert all(layer.scaling["default"] == 2 for layer in adapted_layers(adapted).values())
    assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in adapted.named_parameters())


@pytest.mark.parametrize(("ranks", "part"), [((2, 0), "language_model."), ((0, 2), "vision_model.")])
def test_one_part_alone(ranks, part, source):
    model = load(source)
    add_adapters(model, lora_config(*ranks, source))
    assert adapted_layers(model) and all(name.startswith(part) for name in adapted_layers(model))


def test_the_reference_is_exactly_the_base(adapted, source, batch):
    base = load(source).eval()
    expected, policy = answer_logps(base, batch), answer_logps(adapted, batch)
    reference = AdapterReference(adapted).answer_logps(batch)
    assert torch.equal(reference, expected)
    assert (policy - expected).abs().min() > 1e-3
    assert adapted.training and not reference.requires_grad
    (policy - reference)[0].backward()  # the switch in between left its graph alone
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_the_reference_has_no_drop_path_while_the_policy_trains(source, batch):
    config = load_config(source)
    config.vision_config.drop_path_rate = 0.9
    policy = load_model(source, config=config)
    use_shared_prefix(policy)
    add_adapters(policy, lora_config(4, 3, source))
    policy.train()
    expected = answer_logps(load(source).eval(), batch)
    assert not torch.equal(answer_logps(policy, batch), expected)
    assert torch.equal(AdapterReference(policy).answer_logps(batch), expected)


def test_gradients_are_those_of_the_merged_weights(adapted, source, batch):
    """With W = W0 + s B A: dL/dB = s dL/dW A^T and dL/dA = s B^T dL/dW."""
    full = load(source).train()
    full.load_state_dict(merged_weights(adapted, adapted.state_dict()))
    losses = [answer_logps(model, batch)[0] - answer_logps(model, batch)[1] for model in (adapted, full)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    for loss in losses:
        loss.backward()
    whole = dict(full.named_parameters())
    for name, layer in adapted_layers(adapted).items():
        gradient, scale = whole[f"{name}.weight"].grad, layer.scaling["default"]
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        for own, expected in ((up.grad, scale * gradient @ down.T), (down.grad, scale * up.T @ gradient)):
            assert (own - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


def test_an_adapter_is_read_again_by_us_and_by_peft(adapted, source, batch, tmp_path):
    save_adapter(adapted, adapted.state_dict(), tmp_path)
    expected = answer_logps(adapted.eval(), batch)
    ours = load(source)
    add_adapters(ours, lora_config(4, 3, source))
    load_adapter(ours, tmp_path)
    assert torch.equal(answer_logps(ours.eval(), batch), expected)
    theirs = PeftModel.from_pretrained(load(source), tmp_path / "adapter").eval()
    assert torch.equal(answer_logps(theirs.base_model.model, batch), expected)


def test_an_adapter_of_other_ranks_is_refused(adapted, source, tmp_path):
    save_adapter(adapted, adapted.state_dict(), tmp_path)
    other = load(source)
    add_adapters(other, lora_config(4, 2, source))
    with pytest.raises(ValueError, match=r"differ in name or rank, .*same ranks\?"):
        load_adapter(other, tmp_path)
    with pytest.raises(FileNotFoundError, match="no adapter to continue with"):
        load_adapter(other, tmp_path / "none")


def test_what_a_critic_was_trained_under_stands_beside_its_adapter(adapted, tmp_path):
    save_adapter(adapted, adapted.state_dict(), tmp_path / "answers")
    assert saved_critic(tmp_path / "answers") is None
    adapted.config.critic = {"system_message": "Judge.", "more": [1]}
    save_adapter(adapted, adapted.state_dict(), tmp_path / "judges")
    assert saved_critic(tmp_path / "judges") == adapted.config.critic
    merge(["--adapter", str(tmp_path / "judges"), "--out", str(tmp_path / "merged")])
    assert load_config(tmp_path / "merged").critic == adapted.config.critic
    (tmp_path / "judges" / "adapter" / "critic.json").write_text("[]")
    with pytest.raises(ValueError, match="critic.json: must be a JSON object.*save the adapter again"):
        saved_critic(tmp_path / "judges")


@pytest.fixture(scope="module")
def flags(golden_folder):
    return partial(run_flags, golden_folder)


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    """Folder of a run with the adapter as reference."""
    folder = tmp_path_factory.mktemp("lora")
    main(flags(folder))
    return folder


def test_a_run_moves_the_adapted_weights_alone(run, golden_folder, flags):
    before = load_file(golden_folder / "ckpt" / "tiny-qwen2" / "model.safetensors")
    after = load_file(run / "model.safetensors")
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for name in adapter}
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == names
    first, *_, last = history(run)
    assert first["rewards/chosen"] == 0 and last["loss"] != first["loss"]


def test_a_rerun_goes_on_with_the_adapter(run, flags, tmp_path):
    changes = {"save_adapter_only": True}
    main(flags(tmp_path / "run", **{**changes, "max_steps": 2}))
    assert not list((tmp_path / "run").rglob("model*.safetensors"))
    main(flags(tmp_path / "run", **changes))
    assert losses(tmp_path / "run") == losses(run)
    merge(["--adapter", str(tmp_path / "run"), "--out", str(tmp_path / "merged")])
    expected, merged = load_file(run / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert expected.keys() == merged.keys()
    assert all(torch.equal(expected[name], merged[name]) for name in expected)
    assert (tmp_path / "merged" / "tokenizer_config.json").is_file()


@pytest.mark.parametrize("reference", ["model", "cache"])
def test_every_reference_gives_the_same_run(reference, run, flags, tmp_path):
    main(flags(tmp_path / "run", reference=reference))
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-6)


def test_the_adapter_is_the_default_reference_where_there_is_one(flags):
    assert parse_arguments(flags("x"))[2].reference == "adapter"
    assert parse_arguments(flags("x", use_llm_lora=0, use_backbone_lora=0))[2].reference == "model"
    assert not ModelArguments("x").has_adapters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "adapter", "use_llm_lora": 0, "use_backbone_lora": 0}, "--reference adapter needs adapters"),
        ({"save_adapter_only": True, "use_llm_lora": 0, "use_backbone_lora": 0}, "--save_adapter_only True needs"),
        ({"sync_ref_model": True}, "--sync_ref_model True moves the reference"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message, flags):
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags("x", **changes))
