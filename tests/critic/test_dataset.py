"""What stands in the answers before a step: `+` everywhere, as a critic is asked later, or the row's own judgements."""

import pytest

from internvl_chat.critic.dataset import JudgedDataset
from internvl_chat.model import load_tokenizer
from internvl_chat.records.step_targets import StepTargets
from tests.critic.judged_rows import judged_row, write_mixture

STEPS = (("Two are red.", 0.0), ("One is blue.", None), ("So 3.", 1.0), ("Answer: 3", 0.0))


@pytest.fixture
def sample_with(checkpoint, tmp_path):
    meta = write_mixture(tmp_path, tmp_path, steps=[judged_row("How many?", *STEPS)])

    def sample(**options):
        options |= {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "cache_dir": tmp_path}
        return JudgedDataset(meta, load_tokenizer(checkpoint), targets=StepTargets(), **options)[0]

    return sample


def test_a_critic_is_trained_on_what_it_is_asked(critic, sample_with):
    sample = sample_with()
    (asked,) = critic._samples("How many?", [], [[text for text, _ in STEPS]])
    assert sample["ids"].tolist() == asked["ids"].tolist()
    assert sample["judged"].tolist() == asked["judged"][[0, 2, 3]].tolist()  # nobody measured the second
    assert sample["right"].tolist() == [False, True, False]


def test_the_judgements_of_a_row_stand_in_its_conversation_on_request(critic, sample_with):
    right, wrong = critic.tokenizer.words
    shown, own = sample_with()["ids"], sample_with(as_asked=False)["ids"]
    places = (shown != own).nonzero().flatten()
    assert shown[places].tolist() == [right] and own[places].tolist() == [wrong]
    assert places.item() == sample_with()["judged"][0] + 1  # the answer to the first step; the last one's is not shown
