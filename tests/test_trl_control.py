"""The control by TRL's trainer: it sees the ids that our trainer sees, and its weights go back into the checkpoint."""

import math

import pytest
import torch

from benchmarks.study_pretrained.trl_control import SHARED, make_trainer, settings_of, train_with_trl
from internvl_chat.arguments import MPOConfig
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.records.rows import Source

ROWS = [
    {"question": "Anna has 8 pens and loses 3.\nHow many?", "chosen": "8 - 3 = 5\nFinal answer: 5", "rejected": "6"},
    {"question": "What is 2 + 2?", "chosen": "4", "rejected": "2 + 2 = 5"},
]


@pytest.fixture
def start(golden_folder):
    return golden_folder / "ckpt" / "tiny-qwen2"


def settings(out):
    flags = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 0}
    return MPOConfig(output_dir=str(out), use_cpu=True, logging_steps=1, seed=3, **flags)


def test_it_is_given_the_tokens_of_our_trainer(start, tmp_path):
    whole, tokenizer = load_model(start), load_tokenizer(start)
    expected = RowTokenizer(load_tokenizer(start), whole.config.template, num_image_token=1)
    trainer = make_trainer(whole, tokenizer, ROWS, settings_of(settings(tmp_path)))
    for row, found in zip(ROWS, trainer.train_dataset, strict=True):
        ours = expected.tokenize(row["question"], [row["chosen"], row["rejected"]], 0, Source("rows", 1))
        assert found["prompt_ids"] == ours.prompt_ids([])
        assert [found["chosen_ids"], found["rejected_ids"]] == [*ours.answers]


def test_shared_settings_are_those_of_the_run(tmp_path):
    ours = settings(tmp_path)
    theirs = settings_of(ours)
    assert {name: getattr(theirs, name) for name in SHARED} == {name: getattr(ours, name) for name in SHARED}
    assert (theirs.max_steps, theirs.loss_weights) == (2, [0.8, 0.2, 1.0])


def test_a_run_changes_the_language_model_alone(start, tmp_path):
    log = train_with_trl(start, ROWS, tmp_path / "out", settings(tmp_path / "out"))
    assert log[0]["rewards/margins"] == 0 and log[1]["rewards/margins"] > 0
    before, after = (load_model(folder).state_dict() for folder in (start, tmp_path / "out"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"language_model"} and before.keys() == after.keys()
    whole, tokenizer = load_model(start), load_tokenizer(start)
    ids = RowTokenizer(tokenizer, whole.config.template, num_image_token=1)
    nats, tokens = zip(*(nats_of(whole, ids, row) for row in ROWS), strict=True)
    first = (0.8 + 2 * 0.2) * math.log(2) + sum(nats) / sum(tokens)  # of rewards that are all 0
    assert log[0]["loss"] == pytest.approx(first, abs=2e-3)


def nats_of(whole, ids, row):
    """What the chosen answer costs the language model, and its number of tokens."""
    found = ids.tokenize(row["question"], [row["chosen"], row["rejected"]], 0, Source("rows", 1))
    prompt, answer = found.prompt_ids([]), found.answers[0]
    with torch.no_grad():
        logits = whole.language_model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    logps = logits.float().log_softmax(-1)
    return -float(logps.gather(1, torch.tensor(answer)[:, None]).sum()), len(answer)
