"""Held-out questions asked of a live policy: its answers and log-probs are those of engine and model, looks compare."""

import json
from pathlib import Path

import pytest
import torch

from internvl_chat.data.arguments import DataArguments
from internvl_chat.model import load_config, load_model, load_tokenizer
from internvl_chat.packed.attention import ATTENTION_NAME, use_shared_prefix
from tools.evaluation.answering import answer_questions, request_of
from tools.evaluation.held_out import HeldOutQuestions, choose
from tools.evaluation.policy import Interview
from tools.evaluation.questions import direct, read_questions
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, SamplingSettings

BASE = Path(__file__).parents[3] / "ckpt" / "tiny-base"


@pytest.fixture(scope="module")
def questions(golden_folder, tmp_path_factory):
    """Two questions about pictures and two without."""
    folder = tmp_path_factory.mktemp("questions")
    pictures = sorted((golden_folder / "data" / "images").glob("*.png"))[:2]
    rows = [{"image": str(path), "question": "How many circles are there?", "answer": "2"} for path in pictures]
    rows += [{"question": f"How many circles are {place}?", "answer": "3"} for place in ("left", "right")]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_questions([folder / "held_out.jsonl"], direct))


@pytest.fixture
def policy():
    """The tiny base as training holds it: switched to packs, in training mode."""
    data = DataArguments("none", force_image_size=56, max_dynamic_patch=1, max_seq_length=512)
    config = load_config(BASE)
    data.configure(config)
    model = load_model(BASE, config=config, dtype=torch.float32)
    use_shared_prefix(model)
    return model.eval(), Interview(load_tokenizer(BASE), data, max_new_tokens=12, batch_size=3)


def test_answers_are_those_of_the_engine_and_training_goes_on_as_it_was(policy, questions):
    model, interview = policy
    state = torch.get_rng_state()
    found = interview.answer(model, questions, lambda: None)
    sampled = interview.answer(model, questions, lambda: None, samples=2)
    assert torch.equal(state, torch.get_rng_state())
    assert model.language_model.config._attn_implementation == ATTENTION_NAME
    options = EngineOptions(str(BASE), SamplingSettings(0.0, max_new_tokens=12))
    expected = answer_questions(questions, "transformers", options, samples=1, seed=0, max_tiles=1)
    assert [[one.text.strip() for one in answers] for answers in found] == expected
    assert all(len(answers) == 2 for answers in sampled)


def test_log_probs_of_given_answers_are_those_of_the_model(policy, questions):
    """Against one plain forward pass over prompt and answer, for a question without picture and one with."""
    model, interview = policy
    answers = interview.answer(model, questions, lambda: None, samples=2)
    tokens = [[list(one.tokens) for one in found] for found in answers]
    told = interview.logps(model, questions, tokens, lambda: None)
    for place in (0, 2):
        with interview.engine(model) as engine:
            request = request_of(questions[place], "q", samples=1, seed=0, max_tiles=1)
            read = engine.reader.read(request)
            tiles = engine.reader.cut(read)
        ids = torch.tensor([read.ids + tokens[place][0]])
        plain = load_model(BASE, config=model.config, dtype=torch.float32).eval()
        features = None if tiles is None else plain.extract_feature(tiles)
        with torch.no_grad():
            logits = plain.language_model(inputs_embeds=plain.insert_features(ids, features)).logits[0]
        logps = logits.double().log_softmax(-1)[len(read.ids) - 1 : -1]
        expected = logps.gather(1, torch.tensor(tokens[place][0])[:, None]).sum().item()
        assert told[place][0] == pytest.approx(expected, abs=1e-4)


def test_a_second_look_at_the_same_policy_sees_no_change_and_one_at_a_broken_one_a_fall(policy, questions):
    model, interview = policy
    for question in questions:
        text = interview.answer(model, [question], lambda: None)[0][0].text.strip()
        object.__setattr__(question, "gold", text)  # whatever it answers is right
    held_out = HeldOutQuestions(questions * 3, interview, samples=0, looks=1)
    first = held_out.look(model, lambda: None)
    assert first.figures["eval_accuracy"] == 1.0 and not first.fall
    again = HeldOutQuestions(questions * 3, interview, samples=0, looks=1)
    assert again.load_state_dict(json.loads(json.dumps(held_out.state_dict())))  # as a resumed run has it
    second = again.look(model, lambda: None)
    assert second.figures["eval_accuracy_change"] == 0.0 and not second.fall
    with torch.no_grad():
        model.language_model.get_output_embeddings().weight.mul_(-1)
    broken = again.look(model, lambda: None)
    assert broken.figures["eval_accuracy"] == 0.0
    assert "held-out answers got worse: 0.0 % right, 100.0 % at the first look" in broken.fall
    again.looks = 1000  # the limit of each is 5e-5, and p of 12 questions 1 / 4096
    doubtful = again.look(model, lambda: None)
    assert not doubtful.fall and "answers may have got worse, the next look tells: 0.0 % right" in doubtful.warning


def test_a_first_look_at_other_questions_is_not_taken(policy, questions):
    _, interview = policy
    held_out = HeldOutQuestions(questions, interview, samples=0, looks=1)
    state = {"keys": [f"{question.key} x 1" for question in questions], "shares": [], "answers": []}
    assert not held_out.load_state_dict(state)
    assert not held_out.load_state_dict({})
    assert held_out.state_dict() == {}


def test_the_sample_of_a_file_is_the_same_in_every_order(questions):
    chosen = choose(questions, 2)
    assert len(chosen) == 2 and choose(questions[::-1], 2) == chosen[::-1]
    assert choose(questions, 9) == questions
