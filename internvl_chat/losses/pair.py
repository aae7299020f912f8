"""Preference losses of one kind: functions of the log-probs of B pairs that return (B,), one value per pair.

With r_w, r_l the rewards beta log(pi / pi_ref) of chosen and rejected, and s the sigmoid: DPO and its kin know only
r_w - r_l, BCO pulls r_w above and r_l below a running mean. `LOSS_TYPES` names them all; `losses` mixes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PreferenceLogps:
    """What the losses see of B pairs: log-probs of whole answers, summed over their tokens, in float32 or float64.

    Without a reference, log-ratios and rewards are those against a constant one: log pi.
    """

    policy_chosen: Tensor  # (B,) log pi(y_w | x)
    policy_rejected: Tensor  # (B,) log pi(y_l | x)
    chosen_lengths: Tensor  # (B,) tokens of y_w with a label, >= 1
    rejected_lengths: Tensor  # (B,) tokens of y_l with a label, >= 1
    reference_chosen: Tensor | None = None  # (B,) log pi_ref(y_w | x), no gradient
    reference_rejected: Tensor | None = None  # (B,) log pi_ref(y_l | x), no gradient

    def __post_init__(self) -> None:
        """Check shapes and types, which costs no device synchronisation.

        Raises:
            ValueError: half a reference, shapes that differ from (B,), or log-probs below 32 bits.
        """
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        if len(tensors) == 5:
            raise ValueError(f"a reference needs chosen and rejected log-probs, got only {sorted(tensors)}")
        for name, value in tensors.items():
            if value.dim() != 1 or value.shape != self.policy_chosen.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, not (B,) = {tuple(self.policy_chosen.shape)}")
            if not name.endswith("lengths") and value.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} is {value.dtype}: sums over an answer need float32 or float64")

    @classmethod
    def of_answers(
        cls, pair_answers: Tensor, lengths: Tensor, policy: Tensor, reference: Tensor | None = None
    ) -> PreferenceLogps:
        """What A distinct answers are to B pairs.

        Args:
            pair_answers: (2, B) the answers of each pair, chosen then rejected. (1, B) in fine-tuning: the chosen ones
                stand in for the rejected ones, which no loss reads.
            lengths: (A,) tokens with a label, >= 1.
            policy: (A,) log pi(y | x).
            reference: (A,) log pi_ref(y | x), None without a reference.
        """
        sides = pair_answers[0], pair_answers[-1]
        of_reference = () if reference is None else (reference[side] for side in sides)
        return cls(*(policy[side] for side in sides), *(lengths[side] for side in sides), *of_reference)

    @property
    def has_reference(self) -> bool:
        """Whether reference log-probs are there."""
        return self.reference_chosen is not None

    @property
    def chosen_logratios(self) -> Tensor:
        """log pi(y_w | x) - log pi_ref(y_w | x), (B,)."""
        return _over(self.policy_chosen, self.reference_chosen)

    @property
    def rejected_logratios(self) -> Tensor:
        """log pi(y_l | x) - log pi_ref(y_l | x), (B,)."""
        return _over(self.policy_rejected, self.reference_rejected)

    @property
    def margins(self) -> Tensor:
        """log-ratio of chosen minus that of rejected, (B,): DPO's argument before beta."""
        return self.chosen_logratios - self.rejected_logratios

    @property
    def reference_margins(self) -> Tensor:
        """log pi_ref(y_w | x) - log pi_ref(y_l | x), (B,); zeros without a reference."""
        if self.reference_chosen is None or self.reference_rejected is None:
            return torch.zeros_like(self.policy_chosen)
        return self.reference_chosen - self.reference_rejected

    def rewards(self, beta: float) -> Tensor:
        """Implicit rewards beta log(pi / pi_ref), chosen then rejected, (2, B), without gradient."""
        return beta * torch.stack([self.chosen_logratios, self.rejected_logratios]).detach()


def _over(policy: Tensor, reference: Tensor | None) -> Tensor:
    """Log-ratio of policy and reference; without one, the policy's log-prob."""
    return policy if reference is None else policy - reference


