"""Speed of the answer checks on one core, on the mix that sampling gives, and how well deadlines are kept.

    python benchmarks/bench_answers.py                      # 4,000 questions, writes results/answers.json
    python benchmarks/bench_answers.py --questions 200      # the short form
    python benchmarks/bench_answers.py --against 824527c    # this tree and a commit by turns, answers_against.json

The mix: 32 sampled answers per question, about 7 of them distinct. 6 % of the distinct answers need algebra: 4.5 % are
formulas that differ in form from the gold one, 1.5 % are LaTeX-heavy (half of these nested roots and fractions, half
integrals and limits, which only the worker processes can compare). The rest are choices, numbers, words, dates and
lists. All values are drawn anew for each question, so nothing but a question's own repeats is remembered. Answers per
second and core are answers by seconds of processor time, of this process and of its workers with their start.

`overrun` is how long the answers that needed algebra took beyond their deadline: the bombs alone, and those of a mixed
stream asked one by one.
"""

from __future__ import annotations

import argparse
import ast
import calendar
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import output_in, tree_of, write_results

from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, Outcome, Question, modes_for_dataset

ANSWERS_PER_QUESTION = 32
WORDS = ("river", "bridge", "garden", "window", "engine", "market", "island", "planet", "bottle", "signal", "ladder")
MONTHS = calendar.month_name[1:]
BOMBS = ("9**9**9", r"\int e^{x^2}\sin(x^3) dx", "(" * 3000 + "1", "10^{10^{10}}", "x^" * 400 + "x", "1000000000!")

ROOT = Path(__file__).parents[1]
ROUNDS = 5  # of --against

Draw = Callable[[random.Random], tuple[str, list[str]]]


def choice(chance: random.Random) -> tuple[str, list[str]]:
    """An option letter in the spellings that models use."""
    gold, other = chance.sample("ABCDE", 2)
    text = f"{chance.choice(WORDS)} {chance.randint(1, 9999)}"
    spellings = (gold, f"({gold})", f"**{gold}**", f"{gold}. {text}", f"Option {gold}", rf"\text{{{gold}}}", f"{gold})")
    return gold, [
        *chance.sample(spellings, 5),
        other,
        f"{other}. {text}",
        f"({other}) {text}",
        f"The answer is {other}",
    ]


def number(chance: random.Random) -> tuple[str, list[str]]:
    """A number with and without separators, units and decimals."""
    value = chance.randint(1000, 999_999)
    unit = chance.choice(("cm", "kg", "dollars", "apples", "km/h"))
    wrong = [str(value + step) for step in (-10, -1, 1, 7, 100)]
    return f"{value} {unit}", [str(value), f"{value:,}", f"{value}.0 {unit}", f"**{value}**", *wrong]


def share(chance: random.Random) -> tuple[str, list[str]]:
    """A percentage, a decimal and a fraction."""
    value = chance.randint(1, 99)
    wrong = [f"{value + step}%" for step in range(1, 6)]
    return f"{value}%", [f"{value} percent", f"{value / 100}", rf"{value}\%", f"{value}/100", *wrong]


def words(chance: random.Random) -> tuple[str, list[str]]:
    """A phrase with articles, case, punctuation and other phrases."""
    first, second, third = chance.sample(WORDS, 3)
    tag = chance.randint(1, 99_999)
    gold = f"the {first} {second} {tag}"
    right = [f"{first} {second} {tag}", f"The {first.title()} {second} {tag}.", f'"{first} {second} {tag}"']
    return gold, [*right, *(f"{third} {word} {tag}" for word in WORDS[:6])]


def listing(chance: random.Random) -> tuple[str, list[str]]:
    """Several items in any order, a tuple in one order."""
    values = chance.sample(range(10_000), 3)
    gold = ", ".join(map(str, values))
    right = [", ".join(map(str, reversed(values))), f"{values[0]}, {values[1]} and {values[2]}", rf"\{{{gold}\}}"]
    return gold, [*right, *(f"{values[0]}, {values[1] + step}, {values[2]}" for step in range(1, 7))]


