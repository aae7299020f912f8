"""Every published family and size through `compute_loss` on a GPU that is not there: shapes, devices and types alone.

`FakeTensorMode` computes no numbers. A tensor of the CPU that meets one of the GPU raises, as on a real one; so does
everything for which the host would have to wait to learn a number or a shape: `item`, `nonzero`, a boolean index.
Copies from the CPU, for which it waits too, are counted. Layers repeat, so two of each tower stand for all.
"""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._guards import detect_fake_mode as active_fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.fake_gpu import IMAGE_TOKEN, attention_of_a_gpu, fake_model, faked, pair
from internvl_chat.arguments import MPOConfig
from internvl_chat.losses.mixture import RunningMean
from internvl_chat.model import load_model
from internvl_chat.packed import attention
from internvl_chat.packed.layout import map_tensors
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import collate_packed
from internvl_chat.reference.adapter import AdapterReference
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.frozen import CachedReference
from internvl_chat.run.metrics import MetricSums, StepGuard
from internvl_chat.run.trainer import MultimodalDPOTrainer
from tools.plan.model_sizes import published_names

GPU = torch.device("cuda", 0)
LARGEST_FLOAT32 = 3 * 1025 * 3200  # elements: what a norm of InternViT-6B computes of three tiles; logits aside


class Watch(TorchDispatchMode):
    """Notes copies from the CPU to the GPU, and the largest float32 tensor apart from those as wide as a vocabulary."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary = vocabulary
        self.copies = []
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, torch.Tensor)]
        for tensor in (part for part in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(part)):
            if tensor.is_cuda and any(part.device.type == "cpu" for part in given) and "copy" in str(function):
                self.copies.append(str(function))
            if tensor.is_cuda and tensor.dtype == torch.float32 and self.vocabulary not in tensor.shape:
                self.largest = max(self.largest, tensor.numel())
        return made


@pytest.fixture
def gpu(monkeypatch):
    """What asks the driver is answered as on an H100, and the variable-length kernel is taken as tried."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(attention, "varlen_refusal", lambda *_, **__: "")
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention_of_a_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)


@pytest.fixture(scope="module")
def trainer(golden, tokenizer, tmp_path_factory):
    """A trainer whose `compute_loss` gets other models; what it keeps of steps is told to lie on the GPU."""
    args = MPOConfig(output_dir=str(tmp_path_factory.mktemp("run")), report_to="none", use_cpu=True)
    tiny = load_model(golden.ckpt)
    own = {"processing_class": tokenizer, "source": golden.ckpt, "reference": SimpleNamespace()}
    return MultimodalDPOTrainer(tiny, None, args, **own)


def run(trainer, name, *, dtype=torch.bfloat16, autocast=False, lora_rank=0, reference=None):
    """A micro-batch of a policy and its reference: what was seen, and its loss.

    `reference` makes one of the policy; a second model without it.
    """
    features = [pair(20), pair(40), pair(60, tiles=0)]
    batch = collate_packed(features, IMAGE_TOKEN)
    with FakeTensorMode() as mode:
        policy = fake_model(name, dtype, device=GPU, layers=2, lora_rank=lora_rank)
        trainer.running_mean, trainer.guard = RunningMean(), StepGuard(GPU)
        trainer.running_mean.add(torch.zeros((), device=GPU), 1)  # as after a step
        trainer.sums["train"] = MetricSums()
        trainer.reference = second_model(name, dtype) if reference is None else reference(policy)
        moved = faked(batch, mode, GPU)
        watch = Watch(policy.config.llm_config.vocab_size)
        with watch, torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
            loss = trainer.compute_loss(policy, moved, num_items_in_batch=torch.full((), 3, device=GPU))
    return watch, loss


def second_model(name, dtype):
    frozen = fake_model(name, dtype, device=GPU, layers=2).eval().requires_grad_(False)
    return SimpleNamespace(answer_logps=torch.no_grad()(lambda batch: answer_logps(frozen, batch)))


