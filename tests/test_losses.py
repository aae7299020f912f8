"""Losses against hand-computed values, the golden table of the original, and trl's own code."""

import inspect
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from internvl_chat.losses.mixture import MPO, LossMixture, RunningMean, mixed_preference_loss, nll_loss, parse_loss_type
from internvl_chat.losses.pair import LOSS_TYPES, PreferenceLogps

GOLDEN = Path(__file__).parent / "golden" / "out"
TABLE = json.loads((GOLDEN / "dpo_loss_table.json").read_text())
BATCHES = json.loads((GOLDEN / "loss_tiny-qwen2.json").read_text())
LN3 = math.log(3.0)
SMOOTH = {"label_smoothing": 0.1}


def make_pairs(chosen, rejected, ref_chosen=None, ref_rejected=None, lengths=(1, 1), dtype=torch.float64):
    """Pairs from lists of log-probs; `lengths` are those of every chosen and every rejected answer."""
    logps = [
        None if x is None else torch.as_tensor(x, dtype=dtype) for x in (chosen, rejected, ref_chosen, ref_rejected)
    ]
    counts = [torch.full(logps[0].shape, length) for length in lengths]
    return PreferenceLogps(*logps[:2], *counts, *logps[2:])


def golden_pairs(scale=(1, 1, 1, 1), dtype=torch.float32):
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    return make_pairs(*(torch.tensor(TABLE["inputs"][n]) * s for n, s in zip(names, scale, strict=True)), dtype=dtype)


def batch_pairs(batch):
    row = BATCHES["batches"][batch]
    names = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return make_pairs(*(row[name] for name in names), dtype=torch.float32), torch.tensor(row["policy_nll_loss"])