def date(chance: random.Random) -> tuple[str, list[str]]:
    """A date in words and in digits, yes or no beside it."""
    day, month, year = chance.randint(13, 28), chance.randint(1, 12), chance.randint(1900, 2030)
    right = [f"{day}/{month}/{year}", f"{MONTHS[month - 1][:3]} {day}, {year}", f"{day} {MONTHS[month - 1]} {year}"]
    return f"{MONTHS[month - 1]} {day}, {year}", [
        *right,
        *(f"{day}/{month}/{year + step}" for step in range(1, 6)),
        "no",
    ]


def formula(chance: random.Random) -> tuple[str, list[str]]:
    """A quadratic in factors and multiplied out: every answer takes values at sample points."""
    first, second, scale = chance.randint(2, 99), chance.randint(2, 99), chance.randint(2, 9)
    right = [
        f"{scale}x^2+{scale * (first + second)}x+{scale * first * second}",
        rf"{scale}\left(x+{second}\right)(x+{first})",
    ]
    return f"{scale}(x+{first})(x+{second})", [*right, *(f"{scale}x^2+{first + step}x+{second}" for step in range(7))]


def nested(chance: random.Random) -> tuple[str, list[str]]:
    """Roots and fractions in LaTeX."""
    first, second = chance.randint(2, 99), chance.randint(2, 99)
    gold = rf"\frac{{\sqrt{{{first}}}+\frac{{1}}{{{second}}}}}{{2}}"
    right = [
        rf"\dfrac{{1+{second}\sqrt{{{first}}}}}{{{2 * second}}}",
        rf"\frac{{\sqrt{{{4 * first}}}}}{{4}}+\frac{{1}}{{{2 * second}}}",
    ]
    return gold, [*right, *(rf"\frac{{\sqrt{{{first}}}+{step}}}{{{second}}}" for step in range(2, 9))]


def calculus(chance: random.Random) -> tuple[str, list[str]]:
    """Integrals, sums and limits left standing: every answer is one for sympy."""
    power, scale = chance.randint(2, 40), chance.randint(2, 99)
    right = [rf"\int_0^1 {scale}x^{{{power}}} dx", rf"\lim_{{x\to 0}}\frac{{{scale}\sin x}}{{{power + 1}x}}"]
    wrong = [rf"\int_0^1 {scale + step}x^{{{power}}} dx" for step in range(1, 8)]
    return rf"\frac{{{scale}}}{{{power + 1}}}", [*right, *wrong]


PLAIN: tuple[Draw, ...] = (choice, choice, number, share, words, listing, date)
WITH_ALGEBRA: Mapping[Draw, float] = {formula: 0.045, nested: 0.0075, calculus: 0.0075}


def questions(count: int, seed: int, *, algebra: bool) -> Iterator[list[Question]]:
    """The answers of `count` questions, new ones for each seed; without `algebra` only those that need none."""
    chance = random.Random(seed)
    modes = modes_for_dataset("mavis_bench" if algebra else "bench")
    for _ in range(count):
        kinds, weights = zip(*WITH_ALGEBRA.items(), strict=True)
        special = algebra and chance.random() < sum(weights)
        draw = chance.choices(kinds, weights)[0] if special else chance.choice(PLAIN)
        gold, candidates = draw(chance)
        likely = [2.0 ** -(index % 5) for index in range(len(candidates))]
        yield [Question(answer, gold, modes) for answer in chance.choices(candidates, likely, k=ANSWERS_PER_QUESTION)]