@pytest.mark.parametrize("name", published_names())
def test_every_size_trains_without_a_wait_or_a_tensor_on_the_wrong_device(name, gpu, trainer):
    watch, loss = run(trainer, name)
    assert loss.device == GPU and loss.requires_grad
    assert watch.copies == []
    assert watch.largest <= LARGEST_FLOAT32


@pytest.mark.parametrize("kernel", ["varlen", "groups"])
def test_float32_weights_under_autocast(kernel, gpu, trainer, monkeypatch):
    if kernel == "groups":
        monkeypatch.setattr(attention, "varlen_refusal", lambda *_, **__: "refused")
    watch, loss = run(trainer, "InternVL2_5-1B", dtype=torch.float32, autocast=True)
    assert loss.device == GPU and watch.copies == []


def test_adapters_train_and_are_their_own_reference(gpu, trainer):
    watch, loss = run(trainer, "InternVL2_5-1B", autocast=True, lora_rank=4, reference=AdapterReference)
    assert loss.device == GPU and loss.requires_grad
    assert watch.copies == []


def test_an_adapter_on_the_wrong_device_is_noticed(gpu, trainer):
    def left_behind(policy):
        layer = policy.language_model.model.layers[1].mlp.up_proj
        layer.lora_A["default"].weight = torch.nn.Parameter(layer.lora_A["default"].weight.cpu())
        return AdapterReference(policy)

    with pytest.raises(RuntimeError, match="cpu"):
        run(trainer, "InternVL2_5-1B", autocast=True, lora_rank=4, reference=left_behind)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of a reference that has every answer, and whose numbers become fake tensors."""
    batch = collate_packed([pair(20), pair(40), pair(60, tiles=0)], IMAGE_TOKEN)
    filled = LogpsCache(tmp_path / "cache")
    filled.append(batch["packed"].answer_keys, [-10.0] * len(batch["packed"].answer_keys))
    from_numpy = torch.from_numpy

    def faked_array(array):
        mode = active_fake_mode()
        return from_numpy(array) if mode is None else mode.from_tensor(from_numpy(array))

    monkeypatch.setattr(torch, "from_numpy", faked_array)
    yield filled
    filled.close()


def test_log_probs_of_a_cache_come_to_the_gpu_in_one_copy(gpu, trainer, cache):
    watch, loss = run(trainer, "InternVL2_5-1B", reference=lambda policy: CachedReference(cache))
    assert loss.device == GPU and loss.requires_grad
    assert len(watch.copies) == 1  # the six numbers of this micro-batch


def test_log_probs_of_a_cache_on_the_wrong_device_are_noticed(gpu, trainer, cache):
    def left_behind(policy):
        read = CachedReference(cache)
        return SimpleNamespace(answer_logps=lambda batch: read.answer_logps(batch).cpu())

    with pytest.raises(RuntimeError, match="cpu"):
        run(trainer, "InternVL2_5-1B", reference=left_behind)


def test_a_tensor_on_the_wrong_device_is_noticed(gpu, trainer, monkeypatch):
    def left_behind(model, batch):
        pack = batch["packed"]
        return answer_logps(model, {**batch, "packed": map_tensors(pack, lambda tensor: tensor.cpu())})

    monkeypatch.setattr("internvl_chat.run.trainer.answer_logps", left_behind)
    with pytest.raises(RuntimeError, match="cpu"):
        run(trainer, "InternVL2_5-1B")


def test_a_wait_is_noticed(gpu, trainer, monkeypatch):
    """A question to the GPU, such as which tokens stand for images, cannot be answered here."""

    def asked(model, batch):
        return answer_logps(model, {**batch, "packed": replace(batch["packed"], image_positions=None)})

    monkeypatch.setattr("internvl_chat.run.trainer.answer_logps", asked)
    with pytest.raises(DynamicOutputShapeException, match="nonzero"):
        run(trainer, "InternVL2_5-1B")


def test_the_guard_waits_once(gpu):
    """The only question of a step: is all that it computed finite?"""
    with FakeTensorMode():
        guard = StepGuard(GPU)
        with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
            guard.check(torch.zeros((), device=GPU), torch.nn.Linear(1, 1))
