"""Mixed Preference Optimization (arXiv 2411.10442): preference losses summed with weights, and the NLL beside them.

    L = sum_k w_k mean_B(L_k) + w_g L_g        MPO: 0.8 sigmoid (DPO) + 0.2 bco_pair + 1.0 NLL, beta 0.1

The single losses are in `pair`. A mixture is data, names and weights, so that any of them can be mixed:

    pairs = PreferenceLogps(chosen, rejected, chosen_lengths, rejected_lengths, ref_chosen, ref_rejected)
    loss = mixed_preference_loss(pairs, delta=running.update(pairs.rewards(beta=0.1)))
    loss.total.backward()

The paper's comparison for `parse_loss_type`: DPO `sigmoid`, RSO `hinge`, IPO `ipo`, cDPO `sigmoid` with label_smoothing
0.1, robust DPO `robust` with label_smoothing 0.1, BCO `bco_pair`, SPPO `sppo_hard`, AOT `aot`, ORPO `orpo`, SFT `sft`;
`bco_pair_zero` is BCO without its running mean; a trailing `+` adds the NLL. TR-DPO is `sigmoid` with a moving
reference, which is the trainer's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from internvl_chat.losses.pair import ALIASES, LOSS_TYPES, PreferenceLogps


@dataclass(frozen=True)
class LossMixture:
    """A mixed loss as data: what is summed, checked once.

    Raises:
        ValueError: an unknown or repeated name, another number of weights than of names, a weight that is negative or
            not finite, or all of them 0.
    """

    names: tuple[str, ...]  # keys of LOSS_TYPES
    weights: tuple[float, ...]  # w_k >= 0, one per name
    nll_weight: float = 0.0  # w_g >= 0 of the chosen answers' NLL (rpo_alpha)

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in LOSS_TYPES]
        if unknown:
            raise ValueError(f"unknown loss {unknown}: known are {sorted([*LOSS_TYPES, *ALIASES, 'sft'])}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"a loss is named twice in {self.names}: add up its weights")
        if len(self.names) != len(self.weights):
            raise ValueError(f"{len(self.names)} losses {self.names} but {len(self.weights)} weights {self.weights}")
        every = (*self.weights, self.nll_weight)
        if not all(0 <= weight < float("inf") for weight in every) or not any(every):
            raise ValueError(
                f"weights {self.weights} of {self.names} and {self.nll_weight} of the NLL (--rpo_alpha) must be >= 0, "
                "and not all 0"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether any loss compares with a reference."""
        return any(LOSS_TYPES[name].needs_reference for name in self.names)

    @property
    def needs_delta(self) -> bool:
        """Whether any loss takes BCO's running mean."""
        return any("delta" in LOSS_TYPES[name].scalars for name in self.names)


MPO = LossMixture(names=("sigmoid", "bco_pair"), weights=(0.8, 0.2), nll_weight=1.0)  # arXiv 2411.10442, section 3


def parse_loss_type(
    spec: str | Sequence[str], weights: Mapping[str, float] | None = None, rpo_alpha: float | None = None
) -> LossMixture:
    """Read a loss specification such as `sigmoid,bco_pair`, `dpo+` or `sft`.

    Args:
        spec: names of LOSS_TYPES or ALIASES, or `sft`, the NLL alone; joined by commas or apart. A trailing `+` adds
            the NLL.
        weights: weight by name. A name without one weighs 1, but in `sigmoid,bco_pair` as in MPO.
        rpo_alpha: weight of the NLL. None: 1 for MPO's two losses, `+` and ORPO (part of its definition), the weight
            of `sft` where that is named, else 0.

    Raises:
        ValueError: a weight for a loss that is not named, `sft` together with rpo_alpha, or what LossMixture refuses.
    """
    parts = [part.strip().lower() for part in (spec.split(",") if isinstance(spec, str) else spec)]
    named = [ALIASES.get(part.rstrip("+"), part.rstrip("+")) for part in parts]
    given = {ALIASES.get(name, name): float(weight) for name, weight in (weights or {}).items()}
    absent = sorted(set(given) - set(named))
    if absent:
        raise ValueError(f"weights for {absent}, which loss type {spec!r} does not name")
    if len(set(named)) < len(named):
        raise ValueError(f"loss type {spec!r} names a loss twice: add up its weights")
    is_mpo = set(named) == set(MPO.names)
    if "sft" in named and rpo_alpha is not None:
        raise ValueError(f"loss type {spec!r} has the NLL as sft: give its weight there, not as rpo_alpha {rpo_alpha}")
    if rpo_alpha is None:
        with_nll = is_mpo or "orpo" in named or any(part.endswith("+") for part in parts)
        rpo_alpha = given.pop("sft", 1.0) if "sft" in named else float(with_nll)
    usual = dict(zip(MPO.names, MPO.weights, strict=True)) if is_mpo else {}
    names = tuple(name for name in named if name != "sft")
    return LossMixture(names, tuple(given.get(name, usual.get(name, 1.0)) for name in names), float(rpo_alpha))


