"""The answers to one question, told apart: right, wrong, undecided, or out of format.

Each distinct text is judged once, each distinct final answer is checked once. `--answer-fix` tidies the last line of a
right answer, and of right answers only: a rejected text stays as the model wrote it. A right answer is never rejected:
not for its style, nor for a format in which a reader still finds it.
"""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson
import xxhash

from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from internvl_chat.records.rows import Prompt, SampledResponse, Source
from tools.reasoning_data_pipeline.answers.checker import Verdict, parse_answer
from tools.reasoning_data_pipeline.answers.options import read_options
from tools.reasoning_data_pipeline.answers.parsing import readable_answer

SLOW_SECONDS = 1e-3  # checks that took longer are worth keeping for the next run
DECIDED = ("correct", "wrong")  # outcomes that do not depend on how long a check may take
FIXED_VERSIONS = {"en": "Final answer", "zh": "答案"}
_ANSWER_LINE = re.compile(r"[*_#> \t]*(?:(final\s+answer)|(?:最终)?答案)\s*\**\s*[:：]", re.IGNORECASE)
_EMPHASIS = "*` \t"
_DETAIL = re.compile(r"\d+|'[^']*'")  # what makes a rule of its own of every response
SAME_MEANING = frozenset({"same text", "spelling", "choice", "option"})  # rules by which another wording says the same


Verdicts = dict[str, tuple[str, str]]  # cache key -> (outcome, rule)


class VerdictCache:
    """Verdicts that were slow to find, kept for the next run in a JSONL file.

    A verdict depends on the answers, the modes and the source code of the checks; those of other code are left alone.
    """

    def __init__(self, path: Path) -> None:
        """Take the file, which need not be there yet."""
        self.path = path
        sources = sorted(Path(__file__).parent.glob("*.py"))
        self.code = xxhash.xxh3_64_hexdigest(b"".join(source.read_bytes() for source in sources))

    def read(self) -> Verdicts:
        """What runs of the same code have found."""
        if not self.path.exists():
            return {}
        rows = (row for _, row in whole_lines(self.path))
        return {row["key"]: tuple(row["verdict"]) for row in rows if row["code"] == self.code}

    def learn(self, verdicts: Verdicts) -> None:
        """Keep new verdicts."""
        with open_for_append(self.path) as file:
            for key, verdict in verdicts.items():
                file.write(json_line({"key": key, "verdict": verdict, "code": self.code}))


class Checker(Protocol):
    """Compares final answers: `AnswerChecker`, or a scripted one."""

    def check(self, predicted: str, gold: Any, modes: Sequence[str], *, options: Sequence[str] = ()) -> Verdict:
        """Whether `predicted` is the right answer `gold` among `options`, by the checks named in `modes`."""
        ...

    def close(self) -> None:
        """End what helper processes there are."""
        ...


class JudgedAnswer(NamedTuple):
    """One distinct answer.

    Attributes:
        text: the response.
        final: its final answer, "" where the format was not kept.
        outcome: correct, wrong, undecided or format_error.
        rule: the rule that decided, or the reason of a format error.
        style: how a final answer was given in another style than asked for; "" where it was the one.
        may_be_right: a format error in which a reader finds an answer that is not wrong.
        score: what a critic says of it; 0 where none was asked.
    """

    text: str
    final: str
    outcome: str
    rule: str
    style: str = ""
    may_be_right: bool = False
    score: float = 0.0


@dataclass(frozen=True)
class JudgedQuestion:
    """One question and its distinct answers in an order that does not depend on the input's.

    Attributes:
        prompt: one of its rows; all share image, question and answer.
        answers: the distinct answers.
        repeats: how often each text of `answers` was sampled.
    """

    prompt: SampledResponse
    answers: list[JudgedAnswer]
    repeats: Mapping[str, int]

    def having(self, outcome: str) -> list[JudgedAnswer]:
        """The distinct answers with this outcome."""
        return [answer for answer in self.answers if answer.outcome == outcome]

    def count(self, outcome: str) -> int:
        """Sampled answers with this outcome, repeats included."""
        return sum(self.repeats[answer.text] for answer in self.having(outcome))

    def rejectable(self, outcome: str) -> list[JudgedAnswer]:
        """The distinct answers with this outcome that may stand on the rejected side of a pair."""
        return [answer for answer in self.having(outcome) if not answer.may_be_right]