# One pair with beta 1, log-ratios ln 3 and -ln 3: sigmoid(ln 3) = 0.75 and sigmoid of the margin, ln 9, = 0.9.
HAND = [
    ("sigmoid", {}, -math.log(0.9)),
    ("sigmoid", SMOOTH, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
    ("hinge", {}, 0.0),
    ("hinge", {"beta": 0.25}, 1 - 0.25 * math.log(9)),
    ("ipo", {}, (math.log(9) - 0.5) ** 2),
    ("ipo", {"beta": 0.25}, (math.log(9) - 2.0) ** 2),
    ("exo_pair", SMOOTH, 0.0),  # the policy's choice is (0.9, 0.1), just what is asked
    ("exo_pair", {}, 0.9 * math.log(0.9 / 0.999) + 0.1 * math.log(0.1 / 0.001)),
    ("nca_pair", {}, -math.log(0.75) - 0.5 * math.log(0.25) - 0.5 * math.log(0.75)),
    ("robust", {}, -math.log(0.9)),
    ("robust", SMOOTH, (0.1 * math.log(0.1) - 0.9 * math.log(0.9)) / 0.8),
    ("bco_pair", {"delta": 0.0}, -2 * math.log(0.75)),
    ("bco_pair_zero", {"delta": LN3}, -2 * math.log(0.75)),
    ("bco_pair", {"delta": LN3}, -math.log(0.5) - math.log(0.9)),
    ("sppo_hard", {}, 2 * (LN3 - 0.5) ** 2),
    ("sppo_hard", {"beta": 0.25}, 2 * (LN3 - 2.0) ** 2),
    ("aot", {}, -math.log(0.9)),
    ("aot_pair", SMOOTH, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
    ("apo_zero", {}, 0.25 + 0.25),
    ("apo_down", {}, 0.75 + 0.1),
]


@pytest.mark.parametrize(("name", "scalars", "expected"), HAND)
def test_hand_computed_value(name, scalars, expected):
    pairs = make_pairs([-4.0 + LN3], [-7.0 - LN3], [-4.0], [-7.0])
    loss = mixed_preference_loss(pairs, mixture=LossMixture((name,), (1.0,)), **{"beta": 1.0, **scalars})
    assert loss.losses[name].item() == pytest.approx(expected, abs=1e-12)


def test_every_loss_has_a_hand_computed_value():
    assert {name for name, _, _ in HAND} | {"orpo"} == set(LOSS_TYPES)


def test_orpo_compares_odds_of_mean_logps_and_needs_no_reference():
    # means per token: p = 3/4 has odds 3, p = 1/4 has odds 1/3, so the odds ratio is 9
    pairs = make_pairs([4 * math.log(0.75)], [2 * math.log(0.25)], lengths=(4, 2))
    loss = mixed_preference_loss(pairs, mixture=parse_loss_type("orpo"), beta=0.1)
    assert loss.losses["orpo"].item() == pytest.approx(-0.1 * math.log(0.9), abs=1e-12)
    assert loss.total.item() == pytest.approx(-0.1 * math.log(0.9) - math.log(0.75), abs=1e-12)
    torch.testing.assert_close(loss.chosen_rewards, 0.1 * pairs.policy_chosen)


def test_orpo_stays_finite_where_the_policy_is_certain():
    chosen = torch.zeros(1, requires_grad=True)
    pairs = PreferenceLogps(chosen, torch.tensor([-5.0]), torch.tensor([3]), torch.tensor([3]))
    total = mixed_preference_loss(pairs, mixture=parse_loss_type("orpo")).total
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(chosen.grad).all()


def test_the_nll_is_the_papers_in_a_mixture_and_the_originals_by_itself():
    """Answers of 1 and 3 tokens with log-probs -2 and -3: means of 2 and 1 per pair, 5 over 4 tokens."""
    logps, lengths = torch.tensor([-2.0, -3.0]), torch.tensor([1, 3])
    pairs = PreferenceLogps(logps, logps - 1, lengths, lengths)
    assert mixed_preference_loss(pairs, mixture=LossMixture((), (), 1.0)).nll.item() == 1.5
    assert nll_loss(logps, lengths).item() == 1.25


def test_ipo_takes_the_mean_over_tokens():
    pairs = make_pairs([6.0], [-4.0], [0.0], [0.0], lengths=(3, 8))
    losses = mixed_preference_loss(pairs, mixture=parse_loss_type("ipo"), beta=1.0).losses
    assert losses["ipo"].item() == pytest.approx((6 / 3 + 4 / 8 - 0.5) ** 2)


def test_aot_sorts_margins_and_aot_pair_sorts_log_ratios():
    pairs = make_pairs([5.0, 1.0], [1.0, 2.0], [1.0, 0.0], [0.0, 3.0])
    # aot: policy margins (4, -1), reference margins (1, -3); sorted differences (-1 + 3, 4 - 1)
    # aot_pair: chosen log-ratios (4, 1), rejected (1, -1); sorted differences (1 + 1, 4 - 1)
    expected = torch.tensor([math.log1p(math.exp(-2)), math.log1p(math.exp(-3))], dtype=torch.float64)
    losses = mixed_preference_loss(pairs, mixture=LossMixture(("aot", "aot_pair"), (1.0, 1.0)), beta=1.0).losses
    torch.testing.assert_close(losses["aot"], expected)
    torch.testing.assert_close(losses["aot_pair"], expected)


@pytest.mark.parametrize("key", TABLE["rows"])
def test_golden_table_with_two_calls(key):
    """The original sums log-probs per pair here; lengths of 1 make ipo's mean that sum. Tolerance: float32."""
    name, smoothing = key.split("|ls")
    row, running = TABLE["rows"][key], RunningMean()
    mixture = LossMixture((name,), (1.0,))
    for pairs, column in ((golden_pairs(), "losses"), (golden_pairs((0.5, 0.5, 0.5, 0.75)), "losses_second_call")):
        delta = running.update(pairs.rewards(0.1)) if mixture.needs_delta else None
        loss = mixed_preference_loss(pairs, mixture=mixture, label_smoothing=float(smoothing), delta=delta)
        torch.testing.assert_close(loss.losses[name], torch.tensor(row[column]), rtol=1e-6, atol=1e-6)
        if column == "losses":
            torch.testing.assert_close(loss.chosen_rewards, torch.tensor(row["chosen_rewards"]))
            torch.testing.assert_close(loss.rejected_rewards, torch.tensor(row["rejected_rewards"]))
    assert running.mean.item() == pytest.approx(row["running"]["mean"], abs=1e-6)
    assert running.count.item() == pytest.approx(row["running"]["count"], abs=1e-6)


@pytest.mark.parametrize("batch", BATCHES["batches"])
def test_golden_batches_of_the_default_mixture(batch):
    pairs, nll = batch_pairs(batch)
    row, loss = BATCHES["batches"][batch], mixed_preference_loss(pairs, nll)
    assert loss.total.item() == pytest.approx(row["loss"], abs=2e-5)
    for name, golden in row["components"].items():
        torch.testing.assert_close(loss.losses[name], torch.tensor(golden["losses"]), rtol=0, atol=2e-5)
        assert loss.parts[name].item() == pytest.approx(sum(golden["losses"]) / len(golden["losses"]), abs=2e-5)
    assert loss.chosen_rewards.mean().item() == pytest.approx(row["metrics"]["rewards/chosen"], abs=2e-5)


def test_golden_sequence_of_the_running_mean():
    running = RunningMean()
    for step in BATCHES["running_sequence_no_update"]:
        pairs, nll = batch_pairs(step["batch"])
        loss = mixed_preference_loss(pairs, nll, delta=running.update(pairs.rewards(0.1)))
        assert running.mean.item() == pytest.approx(step["running"]["mean"], abs=2e-5)
        assert loss.total.item() == pytest.approx(step["loss"], abs=2e-5)


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_gradients_of_every_loss(name):
    reference = make_pairs([-3.0, -9.0, -5.0], [-4.0, -6.5, -2.0], lengths=(2, 3))
    policy = [
        (reference.policy_chosen * 1.1 + 0.3).requires_grad_(),
        (reference.policy_rejected * 0.9).requires_grad_(),
    ]

    def total(chosen, rejected):
        lengths = (reference.chosen_lengths, reference.rejected_lengths)
        pairs = PreferenceLogps(chosen, rejected, *lengths, reference.policy_chosen, reference.policy_rejected)
        mixture = LossMixture((name,), (1.0,))
        return mixed_preference_loss(pairs, mixture=mixture, label_smoothing=0.1, delta=0.05).total

    assert torch.autograd.gradcheck(total, policy)


def test_scalars_of_every_loss_are_its_parameters():
    for name, kind in LOSS_TYPES.items():
        assert tuple(inspect.signature(kind.function).parameters)[1:] == kind.scalars, name


def test_default_is_the_papers_mpo():
    pairs = make_pairs([-8.0, -6.0], [-9.0, -3.0], [-8.5, -6.0], [-8.0, -4.0], lengths=(4, 2))
    loss = mixed_preference_loss(pairs)
    rewards = 0.1 * torch.tensor([[0.5, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    sigmoid = -torch.log(torch.sigmoid(rewards[0] - rewards[1]))
    delta = rewards.mean()
    bco = -torch.log(torch.sigmoid(rewards[0] - delta)) - torch.log(torch.sigmoid(delta - rewards[1]))
    expected = 0.8 * sigmoid.mean() + 0.2 * bco.mean() + (8 / 4 + 6 / 4) / 2
    torch.testing.assert_close(loss.total, expected)
    assert parse_loss_type("sigmoid,bco_pair") == MPO


def test_global_number_of_pairs_makes_uneven_ranks_add_up():
    whole = golden_pairs()
    parts = [PreferenceLogps(*(t[rows] for t in vars(whole).values())) for rows in (slice(0, 1), slice(1, 4))]
    zero = torch.zeros(())
    expected = mixed_preference_loss(whole, zero, delta=0.2).total
    ranks = [mixed_preference_loss(part, zero, delta=0.2, num_pairs=4).total for part in parts]
    torch.testing.assert_close(sum(ranks), expected)
    empty = PreferenceLogps(*(t[:0] for t in vars(whole).values()))
    assert mixed_preference_loss(empty, zero, delta=0.2, num_pairs=4).total.item() == 0.0


def test_nll_modes():
    logps, lengths = torch.tensor([-8.0, -6.0]), torch.tensor([4, 2])
    assert nll_loss(logps, lengths).item() == pytest.approx(14 / 6)
    assert nll_loss(logps, lengths, "pair").item() == pytest.approx((2 + 3) / 2)
    assert nll_loss(logps, lengths, "token", count=28).item() == pytest.approx(0.5)
    assert nll_loss(logps, lengths, "pair", count=10).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="'mean' is unknown"):
        nll_loss(logps, lengths, "mean")


def test_sft_is_the_nll_alone():
    pairs = make_pairs([-8.0, -6.0], [-1.0, -1.0], lengths=(4, 2))
    mixture = parse_loss_type("sft")
    assert not mixture.needs_reference and not mixture.needs_delta
    loss = mixed_preference_loss(pairs, nll_loss(pairs.policy_chosen, pairs.chosen_lengths), mixture)
    assert loss.total.item() == pytest.approx(14 / 8)
    assert loss.parts == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("sigmoid",), LossMixture(("sigmoid",), (1.0,), 0.0)),
        (("dpo+",), LossMixture(("sigmoid",), (1.0,), 1.0)),
        (("aot_unpaired",), LossMixture(("aot_pair",), (1.0,), 0.0)),
        (("IPO+", {}, 0.5), LossMixture(("ipo",), (1.0,), 0.5)),
        (("orpo",), LossMixture(("orpo",), (1.0,), 1.0)),
        (("orpo", {}, 0.0), LossMixture(("orpo",), (1.0,), 0.0)),
        (("sft", {"sft": 2.0}), LossMixture((), (), 2.0)),
        (("bco_pair, sigmoid",), LossMixture(("bco_pair", "sigmoid"), (0.2, 0.8), 1.0)),
        (("sigmoid,bco_pair", {"bco": 0.5}, 0.0), LossMixture(("sigmoid", "bco_pair"), (0.8, 0.5), 0.0)),
        (
            (["sigmoid", "bco_pair", "sft"], {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}),
            LossMixture(("sigmoid", "bco_pair"), (0.8, 0.2), 1.0),
        ),
        (("sigmoid,hinge",), LossMixture(("sigmoid", "hinge"), (1.0, 1.0), 0.0)),
    ],
)
def test_parse_loss_type(arguments, expected):
    assert parse_loss_type(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sigmod",), r"unknown loss \['sigmod'\].*'sft', 'sigmoid'"),
        (("",), "unknown loss"),
        (("sigmoid,dpo",), "twice"),
        (("sft,sft",), "twice"),
        (("sigmoid", {"bco_pair": 0.2}), r"weights for \['bco_pair'\]"),
        (("sigmoid", {"sigmoid": -1.0}), "-1.0"),
        (("sigmoid", {"sigmoid": float("nan")}), "nan"),
        (("sigmoid", {"sigmoid": 0.0}), "not all 0"),
        (("sigmoid", {}, float("inf")), "inf"),
        (("sft", {}, 1.0), "rpo_alpha 1.0"),
    ],
)
def test_parse_loss_type_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_loss_type(*arguments)


