"""Attention over a prompt that its samples share, against plain attention; slots of the rows' own tokens."""

import types

import pytest
import torch

from internvl_chat.model import load_model
from tests.tools.test_convert import build
from tools.reasoning_data_pipeline.engines.decoding import DecodingBatch, Row, prefill
from tools.reasoning_data_pipeline.engines.protocol import SamplingSettings
from tools.reasoning_data_pipeline.engines.shared_prompt import (
    FIRST_SLOTS,
    BranchLayout,
    OwnStates,
    PromptGroup,
    PromptMembers,
    attend,
    shared_prompt_attention,
)

HEADS, KV_HEADS, WIDTH = 4, 2, 8
LENGTHS = [5, 3]  # of the prompts of one group
ASKED = [(0, 1), (1, 0), (2, 0)]  # row, its prompt
OWN = [2, 4, 1]  # tokens of each row


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def group():
    keys, values = random(2, KV_HEADS, 5, WIDTH), random(2, KV_HEADS, 5, WIDTH).flip(0)
    return PromptGroup((keys,), (values,), torch.tensor(LENGTHS), random(2, 7))


def plain(query, keys, values, window, sinks):
    """(H, D) outputs of one query over (H_kv, S, D): softmax in float64, by the book."""
    outputs = []
    for head in range(HEADS):
        k, v = keys[head // 2].double()[-(window or 99) :], values[head // 2].double()[-(window or 99) :]
        scores = k @ query[head].double() * WIDTH**-0.5
        total = scores.exp().sum() + (0 if sinks is None else sinks[head].double().exp())
        outputs.append((scores.exp() / total) @ v)
    return torch.stack(outputs)


@pytest.mark.parametrize("window", [None, 6, 3, 2])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_the_parts_joined_are_plain_attention(group, window, with_sinks):
    own = OwnStates(torch.device("cpu"))
    own.grow(3)
    written = random(3, KV_HEADS, 4, WIDTH), random(3, KV_HEADS, 4, WIDTH) + 1
    own.lengths, own._longest = torch.tensor(OWN), max(OWN)
    own._layers[0] = [torch.nn.functional.pad(states, (0, 0, 0, FIRST_SLOTS - 4)) for states in written]
    query, sinks = random(3, HEADS, 1, WIDTH), random(HEADS) if with_sinks else None
    found, _ = shared_prompt_attention(
        types.SimpleNamespace(layer_idx=0),
        query,
        *(states[:3, :, :4] for states in own._layers[0]),
        None,
        sliding_window=window,
        s_aux=sinks,
        branches=BranchLayout((PromptMembers.of(group, ASKED),), own),
    )
    for row, prompt in ASKED:
        seen = [
            torch.cat([of_prompt[0][prompt, :, 5 - LENGTHS[prompt] :], mine[row, :, : OWN[row]]], 1)
            for of_prompt, mine in zip((group.keys, group.values), written, strict=True)
        ]
        expected = plain(query[row, :, 0], *seen, window, sinks)
        assert torch.allclose(found[row, 0].double(), expected, atol=1e-6), (row, window)


def test_a_part_in_which_nothing_is_seen_weighs_nothing():
    output, lse = attend(random(1, 1, 1, 4), random(1, 1, 3, 4), random(1, 1, 3, 4), torch.zeros(1, dtype=bool), 1.0)
    assert torch.equal(output, torch.zeros(1, 1, 1, 4)) and lse.item() < -1e29


def test_slots_are_written_in_place_and_doubled_when_full():
    own = OwnStates(torch.device("cpu"))
    own.grow(2)
    for token in range(FIRST_SLOTS + 1):
        own.begin_token()
        new = torch.full((2, 1, 1, 1), float(token))
        keys, values = own.update(new, -new, 0)
        if token == 1:
            place = own._layers[0][0].data_ptr()
        if token == FIRST_SLOTS - 1:
            assert own._layers[0][0].data_ptr() == place
    assert own._layers[0][0].shape[2] == 2 * FIRST_SLOTS
    assert keys[:, 0, :, 0].tolist() == [list(range(FIRST_SLOTS + 1))] * 2 and torch.equal(values, -keys)


def test_rows_that_stay_keep_their_slots_and_the_last_ones_fill_the_holes():
    own = OwnStates(torch.device("cpu"))
    own.grow(4)
    own.begin_token()
    own.update(torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4.0).view(4, 1, 1, 1), 0)
    own.keep([0, 3])
    own.grow(1)
    assert own.lengths.tolist() == [1, 1, 0]
    own.begin_token()
    keys, _ = own.update(torch.full((3, 1, 1, 1), 9.0), torch.zeros(3, 1, 1, 1), 0)
    assert keys[:2, 0, :, 0].tolist() == [[0, 9], [3, 9]] and keys[2, 0, 0, 0] == 9
    assert own.seen[:, 0, 0].tolist() == [[True, True], [True, True], [True, False]]


