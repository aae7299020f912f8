"""Opposite words: two of them in a list come in an order, and one is no slip of the pen for the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

_PAIRS = """
increase decrease | rise fall | up down | left right | north south | east west | higher lower | high low | more less
more fewer | greater less | greater smaller | larger smaller | large small | big small | bigger smaller
longer shorter | long short | taller shorter | tall short | faster slower | fast slow | quicker slower
warmer colder | warmer cooler | hotter colder | hotter cooler | hot cold | warm cold | warm cool | heating cooling
heavier lighter | heavy light | stronger weaker | strong weak | thicker thinner | thick thin | wider narrower
wide narrow | deeper shallower | older younger | old young | old new | newer older | earlier later | early late
before after | first last | first second | top bottom | upper lower | front back | forward backward | inside outside
inner outer | above below | over under | on off | open closed | opened closed | true false | t f | yes no | y n
right wrong | correct incorrect | positive negative | plus minus | odd even | maximum minimum | max min | most least
best worst | better worse | good bad | same different | equal unequal | parallel perpendicular | vertical horizontal
clockwise counterclockwise | clockwise anticlockwise | convex concave | convergent divergent | converges diverges
expand contract | expands contracts | attract repel | attracts repels | attraction repulsion
exothermic endothermic | oxidation reduction | oxidized reduced | oxidised reduced | acid base | acidic basic
acidic alkaline | dominant recessive | male female | day night | summer winter | buy sell | buyer seller | gain loss
gains loses | gain lose | profit loss | win lose | wins loses | import export | imports exports | internal external
interior exterior | major minor | majority minority | debit credit | assets liabilities | income expense
employer employee | lessor lessee | grantor grantee | mortgagor mortgagee | licensor licensee | assignor assignee
payer payee | trainer trainee | north-facing south-facing | start end | begin end | beginning end | push pull
in out | enter exit | input output | absorb release | absorbed released | renewable nonrenewable | living nonliving
liquid solid | wet dry | dark light | bright dark | light dark | hard soft | rich poor | near far | nearer farther
closer farther | accept reject | accepted rejected | approve deny | approved denied | agree disagree | pass fail
passed failed | include exclude | included excluded | includes excludes | inclusive exclusive | former latter
with without | always never | can cannot | is isn't | was wasn't | 增大 减小 | 增加 减少 | 变大 变小 | 升高 降低
上升 下降 | 上 下 | 左 右 | 前 后 | 正 负 | 大 小 | 高 低 | 快 慢 | 冷 热 | 强 弱 | 对 错 | 正确 错误 | 是 否
东 西 | 南 北 | 变快 变慢 | 变强 变弱 | 变亮 变暗 | 左边 右边 | 上面 下面 | 男 女 | 吸热 放热 | 奇数 偶数 | 真 假
"""
_OPPOSITES = frozenset(frozenset(pair.split()) for line in _PAIRS.strip().splitlines() for pair in line.split(" | "))
_LETTER = re.compile(r"[^\W\d_]")
_ENDING = re.compile(r"(?:s|d|es|ed|ing|ion|e)$")
_NEGATING = re.compile(r"(?:un|in|im|il|ir|dis|non-?|anti|counter|de|mis|a|not )(?=[a-z]{3})")


def are_opposites(first: str, second: str) -> bool:
    """Whether two words or phrases say opposite things: they differ in one word, and that is an opposite."""
    left, right = first.casefold().split(), second.casefold().split()
    if len(left) != len(right):
        return first.casefold().removeprefix("not ") == second.casefold().removeprefix("not ")
    differing = [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and _opposite_words(*differing[0])


def any_opposites(items: Sequence[str]) -> bool:
    """Whether two of the items are opposites, so that the items are told apart by their places."""
    return _LETTER.search(" ".join(items)) is not None and any(
        are_opposites(first, second) for first, second in combinations(items, 2)
    )


def _opposite_words(first: str, second: str) -> bool:
    first, second = first.strip(".,;:"), second.strip(".,;:")
    if frozenset((first, second)) in _OPPOSITES:
        return True
    stems = (_ENDING.sub("", first), _ENDING.sub("", second))
    if frozenset(stems) in _STEMS and len(stems[0]) > 2:
        return True
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return len(shorter) > 3 and _NEGATING.sub("", longer, count=1) == shorter


_STEMS = frozenset(frozenset(_ENDING.sub("", word) for word in pair) for pair in _OPPOSITES)