def test_a_mixture_is_checked_when_made():
    with pytest.raises(ValueError, match=r"1 losses \('sigmoid',\) but 2 weights"):
        LossMixture(("sigmoid",), (0.8, 0.2))


def test_bad_log_probs_are_refused():
    with pytest.raises(ValueError, match=r"policy_rejected is \(2,\), not \(B,\) = \(1,\)"):
        make_pairs([-1.0], [-1.0, -2.0])
    with pytest.raises(ValueError, match="bfloat16"):
        make_pairs([-1.0], [-1.0], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="chosen and rejected"):
        make_pairs([-1.0], [-1.0], [-1.0])
    with pytest.raises(ValueError, match="reference log-probs are None"):
        mixed_preference_loss(make_pairs([-1.0], [-1.0]))


@pytest.mark.parametrize("scalars", [{"beta": 0.0}, {"beta": math.nan}, {"label_smoothing": 0.5}])
def test_scalars_out_of_range_are_refused(scalars):
    with pytest.raises(ValueError, match=str(next(iter(scalars.values())))):
        mixed_preference_loss(golden_pairs(), **scalars)


def test_rewards_and_delta_carry_no_gradient():
    chosen = torch.tensor([-1.0], requires_grad=True)
    pairs = PreferenceLogps(chosen, chosen - 1, torch.tensor([1]), torch.tensor([1]), chosen.detach(), chosen.detach())
    assert not pairs.rewards(0.1).requires_grad
    assert not RunningMean().update(0.1 * pairs.chosen_logratios).requires_grad
    loss = mixed_preference_loss(pairs)
    assert loss.total.requires_grad and not loss.chosen_rewards.requires_grad


