import json

import pytest

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.model.conversation import TEMPLATES, Piece, get_template


def test_one_turn_literally():
    template = get_template("internvl2_5")
    pieces = template.render([("user", "Hi"), ("assistant", "Hello")], system_message="S")
    assert pieces == [
        Piece("<|im_start|>system\nS<|im_end|>\n", False),
        Piece("<|im_start|>user\nHi<|im_end|>\n", False),
        Piece("<|im_start|>assistant\n", False),
        Piece("Hello<|im_end|>", True),
        Piece("\n", False),
    ]


def test_templates_without_a_separator_have_no_empty_piece():
    pieces = get_template("Hermes-2").render([("user", "Hi"), ("assistant", "Hello")])
    assert pieces[-1] == Piece("Hello<|im_end|>", True)


def test_open_turn_ends_with_the_assistant_prefix():
    prompt = get_template("phi3-chat").prompt([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", None)])
    assert prompt.endswith("<|user|>\na<|end|><|assistant|>\nb<|end|><|user|>\nc<|end|><|assistant|>\n")
    assert prompt.startswith("<|system|>\n你是由")


def test_gpt_oss_literally():
    """As the published code has it: a channel that is learned, earlier answers that end otherwise than the last."""
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    template = get_template("internvl3_5_gpt_oss")
    assert template.render(turns, system_message="S") == [
        Piece("<|start|>system<|message|>S<|end|>", False),
        Piece("<|start|>user<|message|>a<|end|>", False),
        Piece("<|start|>assistant", False),
        Piece("<|channel|>final<|message|>b<|end|>", True),
        Piece("<|start|>user<|message|>c<|end|>", False),
        Piece("<|start|>assistant", False),
        Piece("<|channel|>final<|message|>d<|return|>", True),
    ]
    asked = template.prompt([("user", "a"), ("assistant", None)], "S")
    assert (
        asked.endswith("a<|end|><|start|>assistant<|channel|>final<|message|>") and template.stop_token == "<|return|>"
    )
    assert "2025-08-06\n\nReasoning: low\n\n# Valid channels: final." in template.prompt(turns)


def test_every_answer_of_a_conversation_is_supervised():
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    supervised = [piece.text for piece in get_template("internvl2_5").render(turns) if piece.supervised]
    assert supervised == ["b<|im_end|>", "d<|im_end|>"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_name_is_the_key(name):
    assert get_template(name).name == name


def test_unknown_template_names_the_known_ones():
    with pytest.raises(
        ValueError, match="'internvl9'; known: Hermes-2, internlm2-chat, internvl2_5, internvl3_5_gpt_oss, phi3-chat"
    ):
        get_template("internvl9")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("human", "a")], "turn 0 has role 'human'"),
        ([("user", None)], r"turn 0 \(user\) has no text"),
        ([("assistant", None), ("user", "a")], r"turn 0 \(assistant\) has no text"),
    ],
)
def test_bad_turns(turns, message):
    with pytest.raises(ValueError, match=message):
        get_template("internvl2_5").render(turns)


@pytest.fixture(scope="module")
def rows(golden_folder):
    lines = [line for name in ("mmpr_en", "mmpr_zh") for line in (golden_folder / "data" / f"{name}.jsonl").open("rb")]
    return {row["id"]: row for row in map(json.loads, lines)}


def image_strings(tokenizer, ids):
    """`<img>..</img>` of every image in `ids`."""
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<img>", "</img>"))
    counts = [ids.index(end, place) - place - 1 for place, token in enumerate(ids) if token == start]
    return [f"<img>{'<IMG_CONTEXT>' * count}</img>" for count in counts]


def tokenize(tokenizer, pieces):
    ids = [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []
    labels = [IGNORE_INDEX] * len(ids)
    for text, supervised in pieces:
        piece = tokenizer(text, add_special_tokens=False).input_ids
        ids += piece
        labels += piece if supervised else [IGNORE_INDEX] * len(piece)
    return ids, labels


def test_golden_token_ids_and_labels(family, rows):
    compared = 0
    for name, golden in family.samples["templates"].items():
        for sample in golden["samples"]:
            for side in ("chosen", "rejected"):
                expected = family.sequence(sample, side, template=name)
                question = rows[sample]["question"]
                if rows[sample].get("image") and "<image>" not in question:
                    question = f"<image>\n{question}"
                for image in image_strings(family.tokenizer, expected[0]):
                    question = question.replace("<image>", image, 1)
                pieces = get_template(name).render([("user", question), ("assistant", rows[sample][side])])
                assert tokenize(family.tokenizer, pieces) == expected, (name, sample, side)
                compared += 1
    assert compared == 52
