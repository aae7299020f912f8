"""A conversation in the checkpoint's template: its ids turn by turn, its judged places, and where images go."""

import pytest

from internvl_chat.critic.conversation import StepTokenizer, place_question
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_tokenizer
from internvl_chat.model.conversation import TEMPLATES, Part, TextEncoder, get_template
from internvl_chat.model.critic_turns import step_turns
from internvl_chat.records.rows import RecordError, Source
from tests.tools.test_convert import GPT_OSS_TOKENS

WHERE = Source("rows.jsonl", 1)
TURNS = step_turns("Which?\nA or B", ["First <image> line.\nSecond.", "So it is A.", "Answer: A"])


@pytest.fixture(params=sorted(TEMPLATES))
def template(request):
    return get_template(request.param)


def tokenizer_of(checkpoint, template):
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.add_tokens([*GPT_OSS_TOKENS, "<|system|>", "<|user|>", "<|assistant|>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("images", [0, 1, 2])
def test_ids_are_those_of_the_template_turn_by_turn(checkpoint, template, images):
    """Rendered by `Template`, as `chat` does, the prompt of every turn ends where its step is judged."""
    tokenizer = tokenizer_of(checkpoint, template)
    rows, encoder = RowTokenizer(tokenizer, template.name, 2), TextEncoder(tokenizer)
    tokens = StepTokenizer(rows).tokenize(TURNS, "+-", num_images=images, where=WHERE, system_message="Judge.")
    ids = tokens.text.prompt_ids([1] * images)
    head = "### Question:\n"
    picture = f"<img>{'<IMG_CONTEXT>' * 2}</img>"
    parts = [Part(template.system_prefix, True), Part("Judge.", False)]
    parts.append(Part(template.end_token + template.separator + template.user_prefix + head, True))
    parts += [Part(f"{picture}\n", True)] * images
    parts.append(Part(TURNS[0].removeprefix(head), False))
    close = template.end_token + template.separator
    for number, (text, word) in enumerate(zip([*TURNS[1:], ""], "+-.", strict=True)):
        parts.append(Part(close + template.assistant_prefix + template.answer_prefix, True))
        prompt = encoder.beginning() + encoder.encode(parts)
        assert ids[: len(ids) - tokens.from_end[number] + 1] == prompt, f"turn {number}"
        parts += [Part(word, False), Part(close + template.user_prefix, True), Part(text, False)]
    assert tokens.from_end[-1] == 1 and tokens.text.length(images) == len(ids)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_an_answer_stands_as_a_model_gave_it_and_is_judged_where_steps_end(checkpoint, template, images):
    """The ids of `chat` when it asks, and then those of each step in turn; no word of a critic among them."""
    rows = RowTokenizer(tokenizer_of(checkpoint, template), template.name, 2)
    tokens = StepTokenizer(rows, "answer").tokenize(TURNS, "+-", num_images=images, where=WHERE)
    ids = tokens.text.prompt_ids([1] * images)
    asked = rows.tokenize("Which?\nA or B", ["x"], images, WHERE)
    prompt = asked.prompt_ids([1] * images) + rows.answer_start
    for number, piece in enumerate(("First <image> line.\nSecond.", "\n\nSo it is A.", "\n\nAnswer: A")):
        prompt += rows.encoder.encode_text(piece)
        assert ids[: len(ids) - tokens.from_end[number] + 1] == prompt, f"step {number}"
    assert ids == prompt and tokens.from_end[-1] == 1


def test_an_answer_that_cannot_be_told_from_its_question_is_refused(checkpoint):
    steps = StepTokenizer(RowTokenizer(load_tokenizer(checkpoint), "internvl2_5", 2), "answer")
    with pytest.raises(RecordError, match="the first turn lacks '### Solution Process:': nobody can tell"):
        steps.tokenize(["How many? Two."], [], num_images=0, where=WHERE)


def test_words_are_single_ids(checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    right, wrong = StepTokenizer(RowTokenizer(tokenizer, "internvl2_5", 2)).words
    assert tokenizer.decode([right]) == "+" and tokenizer.decode([wrong]) == "-"


def test_a_tokenizer_that_makes_more_of_a_judgement_is_refused(checkpoint, monkeypatch):
    rows = RowTokenizer(load_tokenizer(checkpoint), "internvl2_5", 2)
    encode = rows.encoder.encode
    twice = lambda parts: encode([Part(p.text.replace("-", "- -"), p.trusted) for p in parts])  # noqa: E731
    monkeypatch.setattr(rows.encoder, "encode", twice)
    with pytest.raises(ValueError, match=r"of the judgement '-' in template internvl2_5: a critic needs it to be"):
        StepTokenizer(rows)


def test_images_stand_in_front_of_the_question_and_nowhere_else():
    first = TURNS[0]
    assert place_question(first, 2, WHERE) == (
        ["### Question:\n", "\n", "\nWhich?\nA or B"],
        "\n\n### Solution Process:\nFirst <image> line.\nSecond.",
    )
    assert place_question("### Question:\nIn <image> which?", 1, WHERE)[0] == ["### Question:\nIn ", " which?"]
    assert place_question("Which?", 1, WHERE)[0] == ["", "\nWhich?"]
    with pytest.raises(RecordError, match="1 <image> in the question for 2 images"):
        place_question("### Question:\nIn <image> which?", 2, WHERE)
