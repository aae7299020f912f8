"""The frozen reference runs as the policy does."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import with_packed
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.fill import fill_cache
from internvl_chat.reference.frozen import CachedReference, FrozenReference


@pytest.fixture
def half_precision():
    """An accelerator with bfloat16 autocast, which its state would otherwise keep for the tests that follow."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def test_the_same_weights_give_the_same_logps_under_autocast(golden_batch, policy, half_precision):
    """Else rewards would begin at the rounding of bfloat16 instead of at 0."""
    batch = with_packed(golden_batch("b1"), policy.img_context_token_id)
    use_shared_prefix(policy)
    exact = answer_logps(policy.eval(), batch)
    reference = FrozenReference(policy.train(), half_precision).answer_logps(batch)
    assert not policy.training
    prepared = half_precision.prepare_model(policy, evaluation_mode=True)
    with torch.no_grad():
        assert torch.equal(reference, answer_logps(prepared, batch))
    assert not torch.equal(reference, exact)


def test_a_stale_cache_says_which_rows_and_forgets_that_it_is_filled(golden_batch, policy, tmp_path):
    batch = with_packed(golden_batch("b1"), policy.img_context_token_id)
    cache = LogpsCache(tmp_path)
    cache.mark_filled("data")
    cache.append(batch["packed"].answer_keys[1:], [-1.0] * (len(batch["packed"].answer_keys) - 1))
    with pytest.raises(
        LookupError, match=r"1 of .* reference log-probs of rows \['a:1'\] are missing.*start the run again"
    ):
        CachedReference(cache).answer_logps({**batch, "row_ids": ["a:1"]})
    assert not LogpsCache(tmp_path).is_filled("data")


def test_a_reference_that_gives_nan_fills_no_cache(golden_batch, policy, tmp_path):
    """As float16 and damaged weights do."""
    use_shared_prefix(policy)
    with torch.no_grad():
        next(policy.mlp1.parameters()).fill_(torch.nan)
    accelerator = Accelerator(cpu=True)
    batch = {**with_packed(golden_batch("b1"), policy.img_context_token_id), "row_ids": ["a:1", "a:2"]}
    with pytest.raises(FloatingPointError, match=r"the reference gives nan for .* of rows \['a:1', 'a:2'\]"):
        fill_cache(LogpsCache(tmp_path), FrozenReference(policy, accelerator), [batch], accelerator)
    assert len(LogpsCache(tmp_path)) == 0


def test_a_cache_is_filled_with_what_it_lacks_and_counts_that(golden_batch, policy, tmp_path):
    use_shared_prefix(policy)
    accelerator, cache = Accelerator(cpu=True), LogpsCache(tmp_path)
    reference = FrozenReference(policy, accelerator)
    one, three = (with_packed(golden_batch(name), policy.img_context_token_id) for name in ("b1", "b3"))
    assert fill_cache(cache, reference, [one], accelerator) == 2
    assert fill_cache(cache, reference, [one, three], accelerator) == len(cache) - 2 == 6
    for batch in (one, three):
        assert torch.equal(CachedReference(cache).answer_logps(batch), reference.answer_logps(batch))
