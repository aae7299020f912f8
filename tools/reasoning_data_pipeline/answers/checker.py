r"""Is a generated answer right? One typed verdict per answer, from the cheapest check that can tell.

The tiers: the same text; the same after normalisation; a comparison by kind (option letters, numbers with units,
dates, lists, intervals, equations, yes or no); values of formulas at sample points; computer algebra in worker
processes, last and under a deadline. What a data set asks for is named by its checks (`modes_for_dataset`): ANLS for
documents, 5 % for charts, the typed comparison for the rest.

    with AnswerChecker() as checker:
        checker.check(parse_answer(response, "en"), "1/2", modes_for_dataset("geoqa_en"))
        # Verdict(outcome=Outcome.CORRECT, predicted='0.5', rule='number')
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from string import ascii_uppercase
from types import TracebackType
from typing import Any

from tools.reasoning_data_pipeline.answers.algebra import AlgebraPool
from tools.reasoning_data_pipeline.answers.comparison import RELAXED, TOP, Finding, Scope
from tools.reasoning_data_pipeline.answers.documents import documents_agree
from tools.reasoning_data_pipeline.answers.options import named_options, right_answers, spelled_options
from tools.reasoning_data_pipeline.answers.parsing import ParsedAnswer, parse_answer
from tools.reasoning_data_pipeline.answers.reading import Reading, read
from tools.reasoning_data_pipeline.answers.rules import DIFFERENT, NEEDS_ALGEBRA, compare
from tools.reasoning_data_pipeline.answers.scores import anls

__all__ = [
    "AnswerChecker",
    "Outcome",
    "ParsedAnswer",
    "Question",
    "Verdict",
    "accepted_texts",
    "anls",
    "modes_for_dataset",
    "parse_answer",
]

MAX_REMEMBERED = 16_384
"""Verdicts kept to answer equal questions; then the memory starts anew."""
MAX_PENDING = 256
"""Answers that may wait behind one that needs algebra."""

TYPED_CHECKS = ("vqa_score", "mc_score", "math_score", "math_verify_score")
_STRICT_CHECKS = ("relaxed_accuracy", "vqa_score", "mc_score", "math_verify_score")
_ALGEBRA_CHECKS = frozenset({"math_score", "latex_score", "math_verify_score"})
KNOWN_MODES = frozenset({*TYPED_CHECKS, *_STRICT_CHECKS, "anls", "latex_score"})
_CHECKS_BY_NAME: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("chartqa",), ("relaxed_accuracy",)),
    (("docvqa", "infographic", "infovqa"), ("anls",)),
    (("clevr", "geo", "sroie"), _STRICT_CHECKS),
    (("mavis",), (*TYPED_CHECKS, "latex_score")),
)


class Outcome(StrEnum):
    """What a check says. `UNDECIDED` is neither right nor wrong: time or algebra was not enough, or gold is missing."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNDECIDED = "undecided"
    FORMAT_ERROR = "format_error"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
        outcome: correct, wrong, undecided or format_error.
        predicted: the answer that was judged; None where the format gave none.
        rule: the rule that decided, or the reason of a format error.
        style: how the answer was given where that is not the style asked for, as in `ParsedAnswer`; else "".
    """

    outcome: Outcome
    predicted: str | None
    rule: str
    style: str = ""


@dataclass(frozen=True)
class Question:
    """One answer to check.

    Attributes:
        predicted: the answer, or what `parse_answer` made of a response.
        gold: the right answer as JSON gave it; a list holds several right answers.
        modes: names of the checks, from `modes_for_dataset`; none at all asks for the same text.
        options: the texts of the options of a multiple choice question, in the order of their letters.
        question: its text, whose options count where `options` gives none.
    """

    predicted: str | ParsedAnswer
    gold: Any
    modes: tuple[str, ...] = TYPED_CHECKS
    options: Sequence[str] = ()
    question: str = ""


def modes_for_dataset(name: str) -> tuple[str, ...]:
    """The checks that a data set asks for, by its name or file name.

    ChartQA: relaxed accuracy, 5 %. DocVQA, InfographicVQA: ANLS. Counting, geometry and receipts: the typed comparison
    without that tolerance. MAVIS: the typed comparison with LaTeX. All others: the typed comparison.
    """
    lowered = name.lower()
    return next((modes for words, modes in _CHECKS_BY_NAME if any(word in lowered for word in words)), TYPED_CHECKS)


_Key = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""What a verdict depends on: the answer, the right ones, the modes and the options."""