def descendants_cpu_seconds() -> float:
    """Processor time of all living processes that descend from this one."""
    waiting, ticks = [str(os.getpid())], 0
    while waiting:
        folder = Path("/proc") / waiting.pop()
        for children in folder.glob("task/*/children"):
            waiting.extend(children.read_text().split())
        if folder.name != str(os.getpid()):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(stream: list[list[Question]], *, repeats: bool) -> dict[str, Any]:
    """Answers per second over the stream, or over its distinct answers alone."""
    batch = [question for answers in stream for question in (answers if repeats else dict.fromkeys(answers))]
    begin, cpu = time.perf_counter(), time.process_time()
    with AnswerChecker() as checker:
        verdicts = list(checker.check_many(batch))
        seconds, workers_cpu = time.perf_counter() - begin, descendants_cpu_seconds()
    cpu = time.process_time() - cpu + workers_cpu
    rules = Counter(verdict.rule for verdict in verdicts)
    return {
        "answers": len(batch),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "cpu_seconds_of_workers": round(workers_cpu, 2),
        "answers_per_cpu_second": round(len(batch) / cpu),
        "correct": sum(verdict.outcome is Outcome.CORRECT for verdict in verdicts),
        "undecided": sum(verdict.outcome is Outcome.UNDECIDED for verdict in verdicts),
        "share_by_rule": {rule: round(count / len(verdicts), 4) for rule, count in rules.most_common()},
    }


def measure_overrun(stream: list[list[Question]], deadline_s: float) -> dict[str, Any]:
    """How far checks go beyond the deadline: expressions made to never end, and the answers of a stream one by one."""
    with AnswerChecker(deadline_s=deadline_s) as checker:
        checker.check(r"\int_0^1 x dx", "1/2")  # the first start of a worker is not under the deadline

        def longest(questions: Iterable[Question]) -> float:
            seconds = []
            for question in questions:
                begin = time.perf_counter()
                checker.check(question.predicted, question.gold, question.modes)
                seconds.append(time.perf_counter() - begin)
            return round(max(seconds), 3)

        return {
            "deadline_s": deadline_s,
            "bombs": len(BOMBS),
            "longest_bomb_s": longest(Question(bomb, "1") for bomb in BOMBS),
            "longest_of_stream_s": longest(question for answers in stream for question in dict.fromkeys(answers)),
        }


def measure_streams(count: int) -> dict[str, Any]:
    """The four streams of `count` questions."""
    return {
        "mixed": measure(list(questions(count, 0, algebra=True)), repeats=True),
        "mixed_distinct": measure(list(questions(count, 1, algebra=True)), repeats=False),
        "no_algebra": measure(list(questions(count, 2, algebra=False)), repeats=True),
        "no_algebra_distinct": measure(list(questions(count, 3, algebra=False)), repeats=False),
    }


def measure_against(commit: str, count: int) -> dict[str, Any]:
    """This tree and a commit by turns, each run in a process of its own: medians of CPU seconds, and their ratio."""
    with tree_of(commit) as before:
        runs = [[_run_in(tree, count) for tree in (before, ROOT)] for _ in range(ROUNDS)]
    figures: dict[str, Any] = {"against": commit, "rounds": ROUNDS, "questions": count}
    for stream in runs[0][0]:
        theirs, ours = ([run[side][stream]["cpu_seconds"] for run in runs] for side in (0, 1))
        figures[stream] = {
            "cpu_seconds_before": statistics.median(theirs),
            "cpu_seconds": statistics.median(ours),
            "speed": round(statistics.median(before / now for before, now in zip(theirs, ours, strict=True)), 3),
        }
    return figures


def _run_in(tree: Path, count: int) -> dict[str, dict[str, Any]]:
    """The streams' figures, by the short form of this benchmark as the tree has it."""
    lines = output_in(tree, "benchmarks/bench_answers.py", "--questions", str(count)).splitlines()
    figures = {name: ast.literal_eval(text) for name, text in (line.split(" ", 1) for line in lines)}
    return {name: figure for name, figure in figures.items() if "cpu_seconds" in figure}


def main() -> None:
    """Measure the streams and write the figures with the machine they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", type=int, help="questions per stream; without, the 4,000 of the committed result"
    )
    parser.add_argument("--against", metavar="COMMIT", help="compare this tree with a commit of it")
    args = parser.parse_args()
    count = args.questions or 4000
    if args.against:
        write_results("answers_against", measure_against(args.against, count))
        return
    overrun = measure_overrun(list(questions(count, 1, algebra=True)), deadline_s=1.0)
    figures = {**measure_streams(count), "overrun": overrun}
    if args.questions:
        for name, figure in figures.items():
            print(name, figure)
    else:
        write_results("answers", figures)


if __name__ == "__main__":
    main()
