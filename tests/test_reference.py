"""The frozen reference runs as the policy does."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import with_packed
from internvl_chat.reference.frozen import FrozenReference


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
    reference = FrozenReference(policy, half_precision).answer_logps(batch)
    prepared = half_precision.prepare_model(policy, evaluation_mode=True)
    with torch.no_grad():
        assert torch.equal(reference, answer_logps(prepared, batch))
    assert not torch.equal(reference, exact)