class AnswerChecker:
    """Checks answers; a context manager, because algebra runs in worker processes that must end.

    Equal questions are answered once: of 32 samples of a prompt most say the same. May be used from several threads,
    not across a fork.

    Args:
        deadline_s: seconds that algebra may take for one answer before it is undecided.
        workers: processes for algebra. They start when the first answer needs one, which is not under the deadline.
        memory_mb: address space of one worker, MiB.
    """

    def __init__(self, *, deadline_s: float = 2.0, workers: int = 1, memory_mb: int = 2048) -> None:
        self._pool = AlgebraPool(workers=workers, deadline_s=deadline_s, memory_mb=memory_mb)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="algebra")
        self._remembered: dict[_Key, Verdict | Future[Verdict]] = {}

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def check(
        self,
        predicted: str | ParsedAnswer,
        gold: Any,
        modes: Sequence[str] = TYPED_CHECKS,
        *,
        options: Sequence[str] = (),
    ) -> Verdict:
        """The verdict on one answer; `Question` says what the arguments are.

        Raises:
            ValueError: a mode is unknown.
        """
        return _settled(*self._begin(Question(predicted, gold, tuple(modes), options)))

    def check_many(self, questions: Iterable[Question]) -> Iterator[Verdict]:
        """The verdicts in the order of the questions; algebra runs beside the cheap checks, on all workers.

        Raises:
            ValueError: a mode is unknown.
        """
        pending: deque[tuple[Verdict | Future[Verdict], str]] = deque()
        for question in questions:
            verdict, style = self._begin(question)
            if not pending and isinstance(verdict, Verdict):
                yield _settled(verdict, style) if style else verdict
                continue
            pending.append((verdict, style))
            while pending and (isinstance(pending[0][0], Verdict) or len(pending) >= MAX_PENDING):
                yield _settled(*pending.popleft())
        yield from (_settled(*waiting) for waiting in pending)

    def _begin(self, question: Question) -> tuple[Verdict | Future[Verdict], str]:
        """The verdict where it is cheap, else the promise of one; and the style of the answer."""
        predicted, style = question.predicted, ""
        if isinstance(predicted, ParsedAnswer):
            if predicted.text is None:
                return Verdict(Outcome.FORMAT_ERROR, None, predicted.error), ""
            style, predicted = predicted.style, predicted.text
        key = (predicted, accepted_texts(question.gold), question.modes, _options_of(question))
        known = self._remembered.get(key)
        if known is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[key] = self._judge(*key)
        return known, style

    def _judge(
        self, predicted: str, golds: tuple[str, ...], modes: tuple[str, ...], options: tuple[str, ...]
    ) -> Verdict | Future[Verdict]:
        if not golds:
            return Verdict(Outcome.UNDECIDED, predicted, "no gold answer")
        if options and modes:
            decided = _compare_options(predicted, golds, modes, options)
            if decided is not None:
                return _verdict(predicted, decided)
        findings = [_compare(predicted, gold, modes) for gold in golds]
        decided = next((finding for finding in findings if finding.agree), None)
        if decided is None and not any(finding.agree is None for finding in findings):
            decided = findings[0]
        if decided is not None:
            return _verdict(predicted, decided)
        return self._threads.submit(
            self._solve,
            predicted,
            [gold for gold, finding in zip(golds, findings, strict=True) if finding.agree is None],
        )

    def _solve(self, predicted: str, golds: list[str]) -> Verdict:
        """Algebra on all gold answers that need it, within one deadline; the start of a worker is not under it."""
        self._pool.start()
        end = time.monotonic() + self._pool.deadline_s
        agree: bool | None = False
        for gold in golds:
            equal = self._pool.equal(read(predicted).text, read(gold).text, limit_s=end - time.monotonic())
            if equal:
                return _verdict(predicted, Finding(True, NEEDS_ALGEBRA))
            agree = None if equal is None else agree
        return _verdict(predicted, Finding(agree, NEEDS_ALGEBRA))


def _options_of(question: Question) -> tuple[str, ...]:
    if question.options:
        return tuple(question.options)
    return spelled_options(question.question) if question.question else ()


def accepted_texts(gold: Any) -> tuple[str, ...]:
    """The right answers that a JSON value stands for: items of a list, both words of a truth value, none of null."""
    if isinstance(gold, str):
        return (gold,)
    if isinstance(gold, bool):
        return ("true", "yes") if gold else ("false", "no")
    if isinstance(gold, int | float):
        return (str(gold),)
    if isinstance(gold, list | tuple):
        return tuple(text for item in gold if not isinstance(item, list | tuple) for text in accepted_texts(item))
    return ()


def _compare(predicted: str, gold: str, modes: tuple[str, ...]) -> Finding:
    """What the checks named by `modes` find without algebra."""
    if not KNOWN_MODES.issuperset(modes):
        unknown = sorted(set(modes) - KNOWN_MODES)
        raise ValueError(f"unknown checks {unknown}; known are {sorted(KNOWN_MODES)}")
    if not modes:
        return Finding(predicted.strip() == gold.strip(), "same text")
    if "anls" in modes:
        return _compare_documents(read(predicted), read(gold))
    finding = compare(read(predicted), read(gold), _scope(modes))
    if finding.agree is None and _ALGEBRA_CHECKS.isdisjoint(modes):
        return Finding(False, DIFFERENT)
    return finding


def _scope(modes: tuple[str, ...]) -> Scope:
    return RELAXED if modes == ("relaxed_accuracy",) else TOP


def _compare_options(
    predicted: str, golds: tuple[str, ...], modes: tuple[str, ...], options: tuple[str, ...]
) -> Finding | None:
    """Whether the answer names the right option and no other; None where the answer, or the right one, is no option."""
    right = {letter_and_text[0] for gold in golds if (letter_and_text := right_answers(gold, options))}
    if not right:
        return None
    named = named_options(predicted, options, _scope(modes))
    return Finding({ascii_uppercase[index] for index in named} <= right, "option") if named else None


def _compare_documents(predicted: Reading, gold: Reading) -> Finding:
    if predicted.quantity and gold.quantity and predicted.quantity == gold.quantity:
        return Finding(True, "number")
    return Finding(documents_agree(predicted.text, gold.text), "ANLS")


_OUTCOMES = {True: Outcome.CORRECT, False: Outcome.WRONG, None: Outcome.UNDECIDED}


def _verdict(predicted: str, finding: Finding) -> Verdict:
    return Verdict(_OUTCOMES[finding.agree], predicted, finding.rule)


def _settled(verdict: Verdict | Future[Verdict], style: str) -> Verdict:
    settled = verdict if isinstance(verdict, Verdict) else verdict.result()
    return replace(settled, style=style) if style else settled
