r"""How a question is put to the model: prompt versions, which fix the form of the final answer, and reasoning styles.

    version   asks for                                     style        asks to reason
    en, zh    a last line "Final answer: .." / "答案: .."   plain        step by step
    *_v2      a last line "Answer: \boxed{..}"             background   from the background knowledge that is needed
    *_r1      <think>..</think>, then \boxed{..}           visual       from what is seen in the image
                                                           grounded     with the place of every object it speaks of
                                                           mixed        in one of these, drawn by the prompt's key

The styles are those by which MPO varies its reasoning data (arXiv 2411.10442, section 3.2). No torch.
"""

from __future__ import annotations

import re

import xxhash

from internvl_chat.records.rows import RecordError, Source

# As in internvl_chat.model.constants, whose package loads torch.
IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"

_LEADING_IMAGES = re.compile(rf"(?:\s*{IMAGE_PLACEHOLDER})+\s*")

# {reasoning} is one of REASONING, {question} the row's question.
INSTRUCTIONS = {
    "en": (
        "Your task is to answer the question below. {reasoning} before you answer, and when you're ready to answer, "
        'please use the format "Final answer: .."\n\nQuestion:\n\n{question}'
    ),
    "zh": (
        "你的任务是回答以下问题。在回答之前，请{reasoning}。当你准备好给出答案时，请使用以下格式："
        '"答案: ..."\n\n问题:\n\n{question}'
    ),
    "en_v2": (
        "{question}\n\n{reasoning} before you answer this question. Finish with one line of the form "
        "'Answer: \\boxed{{..}}' (without quotes) that holds nothing but your final answer. "
        "If you are unsure, give your best guess."
    ),
    "zh_v2": (
        "{question}\n\n在回答上述问题之前，请{reasoning}。最后一行请使用格式'答案: \\boxed{{..}}'（不含引号），"
        "其中只写最终答案。如果不确定，请给出你认为最合理的答案。"
    ),
    "en_r1": (
        "{question}\n\nThink first, inside <think> and </think>. {reasoning} there, and check what you found. "
        "After </think>, write the solution briefly and put the final answer in \\boxed{{}}."
    ),
    "zh_r1": (
        "{question}\n\n请先在<think>和</think>之间思考：{reasoning}，并检查得到的结果。"
        "在</think>之后简要写出解答，并将最终答案放在\\boxed{{}}中。"
    ),
}

REASONING = {
    "plain": {"en": "Give step by step reasoning", "zh": "逐步推理说明您的思路"},
    "background": {
        "en": "Introduce the background knowledge that the question calls for, and reason from it step by step",
        "zh": "先介绍问题涉及的背景知识，再据此逐步推理",
    },
    "visual": {
        "en": "Describe what the image shows that matters for the question, and reason from it step by step",
        "zh": "先描述图像中与问题相关的内容，再据此逐步推理",
    },
    "grounded": {
        "en": (
            "Name every object that your reasoning relies on as <ref>object</ref><box>[[x1, y1, x2, y2]]</box>, "
            "and reason step by step"
        ),
        "zh": "用<ref>物体</ref><box>[[x1, y1, x2, y2]]</box>标出推理所依据的每个物体，并逐步推理",
    },
}

VERSIONS = tuple(INSTRUCTIONS)
AS_TYPED = "as typed"  # in place of a version: in no words but its own
STYLES = (*REASONING, "mixed")


def version_for(version: str, file_name: str) -> str:
    """The prompt version for one prompt file: `_zh_` in its name turns en, en_v2, en_r1 into zh, zh_v2, zh_r1."""
    return f"zh{version[2:]}" if version.startswith("en") and "_zh_" in file_name else version


def style_for(style: str, key: str) -> str:
    """The style of one prompt: `mixed` draws one by the prompt's key, the same in every run."""
    if style != "mixed":
        return style
    names = list(REASONING)
    return names[xxhash.xxh3_64_intdigest(f"style\0{key}".encode()) % len(names)]


def split_placeholders(question: str, num_images: int, where: Source) -> tuple[str, str]:
    """Head and body of a question: the head is one `<image>` line per image in front, the body the rest.

    Placeholders further down stay where they are. RecordError unless there is one for each image, or none.
    """
    placed = question.count(IMAGE_PLACEHOLDER)
    if placed not in (0, num_images):
        reason = f"{placed} {IMAGE_PLACEHOLDER} in the question for {num_images} images; write one per image, or none"
        raise RecordError(*where, reason)
    if placed == 0:
        return f"{IMAGE_PLACEHOLDER}\n" * num_images, question
    leading = _LEADING_IMAGES.match(question)
    if leading is None:
        return "", question
    return f"{IMAGE_PLACEHOLDER}\n" * leading[0].count(IMAGE_PLACEHOLDER), question[leading.end() :]


def ask(question: str, num_images: int, *, version: str | None, style: str = "plain", where: Source) -> str:
    """The question as asked: with its placeholders, in the words of a prompt version.

    Args:
        question: of the row, with one `<image>` per image or none.
        num_images: images of the row.
        version: one of VERSIONS; None asks it as it is.
        style: a key of REASONING.
        where: for the error.

    Raises:
        RecordError: the placeholders do not match the images.
    """
    head, body = split_placeholders(question, num_images, where)
    if version is None:
        return head + body
    reasoning = REASONING[style][version[:2]]
    return head + INSTRUCTIONS[version].format(reasoning=reasoning, question=body)


def unasked(text: str) -> tuple[str, str | None]:
    """Question and prompt version of a text of `ask` without its leading placeholders; (text, None) of any other."""
    for version, words in INSTRUCTIONS.items():
        for reasoning in REASONING.values():
            before, after = words.format(reasoning=reasoning[version[:2]], question="\0").split("\0")
            if text.startswith(before) and text.endswith(after):
                return text[len(before) : len(text) - len(after)], version
    return text, None


def without_images(question: str) -> str:
    """A question without the placeholders of images or a video and the line ends behind them."""
    for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER):
        question = question.replace(f"{placeholder}\n", "").replace(placeholder, "")
    return question
