"""Recipes: which data sets of a meta.json count how much, by patterns over their names.

    {"about": "...", "rules": [{"match": "*_format_rules", "rows": 40000, "source": "ours: ..."}, ...]}

A data set follows the first rule whose `match` (a pattern, or a list of them) fits its name. A rule says one of

    rows         so many pairs an epoch of all its data sets together, each giving the same share of its rows
    share        so large a part of the whole mixture, 0 to 1
    repeat_time  of each

and `source`: who published the figure, or that it is ours. Data sets that no rule fits are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

from internvl_chat.data.mixture import repeated_count
from internvl_chat.records.meta import MAX_REPEATS
from internvl_chat.records.rows import shown

AMOUNTS = ("rows", "share", "repeat_time")
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Rule:
    """One rule: patterns, how much ("rows", "share" or "repeat_time"), the figure, and where it comes from."""

    match: tuple[str, ...]
    amount: str
    value: Fraction
    source: str

    def fits(self, name: str) -> bool:
        """Whether a data set follows it."""
        return any(fnmatchcase(name, pattern) for pattern in self.match)


def read_recipe(path: Path) -> list[Rule]:
    """The rules of a recipe file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no recipe; names the rule and the field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe; data/recipes/ has those that come with the code")
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    rules = recipe.get("rules") if isinstance(recipe, dict) else None
    if not isinstance(rules, list) or not rules:
        raise ValueError(f'{path}: a recipe is {{"about": "..", "rules": [..]}}, see data/recipes/')
    return [_rule(entry, f"{path}: rule {number}") for number, entry in enumerate(rules, 1)]


def parse_setting(text: str) -> Rule:
    """A rule from the command line: `PATTERN=0.5`, `PATTERN=rows:40000`, `PATTERN=share:0.1`.

    Raises:
        ValueError: it is none of these.
    """
    pattern, _, value = text.rpartition("=")
    amount, _, figure = value.rpartition(":")
    entry = {"match": pattern, amount or "repeat_time": _number(figure), "source": "the command line"}
    return _rule(entry, f"--set {text}")


def _number(text: str) -> float | str:
    """A number where the text is one; else the text, for the message."""
    try:
        return float(text)
    except ValueError:
        return text


def _rule(entry: Any, at: str) -> Rule:
    """One rule, checked; ValueError names what is wrong."""
    if not isinstance(entry, dict) or len(amounts := [name for name in AMOUNTS if name in entry]) != 1:
        raise ValueError(f"{at}: must say one of {', '.join(AMOUNTS)}, not {shown(entry)}")
    match = [entry.get("match")] if isinstance(entry.get("match"), str) else entry.get("match")
    if not isinstance(match, list) or not all(isinstance(pattern, str) and pattern for pattern in match) or not match:
        raise ValueError(f"{at}: 'match' must be a pattern such as '*_format_rules', or a list, not {shown(match)}")
    if not isinstance(entry.get("source"), str) or not entry["source"].strip():
        raise ValueError(f"{at}: 'source' must say where the figure comes from, or that it is yours")
    [amount], value = amounts, entry[amounts[0]]
    most = 1 if amount == "share" else math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf or value > most:
        raise ValueError(f"{at}: {amount!r} must be a number from 0{' to 1' if most == 1 else ''}, not {shown(value)}")
    return Rule(tuple(match), amount, Fraction(str(value)), entry["source"])


def assign(rules: Sequence[Rule], rows: Mapping[str, int]) -> dict[str, Rule]:
    """The rule of every data set that one fits.

    Args:
        rules: the first that fits counts.
        rows: name -> rows of its file.

    Raises:
        ValueError: a rule fits no data set; names what is near.
    """
    chosen = {name: rule for name in rows if (rule := next((one for one in rules if one.fits(name)), None)) is not None}
    for rule in rules:
        if not any(rule.fits(name) for name in rows):
            wanted = ", ".join(rule.match)
            near = get_close_matches(rule.match[0].strip("*"), rows, SHOWN, 0.3) or list(rows)[:SHOWN]
            raise ValueError(f"no data set is named {wanted}; there are {', '.join(near)}, ..")
    return chosen


def repeat_times(rules: Sequence[Rule], rows: Mapping[str, int]) -> dict[str, float]:
    """The `repeat_time` of every data set that a rule fits; `rows` of a rule come out exactly.

    Raises:
        ValueError: a rule fits nothing, shares leave no room for the rest, or a data set would repeat too often.
    """
    chosen = assign(rules, rows)
    sizes = {id(rule): sum(rows[name] for name, one in chosen.items() if one is rule) for rule in rules}
    wanted = {id(rule): _wanted(rule, sizes[id(rule)]) for rule in rules if rule.amount != "share"}
    shares = sum(rule.value for rule in rules if rule.amount == "share" and sizes[id(rule)])
    if shares >= 1 and wanted:
        raise ValueError(f"shares of {float(shares):g} leave no room for the other data sets")
    whole = sum(wanted.values()) / (1 - shares) if shares < 1 else Fraction(sum(sizes.values()))
    wanted |= {id(rule): round(whole * rule.value) for rule in rules if rule.amount == "share"}
    times: dict[str, float] = {}
    for rule in dict.fromkeys(chosen.values()):
        names = [name for name, one in chosen.items() if one is rule]
        if rule.amount == "repeat_time":
            times |= {name: _plain(float(rule.value)) for name in names}
        else:
            times |= _spread(int(wanted[id(rule)]), {name: rows[name] for name in names})
    if too_often := [name for name, repeat in times.items() if repeat > MAX_REPEATS]:
        raise ValueError(f"{too_often[0]} would be repeated more than {MAX_REPEATS:,} times: ask for fewer rows")
    return {name: times[name] for name in rows if name in times}


def _wanted(rule: Rule, size: int) -> int:
    """Pairs an epoch that a rule asks for of its `size` rows."""
    return math.floor((rule.value if rule.amount == "rows" else rule.value * size) + Fraction(1, 2))


def _spread(wanted: int, rows: Mapping[str, int]) -> dict[str, float]:
    """Repeat times by which data sets give `wanted` pairs together, each the same share of its rows."""
    size = sum(rows.values())
    parts = {name: Fraction(wanted * count, size) if size else Fraction(0) for name, count in rows.items()}
    counts = {name: math.floor(part) for name, part in parts.items()}
    order = sorted(rows, key=lambda name: parts[name] - counts[name], reverse=True)
    for name in order[: wanted - sum(counts.values()) if size else 0]:
        counts[name] += 1
    return {name: _exact(counts[name], rows[name]) for name in rows}


def _exact(count: int, rows: int) -> float:
    """The shortest decimal r with round-half-up(r rows) == count."""
    if not rows or count % rows == 0:
        return count // rows if rows else 0
    for digits in range(3, 17):
        repeat = float(f"{count / rows:.{digits}g}")
        if repeated_count(rows, repeat) == count:
            return repeat
    raise AssertionError(f"{count} of {rows} rows")


def _plain(value: float) -> float:
    """2 instead of 2.0, as people write it."""
    return int(value) if value == int(value) else value
