"""Packs of judged conversations by hand, and losses and gradients against one plain conversation after the other."""

import pytest
import torch

from internvl_chat.critic.dataset import JudgedDataset
from internvl_chat.critic.packing import collate_steps, judgement_logps
from internvl_chat.losses.steps import judgement_losses, step_weights
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.records.samples import SkippedRow
from internvl_chat.records.step_targets import StepTargets
from tests.critic.judged_rows import ROWS, write_mixture

IMAGE, WORDS = 99, (7, 8)


def sample(ids, judged, right, *, row_id="a:1"):
    """A conversation without a picture."""
    return {
        "ids": torch.tensor(ids),
        "judged": torch.tensor(judged, dtype=torch.int64),
        "right": torch.tensor(right, dtype=torch.bool),
        "targets": torch.tensor([float(one) for one in right]),
        "pixel_values": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "image_flags": torch.zeros(1, dtype=torch.int64),
        "row_id": row_id,
    }


def test_a_beginning_in_common_is_packed_once_and_judged_for_each_conversation(monkeypatch):
    monkeypatch.setattr("internvl_chat.critic.packing.FEWEST_OF_TEXT", 2)
    first, second = sample([1, 2, 3, 7, 4], [2, 4], [True, False]), sample([1, 2, 3, 8, 5], [2, 4], [False, True])
    pack = collate_steps([first, second], IMAGE, WORDS)["packed"]
    assert pack.input_ids.tolist() == [[1, 2, 3, 7, 4, 8, 5]]
    assert pack.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4]]
    assert pack.word_positions.tolist() == [2, 4, 6]  # the first is asked once, and judged by both
    assert pack.places.tolist() == [2, 4, 2, 6]
    assert pack.right.tolist() == [True, False, False, True]
    assert pack.words[[2, 4, 6]].tolist() == [[7, 8]] * 3 and (pack.words[[0, 1, 3, 5]] == -100).all()


def test_rows_without_anything_to_learn_are_counted_and_take_no_token():
    idle, skipped = sample([1, 2], [], [], row_id="a:2"), SkippedRow("a.jsonl", 3, "a:3", "why")
    batch = collate_steps([idle, skipped], IMAGE, WORDS)
    assert batch == {"row_ids": ["a:2"], "skipped": [skipped]}
    batch = collate_steps([idle, sample([1, 2], [1], [True])], IMAGE, WORDS)
    assert batch["row_ids"] == ["a:2", "a:1"] and batch["packed"].input_ids.tolist() == [[1, 2]]


@pytest.fixture(params=["turns", "answer"])
def samples(request, checkpoint, golden_folder, tmp_path):
    root = golden_folder / "data" / "images"
    dataset = JudgedDataset(
        write_mixture(tmp_path, root, steps=ROWS),
        load_tokenizer(checkpoint),
        targets=StepTargets(soft=True),
        layout=request.param,
        template="internvl2_5",
        num_image_token=4,
        image_size=56,
        cache_dir=tmp_path,
    )
    return [dataset[place] for place in range(len(dataset))]


def plain_loss(model, samples, words, weights):
    """The same loss by a stock forward of each conversation, with all logits."""
    total, count = 0.0, 0.0
    for row in samples:
        pixels = row["pixel_values"] if row["image_flags"].all() else None
        logits = model(pixels, row["ids"][None]).logits[0, row["judged"]]
        logps = logits.double().log_softmax(-1)[:, list(words)]
        weight = step_weights(row["right"], weights)
        losses = -(row["targets"] * logps[:, 0] + (1 - row["targets"]) * logps[:, 1])
        total, count = total + (losses * weight).sum(), count + weight.sum()
    return total / count


def test_loss_and_gradients_are_those_of_plain_conversations(checkpoint, samples):
    weights = (0.75, 2.0)
    model, packed = (load_model(checkpoint, dtype=torch.float32).eval() for _ in range(2))
    use_shared_prefix(packed)
    dataset_words = [load_tokenizer(checkpoint).encode(f"assistant\n{word}")[-1] for word in "+-"]
    batch = collate_steps(samples, packed.img_context_token_id, tuple(dataset_words))
    assert batch["packed"].input_ids.numel() < 0.7 * sum(len(row["ids"]) for row in samples)
    assert len(batch["pixel_values"]) < sum(len(row["pixel_values"]) for row in samples)
    logps, pack = judgement_logps(packed, batch), batch["packed"]
    weight = step_weights(pack.right, weights)
    ours = (judgement_losses(logps, pack.targets) * weight).sum() / weight.sum()
    theirs = plain_loss(model, samples, dataset_words, weights)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours.backward()
    theirs.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    for name, parameter in packed.named_parameters():
        if name in expected:
            assert (parameter.grad - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-9, name
    assert len(expected) > 30
