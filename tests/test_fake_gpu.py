"""Every published family and size through `compute_loss` on a GPU that is not there: shapes, devices and types alone.

`FakeTensorMode` computes no numbers. A tensor of the CPU that meets one of the GPU raises, as on a real one; so does
everything for which the host would have to wait to learn a number or a shape: `item`, `nonzero`, a boolean index.
Copies from the CPU, for which it waits too, are counted. Layers repeat, so two of each tower stand for all.
"""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.initialization import no_init_weights

from internvl_chat.arguments import MPOConfig
from internvl_chat.losses.mixture import RunningMean
from internvl_chat.model import InternVLChatModel, load_model
from internvl_chat.packed import attention
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.layout import map_tensors
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import collate_packed
from internvl_chat.records.samples import prompt_key
from internvl_chat.run.metrics import MetricSums, StepGuard
from internvl_chat.run.trainer import MultimodalDPOTrainer
from tools.plan.model_sizes import published_config, published_names

GPU = torch.device("cuda", 0)
IMAGE_TOKEN = 5
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


def attention_of_a_gpu(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The kernel that a GPU chooses; without a driver torch takes the one that is written out, with all scores."""
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device).expand(*query.shape[:3], key.shape[2])
    return kernel(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


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


def sample(first_answer, tiles=2):
    """A pair with an image of some tiles, or a blank one."""
    prompt = torch.tensor([1, *[IMAGE_TOKEN] * (256 * tiles), 7, 8, 9])
    pixels = torch.zeros(max(tiles, 1), 3, 448, 448, dtype=torch.uint8)
    return {
        "prompt_ids": prompt,
        "answers": (torch.arange(first_answer, first_answer + 9), torch.arange(100, 117)),
        "separator": torch.tensor([10]),
        "pixel_values": pixels,
        "image_flags": torch.full((len(pixels),), int(tiles > 0)),
        "prompt_key": prompt_key(prompt.numpy(), np.array(tiles)),
        "row_id": f"made:{first_answer}",
    }


def fake_model(name, dtype=torch.bfloat16):
    """A published model on the GPU with two layers in each tower."""
    config = published_config(name)
    for part in (config.vision_config, config.llm_config):
        part.num_hidden_layers = 2
    if getattr(config.llm_config, "layer_types", None):
        config.llm_config.layer_types = config.llm_config.layer_types[:2]
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(GPU), no_init_weights():
            model = InternVLChatModel(config)
    finally:
        torch.set_default_dtype(usual)
    model.img_context_token_id = IMAGE_TOKEN
    use_shared_prefix(model)
    return model.train()


def on_gpu(batch, mode):
    """A batch of the collator as the loader puts it on the GPU."""

    def moved(tensor):
        return mode.from_tensor(tensor).to(GPU)

    batch = {name: moved(value) if torch.is_tensor(value) else value for name, value in batch.items()}
    return {**batch, "packed": map_tensors(batch["packed"], moved)}


def run(trainer, name, *, dtype=torch.bfloat16, autocast=False):
    """A micro-batch of a policy and its reference: what was seen, and its loss."""
    features = [sample(20), sample(40), sample(60, tiles=0)]
    batch = collate_packed(features, IMAGE_TOKEN)
    with FakeTensorMode() as mode:
        policy, frozen = fake_model(name, dtype), fake_model(name, dtype).eval().requires_grad_(False)
        trainer.running_mean, trainer.guard = RunningMean(), StepGuard(GPU)
        trainer.running_mean.add(torch.zeros((), device=GPU), 1)  # as after a step
        trainer.sums["train"] = MetricSums()
        trainer.reference = SimpleNamespace(answer_logps=torch.no_grad()(lambda batch: answer_logps(frozen, batch)))
        moved = on_gpu(batch, mode)
        watch = Watch(policy.config.llm_config.vocab_size)
        with watch, torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
            loss = trainer.compute_loss(policy, moved, num_items_in_batch=torch.full((), 3, device=GPU))
    return watch, loss


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