def test_running_mean_of_golden_observations():
    running = RunningMean()
    for step in json.loads((GOLDEN / "running_moments_2ranks.json").read_text())["steps"]:
        running.add(torch.tensor(sum(step["inputs"]), dtype=torch.float64), len(step["inputs"]))
        assert running.mean.item() == pytest.approx(step["mean"], abs=1e-6)
        assert running.count.item() == step["count"]


def test_running_mean_survives_a_checkpoint():
    whole, first, second = RunningMean(), RunningMean(), RunningMean()
    for rewards in ([1.0, 2.0], [4.0]):
        whole.update(torch.tensor(rewards))
        first.update(torch.tensor(rewards))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.update(torch.tensor([7.0])) == whole.update(torch.tensor([7.0]))
    assert whole.state_dict() == {"mean": (1.5 + 4.0 + 7.0) / 3, "count": 3.0}


def test_running_mean_ignores_a_rank_without_rewards():
    running = RunningMean()
    assert running.update(torch.empty(0)).item() == 0.0
    running.update(torch.tensor([3.0]))
    running.update(torch.empty(0))
    assert running.state_dict() == {"mean": 3.0, "count": 1.0}


@pytest.mark.parametrize("state", [{"mean": 0.0}, {"mean": math.nan, "count": 1.0}, {"mean": 0.0, "count": -1.0}])
def test_running_mean_refuses_a_bad_state(state):
    with pytest.raises(ValueError, match="not the state of a RunningMean"):
        RunningMean().load_state_dict(state)


