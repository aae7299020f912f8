"""Packed rows by hand, and a packed forward against one sequence at a time through stock transformers."""

from copy import deepcopy

import pytest
import torch
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.attention import ATTENTION_NAME, register_attention
from internvl_chat.packed.layout import Segment
from internvl_chat.packed.packing import pack_batch

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOW = {"sliding_window": 4}  # narrower than a prompt
EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
MODELS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen2, windows": (Qwen2ForCausalLM, Qwen2Config(**SIZES, **WINDOW, use_sliding_window=True, max_window_layers=1)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "gpt_oss": (GptOssForCausalLM, GptOssConfig(**SIZES, **WINDOW, **EXPERTS, head_dim=8)),
}


def batch_of(pairs):
    """Collated batch of (prompt, chosen, rejected) token lists; an unsupervised 9 ends each row, as a newline does."""
    batch = {}
    for side, index in (("chosen", 1), ("rejected", 2)):
        rows = [pair[0] + pair[index] + [9] for pair in pairs]
        marks = [[IGNORE_INDEX] * len(pair[0]) + pair[index] + [IGNORE_INDEX] for pair in pairs]
        width = max(map(len, rows))
        batch[f"{side}_input_ids"] = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        batch[f"{side}_labels"] = torch.tensor([row + [IGNORE_INDEX] * (width - len(row)) for row in marks])
    batch["pixel_values"] = torch.arange(len(pairs), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    batch["image_flags"] = torch.ones(len(pairs), dtype=torch.long)
    batch["num_tiles"] = torch.ones(len(pairs), dtype=torch.long)
    return batch


def pack(batch):
    return pack_batch(batch)["packed"]


def test_one_pair_by_hand():
    row = pack(batch_of([([5, 6, 7], [1, 2], [3, 4, 8])]))
    assert row.input_ids.tolist() == [[5, 6, 7, 1, 7, 3, 4]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert row.labels.tolist() == [-100, -100, 1, 2, 3, 4, 8]
    assert row.answer_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert row.lengths.tolist() == [2, 3]
    assert row.pair_answers.tolist() == [[0], [1]]


def test_each_prompt_comes_with_its_answers():
    row = pack(batch_of([([5, 6], [1], [2]), ([7], [3, 4], [8])]))
    # the one-token prompt 7 has no prefix; its branches start at position 0
    assert row.input_ids.tolist() == [[5, 6, 6, 7, 3, 7]]
    assert row.position_ids.tolist() == [[0, 1, 1, 0, 1, 0]]
    assert row.answer_ids.tolist() == [0, 0, 1, 2, 2, 3]
    assert row.lengths.tolist() == [1, 1, 2, 1]
    assert row.pair_answers.tolist() == [[0, 2], [1, 3]]


def test_fine_tuning_has_chosen_answers_alone():
    batch = {
        name: value for name, value in batch_of([([5, 6], [1, 2], [3])]).items() if not name.startswith("rejected")
    }
    row = pack(batch)
    assert row.input_ids.tolist() == [[5, 6, 1]]
    assert row.lengths.tolist() == [2]
    assert row.pair_answers.tolist() == [[0]]


def test_pairs_of_one_prompt_share_it_and_their_answers():
    pairs = [([5, 6], [1], [2]), ([5, 6], [1], [3]), ([5, 6], [4], [2])]
    batch = batch_of(pairs)
    batch["pixel_values"][:] = 7  # the same picture three times
    packed = pack_batch(batch)
    row = packed["packed"]
    assert row.input_ids.tolist() == [[5, 6, 6, 6, 6]]
    assert row.labels.tolist() == [-100, 1, 2, 3, 4]
    assert row.pair_answers.tolist() == [[0, 0, 3], [1, 2, 1]]
    assert packed["pixel_values"].shape == (1, 1, 1, 1)
    assert packed["image_flags"].tolist() == [1]


def test_another_picture_is_another_prompt():
    packed = pack_batch(batch_of([([5, 6], [1], [2]), ([5, 6], [1], [2])]))
    assert packed["packed"].input_ids.tolist() == [[5, 6, 6, 5, 6, 6]]
    assert packed["pixel_values"].flatten().tolist() == [0, 1]
    assert len(set(packed["packed"].answer_keys)) == 4


IMAGE = 49


def test_questions_about_one_picture_share_it():
    """1 is the system message, 2 a turn that the last two questions have in common, 6, 7, 8 and 5 their own words."""
    prompts = [1, IMAGE, 6, 5], [1, IMAGE, 2, 7, 5], [1, IMAGE, 2, 8, 5]
    batch = batch_of([(prompt, [10 + number], [20, 30]) for number, prompt in enumerate(prompts)])
    batch["pixel_values"][:] = 7
    packed = pack_batch(batch, IMAGE)
    row = packed["packed"]
    first, second, third = [1, IMAGE, 6, 5, 5, 20], [2, 7, 5, 5, 20], [8, 5, 5, 20]
    assert row.input_ids.tolist() == [[*first, *second, *third]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 3, 4, 2, 3, 4, 4, 5, 3, 4, 4, 5]]
    supervised = [-100, -100, -100, 10, 20, 30], [-100, -100, 11, 20, 30], [-100, 12, 20, 30]
    assert row.labels.tolist() == sum(supervised, [])
    assert row.pair_answers.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert row.layout.segments[3:] == (
        Segment(6, 2, 0, 2),
        Segment(8, 1, 6, 2, ((0, 2),)),
        Segment(9, 2, 6, 2, ((0, 2),)),
        Segment(11, 1, 6, 1, ((0, 2),)),
        Segment(12, 1, 11, 1, ((0, 2), (6, 1))),
        Segment(13, 2, 11, 1, ((0, 2), (6, 1))),
    )
    assert packed["pixel_values"].tolist() == [[[[7]]]]
    assert row.image_positions.tolist() == [1] and packed["image_tiles"].tolist() == [0]


def test_pairs_of_one_question_and_questions_about_one_picture_meet():
    """Each prompt once, each answer once; the keys of answers are those of rows alone."""
    asked, other = [1, IMAGE, 6, 5], [1, IMAGE, 7, 5]
    pairs = [(asked, [10], [11]), (other, [10], [12]), (asked, [10], [13]), ([1, IMAGE, 5], [10], [14])]
    batch = batch_of(pairs)
    batch["pixel_values"][:] = torch.tensor([7, 7, 7, 8]).reshape(-1, 1, 1, 1)
    packed = pack_batch(batch, IMAGE)
    row = packed["packed"]
    assert row.input_ids.tolist() == [[1, IMAGE, 6, 5, 5, 5, 7, 5, 5, 1, IMAGE, 5, 5]]
    assert row.pair_answers.tolist() == [[0, 3, 0, 5], [1, 4, 2, 6]]
    assert packed["pixel_values"].flatten().tolist() == [7, 8]
    assert row.image_positions.tolist() == [1, 10]
    alone = [pack_batch({name: value[n : n + 1] for name, value in batch.items()}, IMAGE) for n in range(4)]
    keys = [key for one in alone for key in one["packed"].answer_keys]
    assert [row.answer_keys[number] for number in row.pair_answers.T.flatten().tolist()] == keys


def test_rows_of_foreign_collators_are_never_merged():
    batch = batch_of([([5, 6], [1], [2]), ([5, 6], [1], [2])])
    batch["pixel_values"][:] = 7
    del batch["num_tiles"]
    packed = pack_batch(batch)
    assert packed["packed"].pair_answers.tolist() == [[0, 2], [1, 3]]
    assert len(packed["pixel_values"]) == 2
    with_images = pack_batch(batch, image_token_id=5)
    assert with_images["packed"].input_ids.tolist() == packed["packed"].input_ids.tolist()
    assert len(with_images["pixel_values"]) == 2


def test_keys_tell_prompt_picture_and_answer_and_nothing_else():
    whole = pack(batch_of([([5, 6], [1], [2]), ([7, 8, 9], [1, 2], [4, 3, 2, 1])]))
    alone = pack({name: value[:1] for name, value in batch_of([([5, 6], [1], [2])]).items()})
    assert whole.answer_keys[:2] == alone.answer_keys


def test_unlike_prompts_are_refused():
    batch = batch_of([([5, 6], [1], [2])])
    batch["rejected_input_ids"][0, 0] = 8
    with pytest.raises(ValueError, match="pair 0 .* same prompt"):
        pack(batch)


def test_a_row_without_supervised_tokens_is_refused():
    batch = batch_of([([5, 6], [1], [2])])
    batch["chosen_labels"][:] = IGNORE_INDEX
    with pytest.raises(ValueError, match="0 supervised"):
        pack(batch)


def test_a_row_whose_first_token_is_supervised_is_refused():
    """It would have no prompt to predict that token from."""
    batch = batch_of([([5, 6], [1], [2])])
    batch["chosen_labels"][0] = batch["chosen_input_ids"][0]
    with pytest.raises(ValueError, match="a row of 4 tokens has 4 supervised ones after its prompt"):
        pack(batch)


def test_a_gap_in_the_supervised_part_is_refused():
    batch = batch_of([([5, 6], [1, 2, 3], [2])])
    batch["chosen_labels"][0, 3] = IGNORE_INDEX
    with pytest.raises(ValueError, match="one span"):
        pack(batch)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_and_gradients_equal_those_of_single_sequences(family, checkpointing):
    register_attention()
    torch.manual_seed(0)
    model_class, config = MODELS[family]
    pairs = [([5, 6, 7, 1], [1, 2], [3, 4, 8]), (list(range(10, 30)), [3, 4, 31, 32], [8]), ([40, 41], [2], [2, 44])]
    row = pack(batch_of(pairs))
    model = model_class(deepcopy(config)).train()
    tokens = [torch.tensor([pair[0] + pair[side]]) for pair in pairs for side in (1, 2)]
    plain = []
    for ids, length in zip(tokens, row.lengths.tolist(), strict=True):
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        plain.append(logps[-length:].sum())
    plain = torch.stack(plain)
    weights = torch.arange(1.0, 7.0)
    (plain * weights).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation(ATTENTION_NAME)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    logits = model(
        input_ids=row.input_ids, position_ids=row.position_ids, shared_prefix=row.layout, use_cache=False
    ).logits[0]
    chosen = row.labels != IGNORE_INDEX
    logps = logits[chosen].log_softmax(-1).gather(-1, row.labels[chosen][:, None])[:, 0]
    packed = torch.zeros(6).index_add(0, row.answer_ids[chosen], logps)
    torch.testing.assert_close(packed, plain, rtol=1e-6, atol=1e-5)
    (packed * weights).sum().backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: relative error {error:.2e}"


def test_moving_keeps_every_tensor():
    row = pack(batch_of([([5, 6, 7], [1, 2], [3, 4, 8])]))
    moved = row.to("meta")
    assert moved.input_ids.device.type == "meta"
    assert moved.layout.groups[0].queries.device.type == "meta"
    assert moved.answer_keys == row.answer_keys
