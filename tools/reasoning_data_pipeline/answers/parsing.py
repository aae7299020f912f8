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
# Lines that a reader takes for the answer line though they are not the one that was asked for.
_OTHER_LINE = re.compile(
    r"^[ \t>*_#-]*(?:(?:final|correct)[ ])?answer[ \t]*\**[ \t]*[:：][ \t*]*(?P<english>[^\s*].*?)[ \t]*$"
    r"|(?:^[ \t>*_#-]*|[。，,；;]\s*)(?:(?:所以|因此|故|综上(?:所述)?)[，,]?)?(?:本题)?(?:的?(?:正确|最终))?"
    r"(?:答案[ \t]*\**[是为][:：]?|【答案】[:：]?|【最终答案】[:：]?|(?<=故)选[:：]?)[ \t]*(?P<chinese>\S.*?)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*|\*\*|__)?(?:(?:final[ ])?answer|(?:最终)?答案)[:：]?(?:\*\*|__)?[:：]?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_CONTRARY = re.compile(r"wait|but|however|actually|alternatively|or\b|no\b|hmm|不对|等等|但|然而|或", re.IGNORECASE)
MIN_REMARK_WORDS = 3
MAX_REMARK_CHARS = 200


@dataclass(frozen=True)
class ParsedAnswer:
    """The final answer of a response, or why there is none.

    Attributes:
        text: the answer as written, without its format marks; None when the response has no readable answer.
        error: what broke the format; "" when `text` is there.
        style: how the answer is given where that is not the style asked for; "" where it is.
    """

    text: str | None
    error: str = ""
    style: str = ""


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


def readable_answer(response: str) -> str | None:
    """What a reader would take for the answer of a response that broke its format; None where there is nothing.

    It never becomes an answer of the response. It keeps what may be right from being the rejected side of a pair.
    """
    for found in (_last_box(response), _parse_other_line(response)):
        if found.text is not None:
            return found.text
    marks = [*_ANSWER_LINE.finditer(response), *_SAID.finditer(response)]
    lines = response[max(mark.end() for mark in marks) :].strip().splitlines() if marks else []
    return _without_emphasis(lines[0].strip()) if lines else None


_SAID = re.compile(r"(?:answer\s+is|answer\s*[:：]|final answer|<answer>|答案[是为]?|故选)[:：]?\s*", re.IGNORECASE)


def _parse_answer_line(response: str) -> ParsedAnswer:
    """The text after the last "Final answer:", which must be one line and follow a rationale."""
    marks = list(_ANSWER_LINE.finditer(response))
    if not marks:
        return _parse_other_line(response)
    if len(marks) > MAX_ANSWER_LINES:
        return ParsedAnswer(None, f"{len(marks)} answer lines")
    if not _has_rationale(response[: marks[0].start()]):
        return ParsedAnswer(None, "no rationale before the answer")
    answer = _without_emphasis(response[marks[-1].end() :].strip())
    if not answer:
        return ParsedAnswer(None, "the answer line is empty")
    first, _, rest = answer.partition("\n")
    if not rest:
        return ParsedAnswer(answer)
    if _is_remark(rest):
        return ParsedAnswer(_without_emphasis(first.strip()), style="a remark after the answer line")
    return ParsedAnswer(None, "text after the answer line")


def _parse_other_line(response: str) -> ParsedAnswer:
    """An answer line or heading in another style than asked for, as the last thing said but for one closing remark."""
    lines, headings = list(_OTHER_LINE.finditer(response)), list(_HEADING.finditer(response))
    if len(lines) > MAX_ANSWER_LINES or not (lines or headings):
        return ParsedAnswer(None, f"{len(lines)} answer lines" if lines else "no answer line")
    last = max([*lines, *headings], key=lambda match: match.start())
    if not _has_rationale(response[: last.start()]):
        return ParsedAnswer(None, "no answer line")
    is_heading = last in headings
    after = response[last.end() :]
    answer, _, rest = after.strip().partition("\n") if is_heading else (last["english"] or last["chinese"], "", after)
    if not answer.strip() or (rest.strip() and not _is_remark(rest)):
        return ParsedAnswer(None, "no answer line")
    return ParsedAnswer(
        _without_emphasis(answer.strip()), style="the answer below a heading" if is_heading else "another answer line"
    )


def _has_rationale(text: str) -> bool:
    return bool(text.strip(_EMPHASIS + "\r\n#>"))


def _is_remark(text: str) -> bool:
    """Whether one short paragraph closes a response without another answer."""
    remark = text.strip().strip(_EMPHASIS)
    if "\n" in remark or len(remark) > MAX_REMARK_CHARS or _CONTRARY.match(remark) or _ANSWER_LINE.search(remark):
        return False
    is_sentence = remark.endswith((".", "!", "。", "！", ")"))
    return is_sentence and (not remark.isascii() or len(remark.split()) >= MIN_REMARK_WORDS)


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


MAX_BOXES = 8
"""So many boxes at the end of a response are looked at."""
_BETWEEN_BOXES = re.compile(
    r"[\s$]*(?:,|;|、|，|；)?[\s$]*(?:and|和|与|&)?[\s$]*(?:[A-Za-z]\w?\s*=\s*)?", re.IGNORECASE
)


def _last_box(text: str) -> ParsedAnswer:
    r"""The content of the last `\boxed{..}` or `\fbox{..}`; of nested boxes the innermost, of joined ones all.

    \boxed{6} and \boxed{-1} are two answers together; with more words between them the last is the answer.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return ParsedAnswer(None, "no box")
    contents: list[str] = []
    end = -1
    for box in boxes[-MAX_BOXES:]:
        content, closing = _box_content(text, box.end())
        joined = 0 <= end <= box.start() and _BETWEEN_BOXES.fullmatch(text, end, box.start())
        contents = [*(contents if joined else ()), *([] if content is None else [content])]
        end = closing
    if end < 0:
        return ParsedAnswer(None, "the last box is not closed")
    contents = list(dict.fromkeys(contents))
    if not all(contents) or "$FINAL_ANSWER" in contents:
        return ParsedAnswer(None, f"the last box holds no answer: {contents[-1]!r}")
    return ParsedAnswer(", ".join(contents))


def _box_content(text: str, start: int) -> tuple[str | None, int]:
    """What the box that opens at `start` holds, and where it ends; (None, -1) where it is not closed."""
    if text[start : start + 1] == "{":
        end = _closing_brace(text[start:])
        return (None, -1) if end is None else (text[start + 1 : start + end].strip(), start + end + 1)
    word = (text[start:].split(maxsplit=1) or [""])[0]  # \boxed 5: TeX takes one token, people mean one word
    return word.rstrip("$."), start + len(word)


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