TWO_RANKS = """
import json, sys, torch, torch.distributed as dist
from internvl_chat.losses.mixture import RunningMean
from internvl_chat.run.process import leave_ranks
rank, store, golden = int(sys.argv[1]), sys.argv[2], json.load(open(sys.argv[3]))
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
running = RunningMean()
for step in golden["steps"]:
    running.update(torch.tensor([step["inputs"][rank]]))
    assert abs(running.mean.item() - step["mean"]) < 1e-6, (running.mean, step)
running.update(torch.tensor([5.0] * rank))  # one observation more: rank 0 has none
assert running.count.item() == 9, running.count
leave_ranks(0)
"""


@pytest.mark.integration
def test_running_mean_over_two_ranks(tmp_path):
    golden, root = GOLDEN / "running_moments_2ranks.json", Path(__file__).parent.parent
    command = [sys.executable, "-c", TWO_RANKS]
    ranks = [subprocess.Popen([*command, str(r), tmp_path / "store", golden], cwd=root) for r in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]


TRL_NAMES = {"aot_pair": "aot_unpaired", "bco_pair_zero": "bco_pair"}
TRL_EXCEPTIONS = {
    ("sigmoid", 0.1): "trl 1.16 dropped cDPO: its sigmoid takes no label smoothing, the original's does",
    ("exo_pair", 0.0): "trl refuses exo_pair without label smoothing, the original takes 1e-3",
}  # and bco_pair has no delta in trl: parity is with delta 0


def trl_loss(name, beta, label_smoothing, logps, mask):
    """What trl's own code makes of token log-probs (2B, S): its loss on a model that returns just these."""
    trainer = pytest.importorskip("trl").DPOTrainer
    policy, reference = logps
    zeros = torch.zeros_like(policy)
    outputs = SimpleNamespace(log_probs=policy, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    def model(**_):
        return outputs

    model.training = True
    accelerator = SimpleNamespace(device=policy.device, gather=lambda x: x, gather_for_metrics=lambda x: x)
    state = SimpleNamespace(
        model=model,
        accelerator=accelerator,
        loss_types=[TRL_NAMES.get(name, name)],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        f_divergence_type="reverse_kl",
        precompute_ref_logps=True,
        ld_alpha=None,
        aux_loss_enabled=False,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    ref_chosen, ref_rejected = reference.sum(1).chunk(2)
    inputs = {"input_ids": mask.long(), "attention_mask": mask, "completion_mask": mask}
    inputs |= {"ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    return inspect.unwrap(trainer._compute_loss)(state, model, inputs, return_outputs=False)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", [name for name in LOSS_TYPES if name != "orpo"] + ["sft"])
def test_parity_with_trl(name, label_smoothing):
    if (name, label_smoothing) in TRL_EXCEPTIONS:
        pytest.skip(TRL_EXCEPTIONS[name, label_smoothing])
    generator = torch.Generator().manual_seed(7)
    lengths = torch.tensor([[3, 7, 5], [6, 2, 4]])  # chosen, rejected
    mask = torch.arange(8) <= lengths.reshape(6, 1)
    mask[:, 0] = False  # the prompt: one token
    logps = [-torch.rand(6, 7, generator=generator, dtype=torch.float64) * mask[:, 1:] for _ in range(2)]
    expected = trl_loss(name, 0.3, label_smoothing, logps, mask.long())
    policy, reference = (x.sum(1).chunk(2) for x in logps)
    pairs = PreferenceLogps(*policy, *lengths, *reference)
    nll = nll_loss(policy[0], lengths[0], "token")
    loss = mixed_preference_loss(
        pairs, nll, parse_loss_type(name), beta=0.3, label_smoothing=label_smoothing, delta=0.0
    )
    torch.testing.assert_close(loss.total, expected, check_dtype=False)
