"""The memory of a step by its formulas, against steps of published sizes on tensors that have sizes only."""

from dataclasses import replace

import pytest

from benchmarks.fake_gpu import Case, accounted, estimated_peak
from internvl_chat.packed.memory import StepLoad, StepMemory, Weights, language_tower, most_seen, vision_tower
from tools.plan.model_sizes import count_parameters, meta_model, published_config

LOAD = StepLoad(7 * 256 + 64 + 650, 7, 650)  # of the usual case: an image, text, and two answers
LONG = {"tiles": 13, "answers": (4800, 1024)}
CASES = [
    Case("InternVL2_5-1B", reference=True, layers=4),
    Case("InternVL2_5-1B", recompute=False, layers=4),
    Case("InternVL2_5-2B", **LONG, layers=4),
    Case("InternVL2_5-2B", **LONG, recompute=False, layers=4),
    Case("InternVL2_5-38B", recompute=False, layers=2),
    Case("InternVL2_5-1B", lora_rank=16, layers=4),
    Case("InternVL3_5-8B", lora_rank=16, recompute=False, layers=2),
    Case("InternVL3_5-8B", autocast=False, layers=4),
    Case("InternVL3_5-8B", recompute=False, autocast=False, layers=4),
    Case("InternVL2_5-2B", answers=(25, 40), questions=8, recompute=False, layers=4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_estimate_is_never_below_what_is_alive_and_at_most_a_tenth_above(case):
    found = accounted(case)
    assert 1 <= estimated_peak(case, found.load) / found.peak <= 1.1


@pytest.mark.parametrize("number", [2, 5])
def test_a_step_that_recomputes_what_a_budget_demands_keeps_to_it(number):
    """Some layers of the vision tower alone, and all of them with some of the language model."""
    case = Case("InternVL2_5-2B", layers=3)
    config = case.config()
    count = count_parameters(meta_model(config))
    own = Weights(count.vision, count.projector, count.language, count.total, stored=4, half=True)
    free = StepMemory(config, own).peak(LOAD, number).total
    found = accounted(replace(case, free=free))
    assert (found.load, found.recomputed) == (LOAD, number)
    assert 0.85 * free <= found.peak - found.stands <= free


def weights(**changes):
    return Weights(
        **{"vision": 10, "projector": 2, "language": 28, "trained": 40, "stored": 4, "half": True, **changes}
    )


def test_a_tower_holds_inputs_of_all_layers_and_what_those_keep_that_are_not_computed_again():
    """InternViT-300M, float32 residuals: per patch 4 x 1024 bytes of input; 2 x (9 + 1) x 1024 + 2 x 2 x 4096 kept."""
    tower = vision_tower(published_config("InternVL2_5-1B"), weights(), tiles=1)
    assert (tower.layers, tower.entry, tower.kept) == (24, 1025 * 4096, 1025 * (20480 + 16384))
    assert tower.held(24) == 24 * tower.entry and tower.held(20) == 24 * tower.entry + 4 * tower.kept


def test_queries_of_their_own_width_and_norms_count():
    """Qwen3-0.6B: width 1024, 16 heads of 128, 8 of keys; MLP 3072. In bfloat16 2 bytes each."""
    tower = language_tower(published_config("InternVL3_5-1B"), weights(stored=2), tokens=1)
    kept = 8 * 1024 + 4 * 3072 + 2 * (2048 + 3 * 1024) + 3 * (2048 + 1024)
    assert (tower.entry, tower.kept, tower.copies) == (2 * 1024, 2 * kept, 0)


def test_an_image_that_many_answers_gather_counts_for_each_of_them():
    """Of Qwen3-0.6B as above, but each token has 10 keys on average; fewer than a pair's 3 count as those."""
    tower = language_tower(published_config("InternVL3_5-1B"), weights(stored=2), tokens=1, seen=10)
    assert tower.kept == 2 * (8 * 1024 + 4 * 3072 + 2 * (2048 + 10 * 1024) + 3 * (2048 + 1024))
    seen = [StepLoad(100, 1, keys=keys).seen for keys in (None, 250, 1000)]
    assert seen == [3, 3, 10]


def test_gradients_come_with_the_backward_pass_or_stand_through_the_step():
    """In short rows the end of the backward pass takes most: all gradients; then they add to any moment."""
    config = published_config("InternVL2_5-8B")
    own = weights(vision=3 * 10**8, projector=0, language=77 * 10**8, trained=8 * 10**9)
    grown, standing = (StepMemory(config, own, gradients).peak(StepLoad(300, 1, 50), 56) for gradients in (None, 32e9))
    assert grown.gradients == 32e9 and standing.gradients == 32e9
    assert standing.total > grown.total


def test_frozen_weights_have_no_gradients():
    config = published_config("InternVL2_5-8B")
    own = weights(vision=3 * 10**8, projector=0, language=77 * 10**8, trained=0, stored=2, head=False)
    assert StepMemory(config, own).peak(StepLoad(300, 1, 50), 56).gradients == 0


def test_as_few_layers_as_fit_are_computed_again():
    memory = StepMemory(published_config("InternVL2_5-1B"), weights())
    load = StepLoad(2500, 7, 650)
    needs = [memory.peak(load, number).total for number in range(memory.layers + 1)]
    assert needs == sorted(needs, reverse=True)
    assert memory.fewest_recomputed(load, needs[0]) == 0
    assert memory.fewest_recomputed(load, needs[10]) == 10
    assert memory.fewest_recomputed(load, needs[10] - 1) == 11
    assert memory.fewest_recomputed(load, 0) == memory.layers == 48


def test_inputs_that_wait_in_the_host_are_not_held():
    memory = StepMemory(published_config("InternVL2_5-1B"), weights())
    waiting = StepMemory(published_config("InternVL2_5-1B"), weights(), waiting=True)
    load = StepLoad(9000, 13)
    entries = memory.peak(load, 48).total - waiting.peak(load, 48).total
    assert entries > 0


@pytest.mark.parametrize(("question", "pairs"), [(0, 1), (0, 8), (1, 8), (1, 3)])
def test_no_group_gathers_more_keys_than_are_reckoned_with(question, pairs):
    """A long prefix by itself; then of each pair a question that sees it, and two answers that see both."""
    prefix, answer = 20_000, 10
    tokens = prefix + pairs * (question + 2 * answer)
    keys = prefix + pairs * ((prefix + question if question else 0) + 2 * (prefix + question + answer))
    assert 0.6 * most_seen(pairs) < keys / tokens <= most_seen(pairs)
