"""Gold answers of many kinds, what must not be called equal to them, and spellings that must.

A gold answer comes with changes (one digit, sign, operator, bracket, root, unit or letter is another, or an order is
swapped) that make a different answer of it, and with respellings that make none. What is equal in spite of a change is
left out where it is made, by these rules: the order of a list, a set, a sum, a product and of the sides of an equation
means nothing; a bracket around a whole expression means nothing; a unit or a percent sign may be left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from answer_kinds import formulas, numbers, words
from answer_kinds.case import Case

KINDS = (*numbers.KINDS, *words.KINDS, *formulas.KINDS)

# Ways to write any answer; {0} is the answer.
WRAPPERS = (
    "{0}", " {0} ", "{0}.", "${0}$", "$ {0} $", r"\({0}\)", r"\[{0}\]", "**{0}**", "*{0}*", r"\boxed{{{0}}}",
    r"$\boxed{{{0}}}$", "$${0}$$", "The answer is {0}", "The answer is {0}.", "The answer is: {0}", "Answer: {0}",
    "So the answer is {0}.", "Thus, the answer is {0}", "Therefore, the final answer is {0}.", "Final answer: {0}",
    "The correct answer is {0}.", "The result is {0}", "The final answer is **{0}**.", "answer is {0}",
    "Answer: **{0}**", "**Answer: {0}**", "答案是{0}", "答案：{0}", "答案是：{0}。", "The answer is ${0}$.", "\n{0}\n",
    "The answer is: ${0}$",
)  # fmt: skip


def draw_cases(count: int, seed: int) -> Iterator[Case]:
    """`count` gold answers, the kinds in turn; equal seeds draw equal ones."""
    chance = random.Random(seed)
    for index in range(count):
        yield KINDS[index % len(KINDS)](chance)


def respellings(case: Case) -> list[str]:
    """Every spelling of a gold answer in every wrapper that fits it."""
    bare = [text for wrapper in WRAPPERS if fits(wrapper, case) for text in [wrapper.format(case.gold)]]
    return [*bare, *case.spellings, *(f"The answer is {spelling}." for spelling in case.spellings)]


def fits(wrapper: str, case: Case) -> bool:
    """Whether a wrapper may stand around the answer: no dollar signs around money, no mathematics around words."""
    return not ("$" in case.gold and ("$" in wrapper or "\\" in wrapper))
