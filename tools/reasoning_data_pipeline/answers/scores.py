"""The scores that data sets define for themselves: ANLS of document questions, relaxed accuracy of charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from rapidfuzz.distance import Levenshtein

from tools.reasoning_data_pipeline.answers.quantities import Quantity, units_agree

ANLS_THRESHOLD = 0.5
"""tau of the ANLS: a lower similarity scores 0."""
ANLS_CORRECT = 0.9
"""An answer counts as correct from this ANLS on: room for OCR slips in long answers, none for a wrong word."""
ROUNDING = 1e-9
"""A similarity of exactly the threshold counts, in spite of floating point."""
CHART_TOLERANCE = Fraction(1, 20)


def anls(predicted: str, golds: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """Average normalised Levenshtein similarity of one question, in 0..1.

    max over the gold answers of s = 1 - distance(predicted, gold) / max(len(predicted), len(gold)), and 0 where s <
    threshold, without regard to case and white space (Biten et al. 2019, Scene Text Visual Question Answering, arXiv
    1905.13648, eq. 1).

    Raises:
        ValueError: there is no gold answer.
    """
    if not golds:
        raise ValueError(f"no gold answer to compare {predicted[:80]!r} with")
    return max(_similarity(_folded(predicted), _folded(gold), threshold) for gold in golds)


def _similarity(predicted: str, gold: str, threshold: float) -> float:
    length = max(len(predicted), len(gold))
    most = math.floor((1 - threshold) * length + ROUNDING)
    distance = Levenshtein.distance(predicted, gold, score_cutoff=most)  # most + 1 for anything more
    return 0.0 if distance > most else 1 - distance / max(1, length)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def relaxed_accepts(predicted: Quantity, gold: Quantity) -> bool:
    """Relaxed accuracy: a number may be off by 5 % of the gold number (Methani et al. 2020, PlotQA, arXiv 1909.00997;
    Masry et al. 2022, ChartQA).

    Units that both give must agree. Years are no measurements: two whole numbers from 1800 to 2100 must be equal. A
    percent sign on one side only reads either way, 50 % as 50 or 0.5.
    """
    if not units_agree(predicted, gold):
        return False
    predicted = predicted.in_unit(gold.unit)
    if predicted.value == gold.value:
        return True
    if _is_year(predicted) and _is_year(gold):
        return False
    if _within(predicted.value, gold.value):
        return True
    return predicted.percent != gold.percent and _within(predicted.as_share(), gold.as_share())


def _is_year(quantity: Quantity) -> bool:
    return quantity.exact and quantity.value.denominator == 1 and 1800 <= quantity.value <= 2100


def _within(predicted: Fraction, gold: Fraction) -> bool:
    return abs(predicted - gold) <= CHART_TOLERANCE * abs(gold)
