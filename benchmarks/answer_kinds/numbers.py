"""Numbers, amounts, ranges, dates and durations."""

from __future__ import annotations

import random

from answer_kinds.case import Case, Draw, another_digit

UNITS = (
    ("cm", "mm"), ("kg", "g"), ("m/s", "km/h"), ("hours", "minutes"), ("L", "mL"), ("kW", "MW"), ("mW",
    "MW"), ("N", "J"),
    ("V", "A"), ("m^2", "m^3"), ("°C", "°F"), ("apples", "pears"), ("dollars", "euros"), ("Hz", "kHz"), ("Pa", "kPa"),
)  # fmt: skip


def integer(chance: random.Random) -> Case:
    """A whole number."""
    value = chance.randint(11, 999_999)
    changes = (
        another_digit(chance, str(value)),
        f"-{value}",
        f"{value}0",
        f"1/{value}",
        f"{value}^2",
        f"\\sqrt{{{value}}}",
    )
    return Case(
        "integer", str(value), (f"{value:,}", f"{value}.0", f"+{value}"), (*changes, f"{value}!", f"({value},{value})")
    )


def decimal(chance: random.Random) -> Case:
    """A decimal fraction."""
    value = f"{chance.randint(1, 999)}.{chance.randint(11, 99)}"
    digits = another_digit(chance, value)
    return Case(
        "decimal", value, (f"{value}0", f"+{value}"), (digits, f"-{value}", value.replace(".", ""), f"{value}^2")
    )


def fraction(chance: random.Random) -> Case:
    """A common fraction."""
    above, below = chance.sample([2, 3, 5, 7, 11, 13, 17, 19, 23], 2)
    spellings = (rf"\frac{{{above}}}{{{below}}}", rf"\dfrac{{{above}}}{{{below}}}", rf"{above} / {below}")
    changes = (f"{below}/{above}", f"-{above}/{below}", f"{above}{below}", f"{above}*{below}", f"{above}-{below}")
    return Case(
        "fraction", f"{above}/{below}", spellings, (*changes, rf"\sqrt{{{above}/{below}}}", f"{above + 1}/{below}")
    )


def measure(chance: random.Random) -> Case:
    """A number with a unit."""
    value = chance.randint(11, 9999)
    unit, other = chance.choice(UNITS)
    changes = (f"{another_digit(chance, str(value))} {unit}", f"{value} {other}", f"-{value} {unit}", f"{value}%")
    return Case("measure", f"{value} {unit}", (f"{value}.0 {unit}", f"{value:,} {unit}"), changes)


def percent(chance: random.Random) -> Case:
    """A percentage."""
    value = chance.randint(11, 99)
    spellings = (f"{value} %", f"{value} percent", rf"{value}\%", f"{value / 100}")
    return Case(
        "percent",
        f"{value}%",
        spellings,
        (f"{another_digit(chance, str(value))}%", f"-{value}%", f"${value}", f"{value} kg"),
    )


def money(chance: random.Random) -> Case:
    """An amount of money."""
    value = chance.randint(11, 99_999)
    spellings = (f"${value:,}", f"${value}.00", f"{value} dollars", f"USD {value}", f"US${value}")
    return Case(
        "money",
        f"${value}",
        spellings,
        (f"${another_digit(chance, str(value))}", f"£{value}", f"-${value}", f"{value}%"),
    )


def span(chance: random.Random) -> Case:
    """A range or a score."""
    low = chance.randint(11, 80)
    high = low + chance.randint(5, 15)
    spellings = (
        f"{low} - {high}",
        f"{low}–{high}",
        f"{low} to {high}",
        f"from {low} to {high}",
        f"between {low} and {high}",
    )
    changes = (
        f"{low + 1}-{high + 1}",
        f"{high}-{low}",
        f"{low}-{high + 1}",
        f"{low}+{high}",
        f"{low}",
        f"{low}/{high}",
        f"{low}:{high}",
    )
    return Case("range", f"{low}-{high}", spellings, changes)


def size(chance: random.Random) -> Case:
    """Dimensions."""
    first, second = chance.sample(range(3, 40), 2)
    changes = (
        f"{second} x {first}",
        f"{2 * first} x {second}",
        f"{first} + {second}",
        f"{first * second} x 1",
        f"{first} x -{second}",
    )
    return Case(
        "size", f"{first} x {second}", (f"{first}x{second}", f"{first} × {second}", f"{first} by {second}"), changes
    )


def date(chance: random.Random) -> Case:
    """A day."""
    day, year = chance.randint(13, 28), chance.randint(1900, 2030)
    changes = (f"May {day}, {year + 1}", f"May {day - 1}, {year}", f"June {day}, {year}", f"{year}", f"May {day}")
    return Case(
        "date",
        f"May {day}, {year}",
        (f"{day} May {year}", f"{year}-05-{day}", f"{day}/5/{year}", f"May {day} {year}"),
        changes,
    )


def clock(chance: random.Random) -> Case:
    """A time of day, a compound duration."""
    hour, minute = chance.randint(1, 11), chance.randint(10, 50)
    spellings = (f"{hour} hours {minute} minutes", f"{60 * hour + minute} min", f"{hour} h {minute} min")
    changes = (
        f"{hour} h {minute + 1} min",
        f"{hour + 1} h {minute} min",
        f"{minute} min",
        f"{hour} min {minute} s",
        f"-{hour} h",
    )
    return Case("duration", f"{hour} h {minute} min", spellings, changes)


def scaled(chance: random.Random) -> Case:
    """A number in millions."""
    value = f"{chance.randint(2, 98)}.{chance.randint(1, 9)}"
    changes = (
        f"{value} billion",
        f"{another_digit(chance, value)} million",
        f"-{value} million",
        value,
        f"{value}k",
        f"{value}%",
    )
    return Case("scale", f"{value} million", (f"{value}M", f"{value} M", f"{int(float(value) * 10)}00000"), changes)


def based(chance: random.Random) -> Case:
    """A number of another base."""
    value = chance.randint(17, 4000)
    gold = f"0x{value:X}"
    return Case("base", gold, (f"0x{value:x}",), (f"0x{value + 1:X}", f"0b{value:b}", f"{value:X}", f"-{gold}", "0"))


KINDS: tuple[Draw, ...] = (integer, decimal, fraction, measure, percent, money, span, size, date, clock, scaled, based)
