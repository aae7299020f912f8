r"""What a response gives as its final answer, by the prompt version that asked for it.

`en` and `zh` ask for a last line "Final answer: .." or "答案: ..", `en_v2` and `zh_v2` for `\boxed{..}`, `en_r1` and
`zh_r1` for `<think>..</think>` and then `\boxed{..}`. A response that does not keep to the format has no answer: it
becomes a negative of the format pairs, so the reason is kept.

    parse_answer("2 + 3 make 5.\nFinal answer: 5", "en").text == "5"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_REASONING_CHARS = 21
"""A boxed answer, or the thought before it, needs at least this many characters to count as reasoning."""
MAX_ANSWER_LINES = 2
"""A response may correct itself once; a third "Final answer:" is a list of guesses."""

# Its first characters are spelled out, so that the search skips ahead to them: eight times as fast as ignoring case.
_ANSWER_LINE = re.compile(r"(?:F(?i:inal\s+answer)|f(?i:inal\s+answer)|最终答案|答案)\s*\**\s*[:：]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_EMPHASIS = "*_` \t"


@dataclass(frozen=True)
class ParsedAnswer:
    """The final answer of a response, or why there is none.

    Attributes:
        text: the answer as written, without its format marks; None when the format was not kept.
        error: what broke the format; "" when `text` is there.
    """

    text: str | None
    error: str = ""


def parse_answer(response: str, prompt_version: str) -> ParsedAnswer:
    """The final answer of `response` under the format that `prompt_version` asked for.

    Args:
        response: the whole generated text.
        prompt_version: en, zh, en_v2, zh_v2, en_r1 or zh_r1; any other is a format error that names it.
    """
    parser = _PARSERS.get(prompt_version)
    if parser is None:
        return ParsedAnswer(None, f"prompt version {prompt_version!r} is none of {', '.join(_PARSERS)}")
    return parser(response)


def _parse_answer_line(response: str) -> ParsedAnswer:
    """The text after the last "Final answer:", which must be one line and follow a rationale."""
    marks = list(_ANSWER_LINE.finditer(response))
    if not marks:
        return ParsedAnswer(None, "no answer line")
    if len(marks) > MAX_ANSWER_LINES:
        return ParsedAnswer(None, f"{len(marks)} answer lines")
    if not response[: marks[0].start()].strip(_EMPHASIS + "\r\n#>"):
        return ParsedAnswer(None, "no rationale before the answer")
    answer = _without_emphasis(response[marks[-1].end() :].strip())
    if not answer:
        return ParsedAnswer(None, "the answer line is empty")
    if "\n" in answer:
        return ParsedAnswer(None, "text after the answer line")
    return ParsedAnswer(answer)


def _without_emphasis(answer: str) -> str:
    """Markdown bold around the answer, or left over from a bold answer line, is no part of it."""
    if answer.startswith("**") or answer.endswith("**"):
        return answer.strip("* \t")
    return answer


def _parse_box(response: str) -> ParsedAnswer:
    r"""The content of the last `\boxed{}` of a response that is more than the box."""
    if len(response.strip()) < MIN_REASONING_CHARS:
        return ParsedAnswer(None, f"{len(response.strip())} characters hold no rationale")
    return _last_box(response)


def _parse_thought(response: str) -> ParsedAnswer:
    """The boxed answer after exactly one thought, which opens the response."""
    text = response.strip()
    if text.count("<think>") != 1 or text.count("</think>") != 1 or not text.startswith("<think>"):
        return ParsedAnswer(None, "not one <think>..</think> at the start")
    thought, _, rest = text.removeprefix("<think>").partition("</think>")
    if len(thought.strip()) < MIN_REASONING_CHARS:
        return ParsedAnswer(None, f"{len(thought.strip())} characters hold no thought")
    return _last_box(rest)


def _last_box(text: str) -> ParsedAnswer:
    r"""The content of the last `\boxed{..}` or `\fbox{..}`; of nested boxes the innermost."""
    *_, last = [None, *_BOX.finditer(text)]
    if last is None:
        return ParsedAnswer(None, "no box")
    content = text[last.end() :]
    if content.startswith("{"):
        end = _closing_brace(content)
        if end is None:
            return ParsedAnswer(None, "the last box is not closed")
        answer = content[1:end].strip()
    else:  # \boxed 5: TeX takes one token, people mean one word
        answer = (content.split() or [""])[0].rstrip("$.")
    if not answer or answer == "$FINAL_ANSWER":
        return ParsedAnswer(None, f"the last box holds no answer: {answer!r}")
    return ParsedAnswer(answer)


def _closing_brace(text: str) -> int | None:
    r"""Where the brace that opens `text` is closed; `\{` and `\}` are characters, not braces."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


_PARSERS: Mapping[str, Callable[[str], ParsedAnswer]] = {
    "en": _parse_answer_line,
    "zh": _parse_answer_line,
    "en_v2": _parse_box,
    "zh_v2": _parse_box,
    "en_r1": _parse_thought,
    "zh_r1": _parse_thought,
}
