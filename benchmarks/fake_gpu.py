"""A GPU that is not there: published models on tensors that have shape, type and device, but no numbers.

`FakeTensorMode` computes nothing, so that a model of 78 billion weights takes no memory. `LiveBytes` counts what would
be alive, as the allocator of a GPU gives it out; `accounted` does so for whole optimization steps: forward,
reference, losses, backward, clipping, AdamW. Their fake device is the CPU, as torch's autograd engine takes none of a
GPU without a driver; kernels, types and sizes are those of a GPU. Shared by `bench_footprint` and tests.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype

from internvl_chat.adapters.lora import add_adapters, lora_config
from internvl_chat.losses.mixture import PreferenceLogps, RunningMean, mixed_preference_loss, nll_loss
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.layout import map_tensors
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.memory import StepLoad, StepMemory, Weights
from internvl_chat.packed.packing import collate_packed
from internvl_chat.records.samples import prompt_key
from internvl_chat.run.recomputation import USED, Recomputation
from tools.plan.model_sizes import count_parameters, meta_model, published_config
from tools.plan.needs import Plan, footprint

IMAGE_TOKEN = 5
BLOCK = 512  # bytes: the allocator of torch gives out multiples of it
TILE_SIDE, TILE_TOKENS = 448, 256


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made under it that are alive.

    Attributes:
        now: bytes alive.
        peak: most of them since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made; `logsumexp` makes a copy of its input that nobody sees."""
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.logsumexp.default:
            self.peak = max(self.peak, self.now + args[0].numel() * args[0].element_size())
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.sizes:
            return
        self.sizes[id(storage)] = -(-storage.nbytes() // BLOCK) * BLOCK
        weakref.finalize(storage, self._forget, id(storage))
        self.now += self.sizes[id(storage)]
        self.peak = max(self.peak, self.now)

    def _forget(self, number: int) -> None:
        self.now -= self.sizes.pop(number)


def attention_of_a_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that a GPU chooses; without a driver torch takes the one that is written out, with all scores."""
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device).expand(*query.shape[:3], key.shape[2])
    return kernel(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


def cut_config(name: str, layers: int | None) -> InternVLChatConfig:
    """Configuration of a published checkpoint with so many layers in each tower, None for all."""
    config = published_config(name)
    for part in (config.vision_config, config.llm_config):
        part.num_hidden_layers = layers or part.num_hidden_layers
    if getattr(config.llm_config, "layer_types", None):
        config.llm_config.layer_types = config.llm_config.layer_types[: config.llm_config.num_hidden_layers]
    return config


def fake_model(
    name: str,
    dtype: torch.dtype = torch.bfloat16,
    *,
    device: str | torch.device = "cpu",
    layers: int | None = None,
    lora_rank: int = 0,
) -> InternVLChatModel:
    """A published model in training mode, ready for packs. Call it under a `FakeTensorMode`.

    Args:
        name: of the checkpoint.
        dtype: of its weights; adapters have float32.
        device: of all tensors.
        layers: of each tower; None for all.
        lora_rank: of adapters in both towers, 0 for none.
    """
    config = cut_config(name, layers)
    with unset_fake_temporarily():  # on the meta device first: peft moves modules in a way that fake tensors refuse
        with local_torch_dtype(dtype), torch.device("meta"), no_init_weights():
            model = InternVLChatModel(config)
        if lora_rank:
            add_adapters(model, lora_config(lora_rank, lora_rank, name), torch.float32)
    _give_tensors(model, device)
    model.img_context_token_id = IMAGE_TOKEN
    use_shared_prefix(model)
    return model.train()


def _give_tensors(model: torch.nn.Module, device: str | torch.device) -> None:
    """Replace what lies on the meta device by new tensors of the same form."""
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype, device=device)
                module._parameters[name] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=device)


def pair(
    first_answer: int, *, tiles: int = 2, answers: tuple[int, int] = (9, 17), text: int = 3, question: int = 0
) -> dict[str, Any]:
    """A sample with an image of some tiles, or a blank one, text behind it, and answers of so many tokens."""
    asked = range(7 + question, 7 + question + text)
    prompt = torch.tensor([1, *[IMAGE_TOKEN] * (TILE_TOKENS * tiles), *asked])
    pixels = torch.zeros(max(tiles, 1), 3, TILE_SIDE, TILE_SIDE, dtype=torch.uint8)
    return {
        "prompt_ids": prompt,
        "answers": tuple(torch.arange(first_answer, first_answer + length) for length in answers),
        "separator": torch.tensor([10]),
        "pixel_values": pixels,
        "image_flags": torch.full((len(pixels),), int(tiles > 0)),
        "prompt_key": prompt_key(prompt.numpy(), np.array(tiles)),
        "row_id": f"made:{first_answer}",
    }


def faked(batch: Mapping[str, Any], mode: FakeTensorMode, device: str | torch.device = "cpu") -> dict[str, Any]:
    """A batch of the collator as the loader puts it on a device, without its numbers."""

    def moved(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to(device)

    tensors = {name: moved(value) if torch.is_tensor(value) else value for name, value in batch.items()}
    return {**tensors, "packed": map_tensors(batch["packed"], moved)}


@dataclass(frozen=True)
class Case:
    """A step of a published model.

    Attributes:
        name: of the checkpoint.
        tiles: of the only image.
        answers: tokens of the two answers of a pair.
        questions: about the image, each of one pair.
        reference: a second model stands by, else a cache.
        recompute: every layer is computed again.
        autocast: float32 weights under autocast; else bfloat16 weights without an optimizer, as in an engine.
        lora_rank: of adapters, which then are all that is trained, on a base in bfloat16; 0 for none.
        layers: of each tower; None for all.
        free: bytes that a step may take, for which so many layers are computed again as it takes; None for all of them.
    """

    name: str
    tiles: int = 7
    answers: tuple[int, int] = (250, 400)
    questions: int = 1
    reference: bool = False
    recompute: bool = True
    autocast: bool = True
    lora_rank: int = 0
    layers: int | None = None
    free: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.float32 if self.autocast and not self.lora_rank else torch.bfloat16

    def config(self) -> InternVLChatConfig:
        """Of the model."""
        return cut_config(self.name, self.layers)


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """Attention as on a GPU."""
    with (
        patch("internvl_chat.packed.attention.varlen_refusal", lambda *_, **__: ""),
        patch("torch.nn.functional.scaled_dot_product_attention", attention_of_a_gpu),
    ):
        yield


@dataclass(frozen=True)
class Accounted:
    """Bytes alive at the peak of a step and before it, what it computed, and with `free` the layers computed again."""

    peak: int
    stands: int
    load: StepLoad
    recomputed: int | None


def accounted(case: Case) -> Accounted:
    """What is alive in a step."""
    sizes = {"tiles": case.tiles, "answers": case.answers, "text": 64}
    batch = collate_packed([pair(20, **sizes, question=number) for number in range(case.questions)], IMAGE_TOKEN)
    pack = batch["packed"]
    keys = len(pack.layout.varlen.keys) if case.questions > 1 else None
    load = StepLoad(pack.input_ids.numel(), case.tiles, case.questions * sum(case.answers), keys)
    live = LiveBytes()
    with kernels_of_a_gpu(), FakeTensorMode() as mode:
        batch = faked(batch, mode)
        with live:
            policy = fake_model(case.name, case.dtype, layers=case.layers, lora_rank=case.lora_rank)
            if case.recompute:
                policy.gradient_checkpointing_enable({"use_reentrant": False})
            reference = None
            if case.reference:
                reference = fake_model(case.name, case.dtype, layers=case.layers).eval().requires_grad_(False)
            optimizer = torch.optim.AdamW(trained(policy), fused=True) if case.autocast else None
            choice = None
            if case.free is not None:
                choice = Recomputation(policy, half=True, free_bytes=lambda: case.free / USED)
            for _ in range(2):
                if choice is not None:
                    choice.choose(load, has_moments=True)
                stands, live.peak = live.now, live.now
                with torch.autocast("cpu", torch.bfloat16) if case.autocast else nullcontext():
                    loss = preference_loss(policy, reference, batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                if optimizer is not None:
                    optimizer.step()
                policy.zero_grad(set_to_none=True)
    chosen = None if choice is None else choice.number
    return Accounted(live.peak, stands, load, chosen)


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters with gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def preference_loss(policy: torch.nn.Module, reference: torch.nn.Module | None, batch: dict[str, Any]) -> torch.Tensor:
    """The usual mixture; without a reference model its log-probs are constants, as of a cache."""
    pack, logps = batch["packed"], answer_logps(policy, batch)
    with torch.no_grad():
        of_reference = torch.zeros_like(logps) if reference is None else answer_logps(reference, batch)
    pairs = PreferenceLogps.of_answers(pack.pair_answers, pack.lengths, logps, of_reference)
    nll = nll_loss(pairs.policy_chosen, pairs.chosen_lengths)
    return mixed_preference_loss(pairs, nll, delta=RunningMean().update(pairs.rewards(0.1))).total


def estimated_peak(case: Case, load: StepLoad) -> float:
    """What `tools.footprint` says of the same step; in bfloat16 its parts for weights and the step alone."""
    config = case.config()
    model = meta_model(config)
    count = count_parameters(model)
    if case.lora_rank:
        add_adapters(model, lora_config(case.lora_rank, case.lora_rank, case.name))
    if case.autocast:
        number = sum(parameter.numel() for parameter in trained(model))
        plan = Plan(1, 0, False, True, case.recompute, case.reference, deepspeed=False, adapters=case.lora_rank > 0)
        return footprint(config, count, number, plan, load).total
    weights = Weights(count.vision, count.projector, count.language, count.total, case.dtype.itemsize, half=True)
    memory = StepMemory(config, weights)
    stored = count.total * case.dtype.itemsize * (1 + case.reference)
    return stored + memory.peak(load, memory.layers if case.recompute else 0).total
