"""Rows in the layouts of other trainers, in texts of our own, and the row of ours that each must become."""

import pytest

from internvl_chat.model.conversation import TEMPLATES
from internvl_chat.records.rows import RecordError, Source
from tools.importing.layouts import LAYOUTS, layout_of
from tools.importing.pairs import PairReader

WHERE = Source("rlhf.json", 3)
OWN_SYSTEM = TEMPLATES["internvl2_5"].system_message


class NamedPictures:
    """A store that saves nothing and names each picture by itself."""

    def save(self, picture, where):
        return f"saved/{picture}"


def imported(row, **options):
    return PairReader(layout_of(row, "rlhf.json"), NamedPictures(), **options).pair_row(row, WHERE)


def reason(row, **options):
    with pytest.raises(RecordError) as raised:
        imported(row, **options)
    assert (raised.value.file, raised.value.line) == WHERE
    return raised.value.reason


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def parts(*contents):
    """None is a part of type image as a table has it, with a text of null."""
    return [{"type": "text" if text else "image", "text": text} for text in contents]


PAIR = {"question": "How many cups?", "chosen": "Two.", "rejected": "Three."}
SEEN = {**PAIR, "question": "<image>\nHow many cups?", "image": "saved/a.png"}
HISTORY = {"history": [["Are there cups?", "Yes."]]}

