"""The loss of judgements and its figures, by hand."""

import math

import pytest
import torch

from internvl_chat.losses.steps import (
    among_words,
    balanced_weights,
    confusion,
    judgement_losses,
    judgement_scores,
    step_weights,
)

LOGPS = torch.log(torch.tensor([[0.5, 0.25], [0.1, 0.8], [0.6, 0.3]], dtype=torch.float64))


def test_losses_are_cross_entropies_over_the_vocabulary():
    losses = judgement_losses(LOGPS, torch.tensor([1.0, 0.0, 0.25]))
    soft = -(0.25 * math.log(0.6) + 0.75 * math.log(0.3))
    assert losses.tolist() == pytest.approx([-math.log(0.5), -math.log(0.8), soft])


def test_losses_among_the_words_know_no_other_words():
    losses = judgement_losses(among_words(LOGPS), torch.tensor([1.0, 0.0, 0.25]))
    soft = -(0.25 * math.log(2 / 3) + 0.75 * math.log(1 / 3))
    assert losses.tolist() == pytest.approx([-math.log(2 / 3), -math.log(8 / 9), soft])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"need logps \(J, 2\) and targets \(J,\)"):
        judgement_losses(LOGPS, torch.zeros(2))


def test_balanced_weights_make_both_kinds_weigh_the_same():
    assert balanced_weights(90, 10) == pytest.approx((100 / 180, 5.0))
    assert balanced_weights(0, 10) == balanced_weights(10, 0) == (1.0, 1.0)
    assert step_weights(torch.tensor([True, False]), (0.5, 3.0)).tolist() == [0.5, 3.0]


def test_confusion_counts_by_the_likelier_word():
    counts = {name: value.item() for name, value in confusion(LOGPS, torch.tensor([True, True, False])).items()}
    assert counts == {"right as right": 1, "right as wrong": 1, "wrong as right": 1, "wrong as wrong": 0}


def test_macro_f1_by_hand():
    counts = {"right as right": 6, "right as wrong": 2, "wrong as right": 1, "wrong as wrong": 3}
    scores = judgement_scores(counts)
    assert scores["steps/accuracy"] == pytest.approx(9 / 12)
    assert scores["f1/right"] == pytest.approx(12 / 15) and scores["f1/wrong"] == pytest.approx(6 / 9)
    assert scores["f1/macro"] == pytest.approx((12 / 15 + 6 / 9) / 2)
    assert judgement_scores({name: value / 12 for name, value in counts.items()}) == pytest.approx(scores)
    nothing = judgement_scores({**dict.fromkeys(counts, 0), "right as right": 4})
    assert (nothing["f1/right"], nothing["f1/wrong"], nothing["steps/accuracy"]) == (1.0, 0.0, 1.0)