@dataclass
class Judge:
    """Judges the answers of one data set.

    Attributes:
        checker: compares final answers.
        modes: how this data set wants them compared.
        known: verdicts of an earlier run by `cache_key`.
        learned: new ones that were slow to find; undecided ones are none, another run may have more time or memory.
    """

    checker: Checker
    modes: Sequence[str]
    known: Verdicts = field(default_factory=dict)
    learned: Verdicts = field(default_factory=dict)

    def judge(self, rows: Sequence[Mapping[str, Any]]) -> JudgedQuestion:
        """Judge all answers to one question, given their rows in an order that does not depend on the input's."""
        repeats = Counter(row["response"] for row in rows)
        versions = {row["response"]: row["prompt_version"] for row in reversed(rows)}
        prompt = SampledResponse.from_row(rows[0], Source("partition", 1))
        check = functools.cache(functools.partial(self._check, prompt.answer, options_of(prompt)))
        scores = {row["response"]: row.get("score", 0.0) for row in rows}
        judged = [_judge_text(text, versions[text], check)._replace(score=scores[text]) for text in repeats]
        return JudgedQuestion(prompt, judged, repeats)

    def _check(self, gold: Any, options: tuple[str, ...], final: str) -> tuple[str, str]:
        """(outcome, rule) of a final answer, from an earlier run if it was slow to find."""
        key = cache_key(final, gold, self.modes, options) if self.known else ""
        if key in self.known and self.known[key][0] in DECIDED:
            return self.known[key]
        begin = time.perf_counter()
        verdict = self.checker.check(final, gold, self.modes, options=options)
        found = (verdict.outcome.value, verdict.rule)
        if time.perf_counter() - begin > SLOW_SECONDS and found[0] in DECIDED:
            self.learned[key or cache_key(final, gold, self.modes, options)] = found
        return found


def _judge_text(text: str, version: str, check: Callable[[str], tuple[str, str]]) -> JudgedAnswer:
    parsed = parse_answer(text, version)
    if parsed.text is not None:
        return JudgedAnswer(text, parsed.text, *check(parsed.text), parsed.style)
    shown = readable_answer(text)
    may_be_right = shown is not None and check(shown)[0] != "wrong"
    return JudgedAnswer(text, "", "format_error", _DETAIL.sub("..", parsed.error), may_be_right=may_be_right)


def options_of(prompt: Prompt | SampledResponse) -> tuple[str, ...]:
    """The options of a prompt; () where it has none, or fields of these names that are no options."""
    question = prompt.question_orig if isinstance(prompt, SampledResponse) else prompt.question
    try:
        return read_options(prompt.extra, question)
    except ValueError:
        return ()


def cache_key(final: str, gold: Any, modes: Sequence[str], options: Sequence[str] = ()) -> str:
    """What a verdict depends on."""
    return orjson.dumps((final, gold, sorted(modes), *([options] if options else []))).decode()


def in_style(text: str, answer: JudgedAnswer, version: str) -> bool:
    """Whether the text of a right answer, perhaps tidied, gives it in the style that was asked for."""
    return not answer.style or not parse_answer(text, version).style


def tidy_answer(answer: JudgedAnswer, version: str, gold: Any) -> str:
    """The text of a right answer with its last line in the form that the prompt asked for (en and zh prompts only).

    "**Final Answer**: (A) cat" becomes "Final answer: A" where the ground truth is "A". The reasoning stays as it is,
    and so does an answer that differs from the ground truth in more than form, such as 10.4 for 10 in a tolerance.
    """
    marks = list(_ANSWER_LINE.finditer(answer.text)) if version in FIXED_VERSIONS else []
    if answer.outcome != "correct" or not marks:
        return answer.text
    head = answer.text[: marks[-1].start()]
    space = " " if head and not head[-1].isspace() else ""
    trigger = FIXED_VERSIONS["en" if marks[-1][1] else "zh"]
    return f"{head}{space}{trigger}: {_tidy_final(answer, gold)}"


def _tidy_final(answer: JudgedAnswer, gold: Any) -> str:
    """The final answer without emphasis and full stop; the ground truth's own wording where it says the same."""
    bare = answer.final.strip(_EMPHASIS).rstrip(".。 ").strip() or answer.final
    return gold.strip() if isinstance(gold, str) and answer.rule in SAME_MEANING else bare