# A name of a layout, a row of its shape, and the row of ours, worked out by hand.
CASES = {
    "mmpr": ("MMPR and RLAIF-V", {**PAIR, "image": "a.png"}, {**PAIR, "image": "saved/a.png"}),
    "mmpr_twice": (
        "MMPR and RLAIF-V",
        {**PAIR, "images": ["a.png"], "image": "a.png"},
        {**PAIR, "image": "saved/a.png"},
    ),
    "mmpr_images_null": (
        "MMPR and RLAIF-V",
        {**PAIR, "images": None, "image": "a.png"},
        {**PAIR, "image": "saved/a.png"},
    ),
    "mmpr_history": ("MMPR and RLAIF-V", {**PAIR, **HISTORY}, {**PAIR, **HISTORY}),
    "mmpr_long_history": (
        "MMPR and RLAIF-V",
        {**PAIR, "history": [["a", "b"], ["c", "d"], ["e", "f"]]},
        {**PAIR, "history": [["a", "b"], ["c", "d"], ["e", "f"]]},
    ),
    "trl_texts": ("TRL", {"prompt": "How many cups?", "chosen": "Two.", "rejected": "Three."}, PAIR),
    "trl_texts_and_image": (
        "TRL",
        {"prompt": "How many cups?", "chosen": "Two.", "rejected": "Three.", "image": "a.png"},
        SEEN,
    ),
    "rlaif_v_formatted": (
        "TRL",
        {
            "images": ["a.png"],
            "prompt": [user(parts(None, "How many cups?"))],
            "chosen": [assistant(parts("Two."))],
            "rejected": [assistant(parts("Three."))],
        },
        SEEN,
    ),
    "trl_pictures_between_texts": (
        "TRL",
        {
            "images": ["a.png", "b.png"],
            "prompt": [user(parts("Before: ", None, "after: ", None, "what changed?"))],
            "chosen": [assistant("A cup.")],
            "rejected": [assistant("Nothing.")],
        },
        {
            "image": ["saved/a.png", "saved/b.png"],
            "question": "Before: <image>\nafter: <image>\nwhat changed?",
            "chosen": "A cup.",
            "rejected": "Nothing.",
        },
    ),
    "trl_pictures_in_parts": (
        "TRL",
        {
            "prompt": [user([{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many cups?"}])],
            "chosen": [assistant("Two.")],
            "rejected": [assistant("Three.")],
        },
        SEEN,
    ),
    "trl_turns": (
        "TRL",
        {
            "prompt": [user(parts(None, "Are there cups?")), assistant("Yes."), user("How many cups?")],
            "chosen": [assistant("Two.")],
            "rejected": [assistant("Three.")],
            "images": ["a.png"],
        },
        {**PAIR, "history": [["<image>\nAre there cups?", "Yes."]], "image": "saved/a.png"},
    ),
    "trl_implicit": (
        "TRL, implicit prompt",
        {
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
            "margin": 1.5,
            "label": [0, 1],
        },
        {**PAIR, "margin": 1.5, "label": [0, 1]},
    ),
    "trl_implicit_turns": (
        "TRL, implicit prompt",
        {
            "chosen": [user("Are there cups?"), assistant("Yes."), user("How many cups?"), assistant("Two.")],
            "rejected": [user("Are there cups?"), assistant("Yes."), user("How many cups?"), assistant("Three.")],
        },
        {**PAIR, **HISTORY},
    ),
    "ultrafeedback": (
        "TRL",
        {
            "prompt": "How many cups?",
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
            "messages": [user("How many cups?"), assistant("Two.")],
            "score_chosen": 8.0,
        },
        {**PAIR, "messages": [user("How many cups?"), assistant("Two.")], "score_chosen": 8.0},
    ),
    "a_prompt_of_other_words_stays": (
        "TRL",
        {
            "prompt": "cups/17",
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
        },
        {**PAIR, "prompt": "cups/17"},
    ),
    "an_instruction_of_other_words_stays": (
        "LLaMA-Factory, Alpaca",
        {
            "instruction": "cups/17",
            "input": "",
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
        },
        {**PAIR, "instruction": "cups/17", "input": ""},
    ),
    "fields_of_our_names_stay_under_others": (
        "ms-swift",
        {
            "messages": [user("How many cups?"), assistant("Two.")],
            "rejected_response": "Three.",
            "question": "cups/17",
        },
        {**PAIR, "original_question": "cups/17"},
    ),
    "a_question_of_other_words": (
        "MMPR and RLAIF-V",
        {
            "question": "cups/17",
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
        },
        {**PAIR, "original_question": "cups/17"},
    ),
    "a_prompt_that_is_said_again": (
        "TRL",
        {
            "prompt": [user("How many cups?")],
            "chosen": [user("How many cups?"), assistant("Two.")],
            "rejected": [user("How many cups?"), assistant("Three.")],
        },
        PAIR,
    ),
    "sharegpt": (
        "LLaMA-Factory, ShareGPT",
        {
            "conversations": [{"from": "human", "value": "<image>How many cups?"}],
            "chosen": {"from": "gpt", "value": "Two."},
            "rejected": {"from": "gpt", "value": "Three."},
            "images": ["a.png"],
        },
        {**SEEN, "question": "<image>How many cups?"},
    ),
    "sharegpt_turns": (
        "LLaMA-Factory, ShareGPT",
        {
            "conversations": [
                {"from": "human", "value": "Are there cups?"},
                {"from": "gpt", "value": "Yes."},
                {"from": "human", "value": "How many cups?"},
            ],
            "chosen": {"from": "gpt", "value": "Two."},
            "rejected": {"from": "gpt", "value": "Three."},
            "system": "",
            "tools": "[]",
        },
        {**PAIR, **HISTORY, "tools": "[]"},
    ),
    "sharegpt_in_words_of_openai": (
        "LLaMA-Factory, OpenAI",
        {"messages": [user("How many cups?")], "chosen": assistant("Two."), "rejected": assistant("Three.")},
        PAIR,
    ),
    "alpaca": (
        "LLaMA-Factory, Alpaca",
        {"instruction": "Count.", "input": "How many cups?", "chosen": "Two.", "rejected": "Three.", "images": []},
        {**PAIR, "question": "Count.\nHow many cups?"},
    ),
    "alpaca_without_input": (
        "LLaMA-Factory, Alpaca",
        {"instruction": "How many cups?", "input": "", "chosen": "Two.", "rejected": "Three.", **HISTORY},
        {**PAIR, **HISTORY},
    ),
    "swift": (
        "ms-swift",
        {
            "messages": [user("<image>\nHow many cups?"), assistant("Two.")],
            "rejected_response": "Three.",
            "images": ["a.png"],
            "margin": 0.5,
        },
        {**SEEN, "margin": 0.5},
    ),
    "swift_turns": (
        "ms-swift",
        {
            "messages": [user("Are there cups?"), assistant("Yes."), user("How many cups?"), assistant("Two.")],
            "rejected_response": "Three.",
        },
        {**PAIR, **HISTORY},
    ),
    "swift_rejected_messages": (
        "ms-swift",
        {
            "messages": [user("<image>How many cups?"), assistant("Two.")],
            "images": ["a.png"],
            "rejected_messages": [user("<image>How many cups?"), assistant("Three.")],
            "rejected_images": ["a.png"],
        },
        {**SEEN, "question": "<image>How many cups?"},
    ),
    "swift_query": (
        "ms-swift",
        {"query": "How many cups?", "response": "Two.", "rejected_response": "Three.", "images": "a.png", **HISTORY},
        {**PAIR, "history": [["<image>\nAre there cups?", "Yes."]], "image": "saved/a.png"},
    ),
    "openai": (
        "OpenAI",
        {
            "input": {"messages": [user("How many cups?")], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [assistant("Two.")],
            "non_preferred_output": [assistant("Three.")],
        },
        PAIR,
    ),
    "openai_picture": (
        "OpenAI",
        {
            "input": {
                "messages": [
                    user(
                        [
                            {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
                            {"type": "text", "text": "How many cups?"},
                        ]
                    )
                ]
            },
            "preferred_output": [assistant("Two.")],
            "non_preferred_output": [assistant("Three.")],
        },
        SEEN,
    ),
}


@pytest.mark.parametrize(("name", "row", "wanted"), CASES.values(), ids=CASES)
def test_a_row_becomes_ours(name, row, wanted):
    assert layout_of(row, "rlhf.json").name == name
    assert imported(row) == wanted


def test_every_layout_has_a_case():
    assert {str(layout_of(row, "")) for _, row, _ in CASES.values()} == set(map(str, LAYOUTS))


def test_a_row_is_not_changed_by_its_reading():
    row = {"prompt": [user(parts(None, "What?"))], "chosen": "a", "rejected": "b", "images": ["a.png"]}
    before = repr(row)
    imported(row)
    assert repr(row) == before


TWO = {"chosen": [assistant("Two.")], "rejected": [assistant("Three.")]}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "count"}}]}
REFUSED = {
    "tool_calls": ({**TWO, "prompt": [user("Count."), CALL, user("And?")]}, "has tool_calls"),
    "tool_answers": ({**TWO, "prompt": [user("Count."), {"role": "tool", "content": "2"}]}, "'tool'"),
    "tools": ({**TWO, "prompt": "Count.", "tools": [{"name": "count"}]}, "field 'tools'"),
    "openai_tools": (
        {
            "input": {"messages": [user("Count.")], "tools": [{"type": "function"}]},
            "preferred_output": TWO["chosen"],
            "non_preferred_output": TWO["rejected"],
        },
        "field 'tools'",
    ),
    "boxes": ({**TWO, "prompt": "Count.", "objects": {"bbox": [[1, 2, 3, 4]]}}, "field 'objects'"),
    "audio": ({**TWO, "prompt": "Count.", "audios": ["a.wav"]}, "field 'audios'"),
    "audio_part": ({**TWO, "prompt": [user([{"type": "audio", "audio": "a.wav"}])]}, "neither text nor image"),
    "video": ({**PAIR, "video": "a.mp4"}, "field 'video'"),
    "thoughts": ({**TWO, "prompt": [{**user("Count."), "thinking": "Hm."}]}, "has thinking"),
    "answered_twice": (
        {**TWO, "prompt": "Count.", "chosen": [assistant("Two."), user("Sure?"), assistant("Yes.")]},
        "chosen must be one answer behind what both share, not assistant, user, assistant",
    ),
    "parted_early": (
        {
            "chosen": [user("Cups?"), assistant("Yes."), user("How many?"), assistant("Two.")],
            "rejected": [user("Cups?"), assistant("No.")],
        },
        "not assistant, user, assistant",
    ),
    "the_same": ({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]}, "the same"),
    "one_ends_early": ({"chosen": [user("a"), assistant("b")], "rejected": [user("a")]}, "rejected must be one answer"),
    "the_other_ends_early": (
        {"chosen": [user("a")], "rejected": [user("a"), assistant("b")]},
        "chosen must be one answer behind what both share, not nothing",
    ),
    "texts_without_prompt": ({"chosen": "It is two.", "rejected": "It is three."}, "there is no prompt"),
    "ends_with_an_answer": ({**TWO, "prompt": [user("a"), assistant("b")]}, "not user, assistant"),
    "asked_twice": ({**TWO, "prompt": [user("a"), user("b"), user("c")]}, "not user, user, user"),
    "system_in_between": (
        {**TWO, "prompt": [user("a"), {"role": "system", "content": "Be kind."}, user("c")]},
        "user, system, user",
    ),
    "system": ({**TWO, "prompt": [{"role": "system", "content": "Be kind."}, user("a")]}, "'Be kind.'"),
    "system_field": ({**PAIR, "system": "Be kind."}, "--system_prompt"),
    "no_rejected": ({**TWO, "prompt": "Count.", "rejected": None}, "'rejected' is missing"),
    "number": ({**TWO, "prompt": 3}, "'prompt' must hold a text or messages, not 3"),
    "no_messages": ({**TWO, "prompt": []}, "'prompt' must hold"),
    "other_keys": ({**TWO, "prompt": [{"speaker": "user", "text": "a"}]}, "role and content"),
    "openai_without_messages": (
        {"input": {}, "preferred_output": TWO["chosen"], "non_preferred_output": TWO["rejected"]},
        "field 'input' must hold",
    ),
    "openai_text": (
        {"input": "Count.", "preferred_output": TWO["chosen"], "non_preferred_output": TWO["rejected"]},
        "field 'input' must hold {messages}",
    ),
    "instruction_is_no_text": ({**TWO, "instruction": ["Count."]}, "must be texts"),
    "unknown_speaker": ({**TWO, "prompt": [{"role": "critic", "content": "a"}]}, "'critic'"),
    "empty_question": ({**TWO, "prompt": " "}, "'question' is empty"),
    "history": ({**PAIR, "history": ["a", "b"]}, "[question, answer]"),
    "half_a_turn": ({**PAIR, "history": [["Are there cups?"]]}, "[question, answer]"),
    "fewer_pictures": ({**TWO, "prompt": [user(parts(None, None, "a"))], "images": ["a.png"]}, "2 <image>"),
    "more_pictures": ({**TWO, "prompt": "<image>a", "images": ["a.png", "b.png"]}, "1 <image>"),
    "no_pictures": ({**TWO, "prompt": [user(parts(None, "a"))]}, "1 <image>"),
    "mismatch_in_our_own": ({**PAIR, "question": "<image><image>a", "image": "a.png"}, "2 <image>"),
    "pictures_twice": (
        {**TWO, "prompt": [user([{"type": "image", "image": "a.png"}])], "images": ["b.png"]},
        "both in messages and in 'images'",
    ),
    "picture_in_an_answer": (
        {**TWO, "prompt": "a", "chosen": [assistant(parts(None))], "images": ["a.png"]},
        "picture of assistant",
    ),
    "mark_in_an_answer": ({"prompt": "Draw.", "chosen": "<image>", "rejected": "b", "images": ["a.png"]}, "an answer"),
    "mark_of_another_form": (
        {**TWO, "prompt": "<image_1> and <image_2>?", "images": ["a.png", "b.png"]},
        "<image_1>, <image_2> is text in a question: write <image> there",
    ),
    "other_rejected_pictures": (
        {
            "messages": [user("<image>a"), assistant("b")],
            "rejected_messages": [user("<image>a"), assistant("c")],
            "images": ["a.png"],
            "rejected_images": ["b.png"],
        },
        "in 'rejected_images' are others",
    ),
    "pictures_of_two_fields": ({**PAIR, "images": ["a.png"], "image": "b.png"}, "in 'image' are others"),
    "pictures_of_rejected_alone": ({**PAIR, "image": None, "rejected_images": ["a.png"]}, "'rejected_images'"),
    "swift_without_an_answer": ({"messages": [user("a")], "rejected_response": "b"}, "chosen must be one answer"),
    "picture_of_another_name": ({**TWO, "prompt": "a", "img": "a.png"}, "rename the key to 'image'"),
}


@pytest.mark.parametrize(("row", "words"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_said_is_refused_with_its_reason(row, words):
    assert words in reason(row)


def asked_under(system):
    return {**TWO, "prompt": [{"role": "system", "content": system}, user("How many cups?")]}


def test_the_system_message_of_a_template_is_what_training_writes_anyway():
    assert imported(asked_under(OWN_SYSTEM)) == PAIR
    assert imported(asked_under(f"\n{OWN_SYSTEM} ")) == PAIR


def test_a_system_message_that_training_will_use_is_taken():
    assert imported(asked_under("Be kind."), system_prompt="Be kind.") == PAIR
    assert "'Be brief.'" in reason(asked_under("Be brief."), system_prompt="Be kind.")
    assert "not the template's" in reason(asked_under(OWN_SYSTEM), system_prompt="Be kind.")


def test_our_own_rows_keep_a_question_without_a_mark():
    assert imported({**PAIR, "image": ["a.png", "b.png"]})["question"] == "How many cups?"


def test_a_mark_in_an_answer_is_text_where_the_question_has_its_own():
    row = {"prompt": "<image>Which tag?", "chosen": "<image>", "rejected": "<img>", "images": ["a.png"]}
    assert imported(row)["chosen"] == "<image>"


def test_what_json_cannot_hold_is_named():
    deep: list = []
    for _ in range(900):
        deep = [deep]
    row = {**PAIR, "mask": b"\x00", "masks": [{"of": b"\x00"}], "deep": deep, "boxes": [[1, 2.5]], "note": None}
    reader = PairReader(layout_of(row, ""), NamedPictures())
    assert reader.pair_row(row, WHERE) == {**PAIR, "boxes": [[1, 2.5]], "note": None}
    assert reader.left_out == {"mask", "masks", "deep"}


def test_a_file_of_no_layout_is_refused_with_all_that_is_known():
    with pytest.raises(ValueError) as raised:
        layout_of({"text": "a", "label": 1}, "sft.json: row 1")
    said = str(raised.value)
    assert said.startswith("sft.json: row 1: no known layout: the fields are label, text; known: ")
    assert all(str(layout) in said for layout in LAYOUTS)
