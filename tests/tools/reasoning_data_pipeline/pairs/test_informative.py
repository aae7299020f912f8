"""The Balanced-Information Score by hand, and the best share of each data set."""

import json

import pytest

from internvl_chat.records.judged import JudgedRow
from internvl_chat.records.meta import read_meta
from internvl_chat.records.rows import Source
from tests.critic.judged_rows import judged_row, write_mixture
from tools.reasoning_data_pipeline.pairs.informative import best_rows, information, keep_best


@pytest.mark.parametrize(
    ("steps", "score"),
    [
        ([("a", 1.0), ("b", 0.5), ("c", 0.0), ("d", 0.0)], (0.25 + 0.05) * 0.75),
        ([("a", 1.0), ("b", None), ("c", 0.0)], (0.25 + 0.05) * 1.0),
        ([("a", 1.0), ("b", 0.5)], 0.05 * 0.75),
        ([("a", 0.0)], 0.05 * 1.0),
    ],
)
def test_the_score_by_hand(steps, score):
    row = JudgedRow.from_row(judged_row("Q?", *steps), Source("x", 1))
    assert information(row) == pytest.approx(score)


def test_the_best_share_is_rounded_up_and_keeps_the_order():
    assert best_rows([0.1, 0.3, 0.2, 0.3, 0.0], 0.5) == [1, 2, 3]
    assert best_rows([0.2, 0.2, 0.2], 0.3) == [0] and best_rows([0.2], 1.0) == [0]


def test_each_data_set_keeps_its_share(tmp_path):
    mixed, plain = judged_row("Q?", ("a", 1.0), ("b", 0.0)), judged_row("Q?", ("a", 1.0))
    meta = write_mixture(tmp_path, tmp_path, one=[plain, mixed], other=[plain, plain, plain])
    path = keep_best(meta, 0.5)
    one, other = read_meta(path)
    assert (path.name, one.name, one.length, other.length) == ("best_meta.json", "one_best", 1, 2)
    assert json.loads((tmp_path / one.annotation).read_text()) == mixed