@pytest.fixture(scope="module", params=["tiny-qwen2", "tiny-internlm2", "gpt_oss"])
def model(request, golden_folder, tmp_path_factory):
    folder = golden_folder / "ckpt" / request.param
    if request.param == "gpt_oss":
        folder = build(tmp_path_factory.mktemp("gpt_oss"), golden_folder / "ckpt" / "tiny-qwen2", request.param)
    return load_model(folder).language_model


@torch.inference_mode()
def test_logits_behind_every_token_are_those_of_the_whole_sequence(model):
    """Rows of three prompts join and leave at different times; a group of which half is done is cut down."""
    prompts = [random(length, model.config.hidden_size) for length in (9, 4, 6)]
    batch = DecodingBatch(model, SamplingSettings(top_k=0), frozenset(), logprobs=True)
    lengths = {0: (12, 3), 1: (2, 2), 2: (7, 1)}  # of a prompt's two rows
    rows = [[Row.of(str(p), s, 10 * p + s, most) for s, most in enumerate(lengths[p])] for p in range(3)]
    batch.queue(prefill(model, prompts[:2]), rows[:2])
    batch.admit(3)
    done, later = [], iter([(prompts[2:], rows[2:])])
    while batch.rows or batch.waiting:
        done += batch.step()
        if batch.waiting:
            batch.admit(1)
        elif (more := next(later, None)) is not None:
            batch.queue(prefill(model, more[0]), more[1])
            batch.admit(2)
    assert len(done) == 6
    embed = model.get_input_embeddings()
    for row in done:
        prompt = prompts[int(row.key)]
        whole = torch.cat([prompt, embed(torch.tensor(row.tokens))])[None]
        logits = model(inputs_embeds=whole).logits[0, len(prompt) - 1 : -1]
        expected = logits.float().log_softmax(-1).gather(1, torch.tensor(row.tokens)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(row.logprobs), expected, atol=1e-5), row.key


@torch.inference_mode()
def test_a_group_is_cut_down_when_half_of_it_is_done(model):
    batch = DecodingBatch(model, SamplingSettings(), frozenset())
    prompts = [random(length, model.config.hidden_size) for length in (9, 4, 5, 6)]
    batch.queue(prefill(model, prompts), [[Row.of(str(p), 0, p, most)] for p, most in enumerate((1, 8, 2, 3))])
    batch.admit(4)
    sizes = []
    while batch.rows:
        batch.step()
        sizes += [tuple(members.group.keys[0].shape[::2]) for members in batch._members]
    assert sizes[0] == (4, 9)  # one of four is done
    assert sizes[1] == (2, 6)  # prompts of 4 and 6 tokens, padded no more than they need
    assert sizes[2:] == [(1, 4)] * (len(sizes) - 2)


def test_the_prompt_is_held_once_whatever_the_number_of_samples(model):
    with torch.inference_mode():
        batch = DecodingBatch(model, SamplingSettings(), frozenset())
        group = prefill(model, [random(50, model.config.hidden_size)])
        batch.queue(group, [[Row.of("a", s, s, 3) for s in range(16)]])
        batch.admit(16)
        batch.step()
        batch.step()
    [members] = batch._members
    assert members.group.keys[0].data_ptr() == group.keys[0].data_ptr()
    assert all(states.shape[2] == FIRST_SLOTS for layer in batch._own._layers.values() for states in layer)