def nll_loss(
    chosen_logps: Tensor,
    chosen_lengths: Tensor,
    mode: Literal["token", "pair"] = "token",
    count: Tensor | float | None = None,
) -> Tensor:
    """Negative log-likelihood of the chosen answers, a scalar >= 0.

    Args:
        chosen_logps: (B,) log pi(y_w | x), summed over tokens.
        chosen_lengths: (B,) tokens with a label, >= 1.
        mode: `token`, mean over all chosen tokens, as the original trains; `pair`, mean over pairs of each answer's
            mean, L_g = -log pi(y_w | x) / |y_w| of arXiv 2411.10442.
        count: what to divide by, tokens or pairs after the mode, where it is not this batch's number (all ranks').

    Raises:
        ValueError: another mode.
    """
    if mode == "token":
        return -chosen_logps.sum() / (chosen_lengths.sum() if count is None else count)
    if mode == "pair":
        return -(chosen_logps / chosen_lengths).sum() / (chosen_logps.numel() if count is None else count)
    raise ValueError(f"NLL mode {mode!r} is unknown: take 'token' or 'pair'")


@dataclass(frozen=True)
class PreferenceLoss:
    """A mixed loss with its parts apart."""

    total: Tensor  # scalar to minimise
    losses: dict[str, Tensor]  # name -> (B,), unweighted
    nll: Tensor  # scalar, unweighted
    chosen_rewards: Tensor  # (B,) beta log(pi / pi_ref) of chosen, no gradient
    rejected_rewards: Tensor  # (B,) the same of rejected

    @property
    def parts(self) -> dict[str, Tensor]:
        """name -> scalar, the unweighted mean over this batch, without gradient."""
        return {name: losses.detach().mean() for name, losses in self.losses.items()}


def mixed_preference_loss(
    pairs: PreferenceLogps,
    nll: Tensor | None = None,
    mixture: LossMixture = MPO,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    delta: Tensor | float | None = None,
    num_pairs: Tensor | float | None = None,
) -> PreferenceLoss:
    """L = sum_k w_k mean_B(L_k) + w_g L_g, by default MPO (arXiv 2411.10442, section 3).

    Args:
        pairs: log-probs of B pairs.
        nll: L_g, a scalar. None: `nll_loss` in mode `pair`, the paper's.
        mixture: the losses and their weights.
        beta: strength of the tie to the reference, > 0.
        label_smoothing: share of pairs taken as wrongly ordered, in [0, 0.5).
        delta: BCO's reward shift. None: this batch's mean reward, what a new `RunningMean` gives.
        num_pairs: what the sum over pairs is divided by; None: B.

    Raises:
        ValueError: no reference where a loss needs one, beta or label_smoothing out of range.
    """
    if mixture.needs_reference and not pairs.has_reference:
        raise ValueError(f"losses {mixture.names} compare with a reference, but reference log-probs are None")
    if not (beta > 0 and 0 <= label_smoothing < 0.5):
        raise ValueError(f"need beta > 0 and 0 <= label_smoothing < 0.5, got {beta} and {label_smoothing}")
    rewards = pairs.rewards(beta)
    scalars = {
        "beta": beta,
        "label_smoothing": label_smoothing,
        "delta": rewards.mean() if delta is None else delta,
    }
    nll = nll_loss(pairs.policy_chosen, pairs.chosen_lengths, "pair") if nll is None else nll
    losses: dict[str, Tensor] = {}
    total = mixture.nll_weight * nll
    for name, weight in zip(mixture.names, mixture.weights, strict=True):
        kind = LOSS_TYPES[name]
        losses[name] = kind.function(pairs, **{scalar: scalars[scalar] for scalar in kind.scalars})
        total = total + weight * losses[name].sum() / (len(losses[name]) if num_pairs is None else num_pairs)
    return PreferenceLoss(total, losses, nll, chosen_rewards=rewards[0], rejected_rewards=rewards[1])


class RunningMean:
    """Mean of all rewards so far over all ranks: BCO's delta (arXiv 2404.04656), the same on every rank.

    One observation per rank and micro-batch, the mean of its chosen and rejected rewards. It stays on the device in
    float64, so that a step costs no synchronisation. In evaluation read `mean` and do not update.
    """

    def __init__(self) -> None:
        self.mean = torch.zeros((), dtype=torch.float64)  # scalar
        self.count = torch.zeros((), dtype=torch.float64)  # observations, >= 0

    def update(self, rewards: Tensor) -> Tensor:
        """Add this rank's rewards, of any shape, as one observation; without rewards, none. Returns the new mean.

        A collective where torch.distributed is initialised: every rank calls it the same number of times.
        """
        values = rewards.detach().double()
        present = values.new_full((), float(values.numel() > 0))
        total = values.mean() if values.numel() else values.sum()
        observed = torch.stack([total, present])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(observed)
        return self.add(observed[0], observed[1])

    def add(self, total: Tensor, count: Tensor | float) -> Tensor:
        """Add a sum of `count` observations that is already the same on every rank. Returns the new mean."""
        previous = self.count.to(total.device)
        self.count = previous + count
        self.mean = (self.mean.to(total.device) * previous + total) / self.count.clamp(min=1)
        return self.mean

    def state_dict(self) -> dict[str, float]:
        """`mean` and `count` as numbers, for a checkpoint."""
        return {"mean": self.mean.item(), "count": self.count.item()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: keys other than `mean` and `count`, a negative count or a mean that is not finite.
        """
        if set(state) != {"mean", "count"} or not state["count"] >= 0 or not abs(state["mean"]) < float("inf"):
            raise ValueError(f"not the state of a RunningMean: {dict(state)}")
        self.mean = torch.tensor(state["mean"], dtype=torch.float64)
        self.count = torch.tensor(state["count"], dtype=torch.float64)
