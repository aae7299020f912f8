"""`--grad_checkpoint auto`: which layers are computed again, that gradients are the same, and that ranks agree."""

import json
from types import SimpleNamespace

import pytest
import torch

from internvl_chat.arguments import MPOConfig
from internvl_chat.model import load_config, load_model
from internvl_chat.model.upstream import GradientCheckpointingLayer
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.memory import StepLoad
from internvl_chat.packed.packing import with_packed
from internvl_chat.run import recomputation
from internvl_chat.run.recomputation import USED, Recomputation, usual_free_bytes, weights_of
from internvl_chat.train_mpo import main
from tests.flags import as_flags

LOAD = StepLoad(tokens=600, tiles=4, labels=50)


@pytest.fixture
def packed_policy(golden):
    """With drop path, whose random numbers a layer that is computed again has to draw again."""
    config = load_config(golden.ckpt_policy)
    config.vision_config.drop_path_rate = 0.5
    model = load_model(golden.ckpt_policy, config=config)
    use_shared_prefix(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def choice(model, free, **options):
    return Recomputation(model, half=False, free_bytes=lambda: free / USED, **options)


def gradients(model, batch):
    torch.manual_seed(3)
    model.zero_grad(set_to_none=True)
    answer_logps(model, batch).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def again(model):
    """How often each layer computes itself in forward and backward of the next step, in order."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    counts = [0] * len(layers)

    def counter(index):
        def count(*_):
            counts[index] += 1

        return count

    for index, layer in enumerate(layers):
        next(module for module in layer.modules() if isinstance(module, torch.nn.Linear)).register_forward_hook(
            counter(index)
        )
    return counts


@pytest.mark.parametrize("wanted", [0, 2, 4, 5])
def test_gradients_are_those_of_a_model_that_keeps_everything(packed_policy, golden_batch, wanted):
    chosen = choice(packed_policy, 0)
    batch = with_packed(golden_batch("b3"), packed_policy.img_context_token_id)
    for layer in chosen.layers:
        layer.gradient_checkpointing = False
    expected = gradients(packed_policy, batch)
    free = chosen.memory.peak(LOAD, wanted).total if wanted < 5 else 0
    chosen.free_bytes = lambda: free / USED
    chosen.choose(LOAD, has_moments=True)
    counts = again(packed_policy)
    found = gradients(packed_policy, batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert counts == [2] * wanted + [1] * (5 - wanted)


def test_a_longer_row_computes_more_again(packed_policy):
    free = choice(packed_policy, 0).memory.peak(LOAD, 0).total
    chosen = choice(packed_policy, free)
    chosen.choose(LOAD, has_moments=True)
    assert chosen.number == 0
    chosen.choose(StepLoad(tokens=60_000, tiles=200, labels=50), has_moments=True)
    assert chosen.number == len(chosen.layers) == 5
    assert chosen.mean() == 2.5 and chosen.mean() == 5  # of the rows since the last call, else the last one


def test_the_optimizer_is_left_its_room_before_it_has_taken_a_step(packed_policy):
    trained = sum(parameter.numel() for parameter in packed_policy.parameters())
    free = choice(packed_policy, 0).memory.peak(LOAD, 0).total
    short, enough = choice(packed_policy, free), choice(packed_policy, free + 8 * trained)
    short.choose(LOAD, has_moments=False)
    enough.choose(LOAD, has_moments=False)
    assert short.number > 0 and enough.number == 0


def test_gradients_that_stand_are_not_asked_for_again(packed_policy):
    """They are no longer free when the second micro-batch of a step begins."""
    chosen = choice(packed_policy, 0)
    need = chosen.memory.peak(LOAD, 0)
    for parameter in packed_policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    free = max(need.total - need.gradients, need.activations + need.lm_head + need.copies)
    chosen.free_bytes = lambda: free / USED
    chosen.choose(LOAD, has_moments=True)
    assert chosen.number == 0


def test_ranks_that_compute_together_choose_once_for_the_longest_row(packed_policy, monkeypatch):
    """The highest number of all ranks, whatever row each of them has."""
    monkeypatch.setattr(recomputation, "gather_objects", lambda mine: [mine, 4])
    longest = StepLoad(tokens=60_000, tiles=200)
    chosen = choice(packed_policy, choice(packed_policy, 0).memory.peak(longest, 1).total, alike_for=longest)
    chosen.choose(LOAD, has_moments=True)
    assert chosen.number == 4
    chosen.free_bytes = lambda: 0.0
    chosen.choose(LOAD, has_moments=True)
    assert chosen.number == 4 and chosen.mean() == 4


def test_the_parameters_of_the_parts_are_counted(packed_policy):
    packed_policy.vision_model.requires_grad_(False)
    packed_policy.get_output_embeddings().requires_grad_(False)
    found = weights_of(packed_policy, half=True)
    assert found.vision == sum(parameter.numel() for parameter in packed_policy.vision_model.parameters())
    head = packed_policy.get_output_embeddings().weight.numel()
    assert found.trained == found.projector + found.language - head and not found.head
    assert (found.stored, found.autocast) == (4, True)


def test_free_memory_is_the_gpus_or_this_process_share_of_the_hosts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5000, 80000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 700)
    assert usual_free_bytes(torch.device("cuda", 0))() == 5200
    monkeypatch.setattr(recomputation.psutil, "virtual_memory", lambda: SimpleNamespace(available=8000))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usual_free_bytes(torch.device("cpu"))() == 2000


def test_the_flag_takes_true_false_and_auto(tmp_path):
    def config(value):
        return MPOConfig(output_dir=str(tmp_path), grad_checkpoint=value)

    found = {value: config(value) for value in ("True", "false", "auto", True, False)}
    assert [args.gradient_checkpointing for args in found.values()] == [True, False, True, True, False]
    assert [args.recomputes_by_need for args in found.values()] == [False, False, True, False, False]
    with pytest.raises(ValueError, match="--grad_checkpoint sometimes is unknown: take True, False or auto"):
        config("sometimes")
    with pytest.raises(ValueError, match="set --grad_checkpoint True"):
        MPOConfig(output_dir=str(tmp_path), grad_checkpoint="auto", offload_activations=True)


def test_a_run_with_auto_has_the_losses_of_one_without(golden_folder, tmp_path, monkeypatch):
    """The first micro-batch finds memory for nothing, later ones for everything."""
    frees = iter([0.0])
    monkeypatch.setattr(recomputation, "usual_free_bytes", lambda device: lambda: next(frees, 1e15))

    def losses(name, value):
        settings = {
            "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
            "meta_path": golden_folder / "data" / "meta.json",
            "output_dir": tmp_path / name,
            "force_image_size": 56,
            "max_seq_length": 512,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "drop_path_rate": 0.2,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "grad_checkpoint": value,
        }
        main(as_flags(settings))
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        return [(entry["loss"], entry["grad_norm"], entry.get("recomputed_layers")) for entry in log if "loss" in entry]

    kept, auto = losses("kept", False), losses("auto", "auto")
    assert [entry[:2] for entry in auto] == [entry[:2] for entry in kept]
    assert [entry[2] for entry in auto] == [5, 0] and kept[0][2] is None
