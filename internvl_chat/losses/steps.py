"""The loss of a critic's judgements: cross-entropy of `+` and `-` where a step was measured (VisualPRM 2503.10291).

    L = -sum_i w_i (t_i log p(+)_i + (1 - t_i) log p(-)_i) / sum_i w_i

over the J measured steps of a batch, p over the whole vocabulary or over the two words alone (`among_words`). With t in
{0, 1} it is the next-token loss on the judgement, with t a Monte-Carlo score a soft label. w is 1, or makes right and
wrong steps weigh the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def judgement_losses(logps: Tensor, targets: Tensor) -> Tensor:
    """-(t log p(+) + (1 - t) log p(-)), (J,).

    Args:
        logps: (J, 2) log p(`+`) and log p(`-`).
        targets: (J,) t in 0..1, the share of `+`.

    Raises:
        ValueError: shapes that do not fit.
    """
    if logps.shape != (*targets.shape, 2):
        raise ValueError(f"need logps (J, 2) and targets (J,), got {tuple(logps.shape)} and {tuple(targets.shape)}")
    return -(targets * logps[:, 0] + (1 - targets) * logps[:, 1])


def among_words(logps: Tensor) -> Tensor:
    """The log-probs (J, 2) of two words over a vocabulary, as those over the two alone; each row then sums to p = 1.

    The loss is then binary cross-entropy with the logit log p(+) - log p(-), which is what scores are made of: a model
    that has never written `+` or `-` need not learn first to write them (arXiv 2602.04145 trains so).
    """
    return logps.log_softmax(-1)


def balanced_weights(num_right: int, num_wrong: int) -> tuple[float, float]:
    """Weights of a right and a wrong step such that both kinds weigh the same in all, and a mean step weighs 1.

    Both are 1 where there is only one kind.
    """
    if not num_right or not num_wrong:
        return 1.0, 1.0
    half = (num_right + num_wrong) / 2
    return half / num_right, half / num_wrong


def confusion(logps: Tensor, right: Tensor) -> dict[str, Tensor]:
    """How many of J steps are right or wrong, and taken as right (p(+) > p(-)) or wrong: four scalars.

    Args:
        logps: (J, 2).
        right: (J,) bool.
    """
    taken = logps[:, 0] > logps[:, 1]
    pairs = {"right": right, "wrong": ~right}, {"right": taken, "wrong": ~taken}
    return {
        f"{true} as {said}": (is_true & is_said).sum()
        for true, is_true in pairs[0].items()
        for said, is_said in pairs[1].items()
    }


def judgement_scores(counts: Mapping[str, float]) -> dict[str, float]:
    """Accuracy, F1 of right and of wrong steps and their mean, of the counts or shares of `confusion`.

    F1 of a kind is 2 TP / (2 TP + FP + FN), 0 where no step is of that kind or taken for it.
    """
    agree = {kind: counts[f"{kind} as {kind}"] for kind in ("right", "wrong")}
    differ = counts["right as wrong"] + counts["wrong as right"]
    f1 = {kind: 2 * count / (2 * count + differ) if count else 0.0 for kind, count in agree.items()}
    whole = sum(agree.values()) + differ
    return {
        "steps/accuracy": sum(agree.values()) / whole if whole else 0.0,
        **{f"f1/{kind}": value for kind, value in f1.items()},
        "f1/macro": sum(f1.values()) / 2,
    }


def step_weights(right: Tensor, weights: tuple[float, float]) -> Tensor:
    """(J,): the weight of each step, right ones that of `weights[0]`, wrong ones that of `weights[1]`."""
    return torch.where(right, *weights)
