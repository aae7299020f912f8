"""Chunked log-probs against the full log-softmax: values, gradients, and what they keep in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, log_softmax
from transformers import Qwen2Config, Qwen2ForCausalLM

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.logps import LogpsHead, install_logps_head, sequence_logps, token_logps

SIZES = [(1, 5, 3, 1), (7, 16, 11, 3), (13, 8, 101, 4), (12, 8, 50, 12), (5, 8, 50, 1000)]


def full_logps(hidden, weight, labels, bias=None):
    """The oracle: all logits at once, 0 where there is no label."""
    logits = linear(hidden, weight, bias)
    logps = log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
    kept = labels != IGNORE_INDEX
    return logps.gather(-1, labels.masked_fill(~kept, 0).unsqueeze(-1)).squeeze(-1) * kept


def case(n, d, v, *, dtype=torch.float32, bias=False, ignored=0.3):
    """Random hidden (N, D), weight (V, D), labels (N,), bias (V,) or None, with a share of positions without label."""
    generator = torch.Generator().manual_seed(n * 1000 + v)
    hidden = torch.randn(n, d, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(v, d, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, v, (n,), generator=generator)
    labels[torch.rand(n, generator=generator) < ignored] = IGNORE_INDEX
    return hidden, weight, labels, torch.randn(v, generator=generator).to(dtype).requires_grad_() if bias else None


def gradients(logps, *inputs):
    """Gradients of a sum with unlike weights, so that rows cannot be mixed up."""
    weights = torch.linspace(-1.0, 2.0, logps.numel(), dtype=logps.dtype)
    return torch.autograd.grad((logps * weights).sum(), [x for x in inputs if x is not None])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "d", "v", "chunk_size"), SIZES)
def test_equals_the_full_log_softmax(n, d, v, chunk_size, bias):
    hidden, weight, labels, b = case(n, d, v, bias=bias)
    ours, oracle = token_logps(hidden, weight, labels, b, chunk_size=chunk_size), full_logps(hidden, weight, labels, b)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, oracle, rtol=1e-6, atol=1e-6)
    for got, expected in zip(gradients(ours, hidden, weight, b), gradients(oracle, hidden, weight, b), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)


def test_gradcheck():
    hidden, weight, labels, bias = case(5, 4, 7, dtype=torch.float64, bias=True)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logps(h, w, labels, b, chunk_size=2), (hidden, weight, bias))


def test_hand_computed_value():
    # logits (ln 1, ln 3), so the second label has p = 3/4
    weight = torch.tensor([[1.0], [3.0]]).log()
    logps = token_logps(torch.tensor([[1.0], [1.0]]), weight, torch.tensor([1, IGNORE_INDEX]))
    torch.testing.assert_close(logps, torch.tensor([0.75, 1.0]).log())


def test_large_logits_do_not_overflow():
    logps = token_logps(torch.tensor([[1000.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert logps.item() == -2000.0


def test_no_label_at_all_gives_zeros_and_zero_gradients():
    hidden, weight, labels, _ = case(6, 4, 9, ignored=1.1)
    logps = token_logps(hidden, weight, labels, chunk_size=2)
    assert torch.equal(logps, torch.zeros(6))
    logps.sum().backward()  # ranks without labels still take part in every gradient reduction
    assert not hidden.grad.any() and not weight.grad.any()


def test_leading_dimensions_are_kept():
    hidden, weight, labels, _ = case(12, 4, 9)
    expected = token_logps(hidden, weight, labels).view(3, 4)
    torch.testing.assert_close(token_logps(hidden.view(3, 4, 4), weight, labels.view(3, 4)), expected)


@pytest.mark.parametrize(("frozen", "left"), [(0, 1), (1, 0)])
def test_a_frozen_side_gets_no_gradient(frozen, left):
    hidden, weight, labels, _ = case(7, 4, 9)
    inputs = (hidden, weight)
    inputs[frozen].requires_grad_(False)
    token_logps(hidden, weight, labels, chunk_size=3).sum().backward()
    assert inputs[frozen].grad is None
    (expected,) = torch.autograd.grad(full_logps(hidden, weight, labels).sum(), [inputs[left]])
    torch.testing.assert_close(inputs[left].grad, expected, rtol=1e-5, atol=1e-6)


def test_no_graph_without_gradients():
    hidden, weight, labels, _ = case(7, 4, 9)
    with torch.no_grad():
        assert not token_logps(hidden, weight, labels).requires_grad


@pytest.mark.parametrize("chunk_size", [16, 64])
def test_bfloat16_product_and_float32_log_softmax(chunk_size):
    hidden, weight, labels, _ = case(40, 32, 64, dtype=torch.bfloat16)
    ours, oracle = token_logps(hidden, weight, labels, chunk_size=chunk_size), full_logps(hidden, weight, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, oracle, rtol=1e-6, atol=1e-6)
    for got, expected in zip(gradients(ours, hidden, weight), gradients(oracle, hidden, weight), strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_weight_gradient_of_many_bfloat16_chunks_is_summed_in_float32():
    """1000 chunks that each add 1/2 of the first row's gradient: a bfloat16 sum stops at 128."""
    hidden = torch.ones(1000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_logps(hidden, weight, torch.zeros(1000, dtype=torch.int64), chunk_size=1).sum().backward()
    assert weight.grad.flatten().tolist() == [500.0, -500.0]


@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast(backward_inside):
    hidden, weight, labels, _ = case(40, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        ours, oracle = token_logps(hidden, weight, labels, chunk_size=16), full_logps(hidden, weight, labels)
        if backward_inside:
            by_ours = gradients(ours, hidden, weight)
    torch.testing.assert_close(ours, oracle, rtol=1e-6, atol=1e-6)
    by_ours = by_ours if backward_inside else gradients(ours, hidden, weight)
    for got, expected in zip(by_ours, gradients(oracle, hidden, weight), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_under_gradient_checkpointing():
    hidden, weight, labels, _ = case(9, 4, 11)
    logps = torch.utils.checkpoint.checkpoint(token_logps, hidden, weight, labels, use_reentrant=False)
    oracle = full_logps(hidden, weight, labels)
    for got, expected in zip(gradients(logps, hidden, weight), gradients(oracle, hidden, weight), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_neither_pass_ever_makes_or_keeps_whole_logits():
    n, d, v, chunk_size = 64, 4, 100, 8
    hidden, weight, labels, _ = case(n, d, v, ignored=0.0)
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x)
    with keep, LargestTensor() as forward:
        logps = token_logps(hidden, weight, labels, chunk_size=chunk_size)
    assert forward.size == chunk_size * v
    assert max(saved) == v * d  # the weight itself
    with LargestTensor() as backward:
        logps.sum().backward()
    assert backward.size == chunk_size * v


def test_positions_without_label_cost_no_product():
    hidden, weight, labels, _ = case(64, 4, 100, ignored=1.1)
    labels[5] = 3
    with LargestTensor() as forward:
        token_logps(hidden.detach(), weight.detach(), labels)
    assert forward.size < 64 * 100 / 4


@pytest.mark.parametrize(
    ("shapes", "chunk_size", "message"),
    [
        (((4, 3), (9, 5), (4,)), 8, r"hidden \(4, 3\), labels \(4,\), weight \(9, 5\)"),
        (((4, 3), (9, 3), (5,)), 8, r"labels \(5,\)"),
        (((4, 3), (9, 3), (4,)), 0, "chunk_size 0"),
    ],
)
def test_bad_arguments_are_refused(shapes, chunk_size, message):
    hidden, weight, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        token_logps(hidden, weight, labels.long(), chunk_size=chunk_size)


def tiny_model(*, tied=False):
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [False, True])
def test_installing_the_head_changes_nothing_but_what_it_can(tied):
    model = tiny_model(tied=tied)
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    ids = torch.arange(6)[None]
    logits = model(input_ids=ids).logits
    install_logps_head(model)
    install_logps_head(model)  # a second time finds it done
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert torch.equal(model(input_ids=ids).logits, logits)
    hidden = model.model(input_ids=ids).last_hidden_state
    expected = full_logps(hidden, model.lm_head.weight, ids)
    torch.testing.assert_close(model.get_output_embeddings()(hidden, ids, chunk_size=4), expected)


def test_the_head_keeps_its_bias():
    head = nn.Linear(4, 9)
    hidden, labels = torch.randn(5, 4), torch.arange(5)
    expected = full_logps(hidden, head.weight, labels, head.bias)
    torch.testing.assert_close(LogpsHead.sharing(head)(hidden, labels), expected)


def test_a_head_that_is_more_than_its_weight_is_refused():
    model = tiny_model()
    model.lm_head = nn.Sequential(model.lm_head, nn.Identity())
    with pytest.raises(TypeError, match="LM head is a Sequential"):
        install_logps_head(model)


def test_a_head_of_a_subclass_is_refused():
    """It may compute something else, as a layer with LoRA does."""
    model = tiny_model()
    model.lm_head.__class__ = type("ScaledLinear", (nn.Linear,), {})
    with pytest.raises(TypeError, match="LM head is a ScaledLinear"):
        install_logps_head(model)


def test_sequence_logps_of_both_layouts():
    padded = torch.tensor([[-1.0, -2.0, 0.0], [-4.0, 0.0, 0.0]])
    assert sequence_logps(padded).tolist() == [-3.0, -4.0]
    packed, ids = torch.tensor([-1.0, -4.0, -2.0, 0.0]), torch.tensor([0, 2, 0, 1])
    assert sequence_logps(packed, ids, 3).tolist() == [-3.0, 0.0, -4.0]


def test_sequence_logps_are_summed_in_float64():
    tokens = torch.full((3, 4000), -0.1)
    exact = 4000 * tokens[0, 0].double().item()
    sums = sequence_logps(tokens)
    assert sums.dtype == torch.float64
    assert sums[0].item() == pytest.approx(exact, abs=1e-10)
    ids = torch.arange(3).repeat_interleave(4000)
    assert sequence_logps(tokens.flatten(), ids, 3)[2].item() == pytest.approx(exact, abs=1e-10)


def test_sequence_logps_refuses_half_a_packing():
    with pytest.raises(ValueError, match="both sequence_ids and num_sequences"):
        sequence_logps(torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(3,\) sequence_ids for \(4,\)"):
        sequence_logps(torch.zeros(4), torch.zeros(3, dtype=torch.int64), 1)


ZERO3 = """
import sys

import deepspeed
import torch
import torch.distributed as dist

sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/packed"]
from test_logps import tiny_model
from internvl_chat.packed.logps import install_logps_head, sequence_logps
from internvl_chat.run.process import leave_ranks

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
deepspeed.init_distributed("gloo")


class Policy(torch.nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.language_model = tiny_model(tied=tied)
        install_logps_head(self.language_model)

    def forward(self, ids, labels, chunk_size):
        hidden = self.language_model.model(input_ids=ids, use_cache=False).last_hidden_state
        return sequence_logps(self.language_model.get_output_embeddings()(hidden, labels, chunk_size))


def batch(rank):
    ids = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(rank))
    labels = ids.roll(-1, 1)
    labels[:, : 3 if rank == 0 else 17] = -100  # 9 chunks on rank 0, 2 on rank 1
    return ids, labels


config = {
    "zero_optimization": {"stage": 3, "overlap_comm": False, "stage3_param_persistence_threshold": 0},
    "gradient_clipping": 0.0,
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
}
for tied in (False, True):
    policy, whole = Policy(tied), Policy(tied)
    engine, *_ = deepspeed.initialize(
        model=policy, optimizer=torch.optim.SGD(policy.parameters(), lr=0.5), config=config
    )
    assert policy.language_model.lm_head.weight.numel() == 0, "the weight is not partitioned"
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.5)
    for _ in range(3):
        loss = -engine(*batch(dist.get_rank()), 4).mean().float() / 20
        engine.backward(loss)
        engine.step()
        dist.all_reduce(loss.detach_())
        expected = sum(-whole(*batch(rank), 64).mean() / 20 for rank in range(2))
        optimizer.zero_grad()
        (expected / 2).backward()
        optimizer.step()
        assert abs(loss.item() - expected.item()) < 1e-5, (tied, loss, expected)
leave_ranks(0)
"""


@pytest.mark.integration
def test_under_zero3_with_unlike_numbers_of_chunks(tmp_path, monkeypatch):
    """Partitioned weight, tied or not: training on two ranks equals one process with the whole model."""
    script = tmp_path / "zero3.py"
    script.write_text(ZERO3)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run([*launch, str(script), root], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