def _smoothed(margins: Tensor, label_smoothing: float) -> Tensor:
    """Cross entropy of sigmoid(margins) with the label 1 - label_smoothing."""
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def sigmoid_loss(pairs: PreferenceLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO, -log sigmoid(r_w - r_l): arXiv 2305.18290 eq. 7; with label_smoothing cDPO (Mitchell 2023). (B,)."""
    return _smoothed(beta * pairs.margins, label_smoothing)


def hinge_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """max(0, 1 - (r_w - r_l)): RSO arXiv 2309.06657, SLiC arXiv 2305.10425. (B,)."""
    return torch.relu(1 - beta * pairs.margins)


def ipo_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2, h the margin of mean log-ratios per token: arXiv 2310.12036 eq. 17, beta its tau. (B,).

    The mean over tokens is its authors' reading, which trl has followed since 0.8; lengths of 1 give the sum.
    """
    margins = pairs.chosen_logratios / pairs.chosen_lengths - pairs.rejected_logratios / pairs.rejected_lengths
    return (margins - 1 / (2 * beta)) ** 2


def exo_pair_loss(pairs: PreferenceLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """KL of the policy's choice from (1 - e, e): arXiv 2402.00856 eq. 16. e = 0 is infinite and becomes 1e-3. (B,)."""
    epsilon = torch.tensor(label_smoothing or 1e-3, dtype=torch.float64)
    margins = beta * pairs.margins
    chosen = margins.sigmoid() * (logsigmoid(margins) - torch.log1p(-epsilon).item())
    return chosen + (-margins).sigmoid() * (logsigmoid(-margins) - epsilon.log().item())


def nca_pair_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2, s the sigmoid: arXiv 2402.05369, NCA with two answers. (B,)."""
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def robust_loss(pairs: PreferenceLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Unbiased DPO where label_smoothing < 0.5 is the share of flipped pairs: arXiv 2403.00409 eq. 12. (B,)."""
    margins = beta * pairs.margins
    clean, flipped = (1 - label_smoothing) * logsigmoid(margins), label_smoothing * logsigmoid(-margins)
    return (flipped - clean) / (1 - 2 * label_smoothing)


def bco_pair_loss(pairs: PreferenceLogps, beta: float, delta: Tensor | float) -> Tensor:
    """-log s(r_w - delta) - log s(delta - r_l), delta the mean reward so far: BCO arXiv 2404.04656. (B,).

    MPO's quality loss, arXiv 2411.10442 section 3; `RunningMean` gives delta.
    """
    return -logsigmoid(beta * pairs.chosen_logratios - delta) - logsigmoid(delta - beta * pairs.rejected_logratios)


def bco_pair_zero_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """`bco_pair` with delta 0: what trl 1.16 computes by that name. (B,)."""
    return bco_pair_loss(pairs, beta, delta=0.0)


def sppo_hard_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """(log-ratio_w - 1/(2 beta))^2 + (log-ratio_l + 1/(2 beta))^2: arXiv 2405.00675 eq. 4.7 with P in {0, 1}. (B,)."""
    return (pairs.chosen_logratios - 0.5 / beta) ** 2 + (pairs.rejected_logratios + 0.5 / beta) ** 2


def aot_loss(pairs: PreferenceLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO between sorted margins of policy and reference, paired AOT: arXiv 2406.05882. (B,) sorted.

    Sorting is over the B pairs at hand: with B = 1 this is `sigmoid`.
    """
    policy = (pairs.policy_chosen - pairs.policy_rejected).sort().values
    return _smoothed(beta * (policy - pairs.reference_margins.sort().values), label_smoothing)


def aot_pair_loss(pairs: PreferenceLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO between sorted log-ratios of chosen and of rejected, unpaired AOT: arXiv 2406.05882. (B,) sorted."""
    margins = pairs.chosen_logratios.sort().values - pairs.rejected_logratios.sort().values
    return _smoothed(beta * margins, label_smoothing)


def apo_zero_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """s(-r_w) + s(r_l), chosen up and rejected down: arXiv 2408.06266 eq. 7. (B,)."""
    return torch.sigmoid(-beta * pairs.chosen_logratios) + torch.sigmoid(beta * pairs.rejected_logratios)


def apo_down_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """s(r_w) + s(r_l - r_w), both down and rejected more: arXiv 2408.06266 eq. 8. (B,)."""
    return torch.sigmoid(beta * pairs.chosen_logratios) + torch.sigmoid(-beta * pairs.margins)


def orpo_loss(pairs: PreferenceLogps, beta: float) -> Tensor:
    """-beta log s(log odds_w - log odds_l), odds = p / (1 - p), log p the mean per token: arXiv 2403.07691. (B,).

    Needs no reference; beta is its lambda. Its other term is the NLL, which `parse_loss_type` adds.
    """
    chosen = _log_odds(pairs.policy_chosen / pairs.chosen_lengths)
    return -beta * logsigmoid(chosen - _log_odds(pairs.policy_rejected / pairs.rejected_lengths))


def _log_odds(logps: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p; p is kept below 1, where odds are infinite."""
    logps = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    return logps - torch.log(-torch.expm1(logps))


class LossType(NamedTuple):
    """A loss, the scalars it takes, and whether it compares with a reference."""

    function: Callable[..., Tensor]
    scalars: tuple[str, ...]
    needs_reference: bool = True


LOSS_TYPES: dict[str, LossType] = {
    "sigmoid": LossType(sigmoid_loss, ("beta", "label_smoothing")),
    "hinge": LossType(hinge_loss, ("beta",)),
    "ipo": LossType(ipo_loss, ("beta",)),
    "exo_pair": LossType(exo_pair_loss, ("beta", "label_smoothing")),
    "nca_pair": LossType(nca_pair_loss, ("beta",)),
    "robust": LossType(robust_loss, ("beta", "label_smoothing")),
    "bco_pair": LossType(bco_pair_loss, ("beta", "delta")),
    "bco_pair_zero": LossType(bco_pair_zero_loss, ("beta",)),
    "sppo_hard": LossType(sppo_hard_loss, ("beta",)),
    "aot": LossType(aot_loss, ("beta", "label_smoothing")),
    "aot_pair": LossType(aot_pair_loss, ("beta", "label_smoothing")),
    "apo_zero": LossType(apo_zero_loss, ("beta",)),
    "apo_down": LossType(apo_down_loss, ("beta",)),
    "orpo": LossType(orpo_loss, ("beta",), needs_reference=False),
}
ALIASES = {"dpo": "sigmoid", "bco": "bco_pair", "sppo": "sppo_hard", "aot_unpaired": "aot_pair"}
