"""Gold answers of many kinds, what must not be called equal to them, and spellings that must.

A gold answer comes with changes (one digit, sign, operator, bracket, root, unit or letter is another, or an order is
swapped) that make a different answer of it, and with respellings that make none. What is equal in spite of a change is
left out where it is made, by these rules: the order of a list, a set, a sum, a product and of the sides of an equation
means nothing; a bracket around a whole expression means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_WORDS = "river bridge garden window engine market island planet bottle signal ladder mirror candle basket carpet"
WORDS = _WORDS.split()
NAMES = "abkmnpqrtuvwyz"
UNITS = (
    ("cm", "mm"), ("kg", "g"), ("m/s", "km/h"), ("hours", "minutes"), ("L", "mL"), ("kW", "MW"), ("mW", "MW"), ("N", "J"),
    ("V", "A"), ("m^2", "m^3"), ("°C", "°F"), ("apples", "pears"), ("dollars", "euros"), ("Hz", "kHz"), ("Pa", "kPa"),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A gold answer.

    Attributes:
        kind: of answer.
        gold: its text.
        spellings: the same in other words of its own kind.
        changes: different answers.
    """

    kind: str
    gold: str
    spellings: tuple[str, ...]
    changes: tuple[str, ...]


Draw = Callable[[random.Random], Case]

# Ways to write any answer; {0} is the answer.
WRAPPERS = (
    "{0}", " {0} ", "{0}.", "${0}$", "$ {0} $", r"\({0}\)", r"\[{0}\]", "**{0}**", "*{0}*", r"\boxed{{{0}}}",
    r"$\boxed{{{0}}}$", "$${0}$$", "The answer is {0}", "The answer is {0}.", "The answer is: {0}", "Answer: {0}",
    "So the answer is {0}.", "Thus, the answer is {0}", "Therefore, the final answer is {0}.", "Final answer: {0}",
    "The correct answer is {0}.", "The result is {0}", "The final answer is **{0}**.", "answer is {0}", "Answer: **{0}**",
    "**Answer: {0}**", "答案是{0}", "答案：{0}", "答案是：{0}。", "The answer is ${0}$.", "\n{0}\n", "The answer is: ${0}$",
)  # fmt: skip


def another_digit(chance: random.Random, text: str) -> str:
    """`text` with one digit changed; a leading one does not become 0."""
    places = [place for place, character in enumerate(text) if character.isdigit()]
    place = chance.choice(places)
    leading = place == 0 or not (text[place - 1].isdigit() or text[place - 1] in ".,")
    digit = chance.choice([d for d in "123456789" + "0" * (not leading) if d != text[place]])
    return text[:place] + digit + text[place + 1 :]


def another_letter(chance: random.Random, word: str) -> str:
    """`word` with one letter changed."""
    place = chance.randrange(len(word))
    letter = chance.choice([letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter != word[place]])
    return word[:place] + letter + word[place + 1 :]


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


def letter(chance: random.Random) -> Case:
    """An option."""
    gold, other = chance.sample("ABCDEFGH", 2)
    text = f"{chance.choice(WORDS)} {chance.randint(1, 99)}"
    spellings = (f"({gold})", f"{gold})", f"{gold}. {text}", f"({gold}) {text}", f"Option {gold}", gold.lower())
    changes = (
        other,
        f"({other})",
        f"{other}. {text}",
        f"{gold} - 5",
        f"({gold})^2",
        f"{gold}{other}",
        f"not {gold}",
        f"{gold} or {other}",
    )
    return Case("letter", gold, spellings, changes)


def order(chance: random.Random) -> Case:
    """Letters in an order of their own."""
    letters = list("ABCD")
    while letters == sorted(letters):
        chance.shuffle(letters)
    swapped = letters.copy()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    gold = "".join(letters)
    return Case("order", gold, (", ".join(letters),), ("".join(swapped), "ABCD", gold[:-1], gold[::-1]))


def words(chance: random.Random) -> Case:
    """A phrase."""
    first, second, third = chance.sample(WORDS, 3)
    gold = f"{first} {second}"
    changes = (
        f"{another_letter(chance, first)} {second}",
        f"{second} {first}",
        f"{first} {third}",
        first,
        f"not {gold}",
        f"no {gold}",
    )
    return Case("words", gold, (gold.title(), f"the {gold}", gold.upper(), f'"{gold}"'), changes)


def opposites(chance: random.Random) -> Case:
    """Two opposites in their order."""
    first, second = chance.choice(
        [
            ("higher", "lower"),
            ("true", "false"),
            ("left", "right"),
            ("increases", "decreases"),
            ("yes", "no"),
            ("hotter", "colder"),
        ]
    )
    return Case(
        "opposites",
        f"{first}, {second}",
        (f"{first.title()}, {second}", f"{first} and {second}"),
        (f"{second}, {first}", f"{first}, {first}", f"{second}, {second}"),
    )


def listing(chance: random.Random) -> Case:
    """Numbers in any order."""
    values = chance.sample(range(11, 999), 3)
    gold = ", ".join(map(str, values))
    spellings = (", ".join(map(str, values[::-1])), f"{values[0]}, {values[1]} and {values[2]}", rf"\{{{gold}\}}")
    changed = another_digit(chance, str(values[1]))
    changes = (
        f"{values[0]}, {changed}, {values[2]}",
        f"{values[0]}, {values[1]}",
        f"{values[0]}, -{values[1]}, {values[2]}",
        gold + ", 7",
    )
    return Case("list", gold, spellings, changes)


def point(chance: random.Random) -> Case:
    """A point of the plane."""
    first, second = chance.sample(range(2, 60), 2)
    spellings = (
        f"({first}, {second})",
        rf"\left({first}, {second}\right)",
        f"(x,y) = ({first},{second})",
        f"P({first},{second})",
    )
    changes = (
        f"({second},{first})",
        f"({first},-{second})",
        f"[{first},{second}]",
        f"({first},{second}]",
        f"({first},{second + 1})",
        f"{first}{second}",
    )
    return Case("point", f"({first},{second})", spellings, changes)


def interval(chance: random.Random) -> Case:
    """An interval."""
    low = chance.randint(-20, 5)
    high = low + chance.randint(2, 30)
    spellings = (
        rf"[{low}, {high})",
        rf"\left[{low}, {high}\right)",
        f"{low} <= x < {high}",
        rf"{low} \le x < {high}",
        f"{{x | {low} ≤ x < {high}}}",
    )
    changes = (
        f"({low},{high})",
        f"[{low},{high}]",
        f"({low},{high}]",
        f"[{low},{high + 1})",
        f"[{high},{low})",
        f"x>{low}",
        f"[{low},\\infty)",
    )
    return Case("interval", f"[{low},{high})", spellings, changes)


def name(chance: random.Random) -> Case:
    """A name with a subscript."""
    first, other = chance.sample(NAMES, 2)
    digit = chance.randint(1, 8)
    gold = f"{first}{digit}"
    changes = (
        f"{other}{digit}",
        f"{first}{digit + 1}",
        f"{digit}{first}",
        f"2{gold}",
        f"-{gold}",
        f"{first}^{digit}",
        first.upper() + str(digit),
        first,
    )
    return Case("name", gold, (f"{first}_{digit}", f"{first}_{{{digit}}}"), changes)


def chemical(chance: random.Random) -> Case:
    """A chemical formula."""
    first, second = chance.sample(["N", "C", "Fe", "Al", "P", "S"], 2)
    one, two = chance.sample(range(2, 9), 2)
    gold = f"{first}{one}{second}{two}"
    changes = (
        f"{first}{two}{second}{one}",
        f"{second}{two}{first}{one}",
        f"{first}{one}{second}",
        f"{first}{one + 1}{second}{two}",
        f"2{gold}",
    )
    return Case("chemical", gold, (f"{first}_{one}{second}_{two}", rf"\mathrm{{{first}_{one}{second}_{two}}}"), changes)


def genotype(chance: random.Random) -> Case:
    """A genotype."""
    gene = chance.choice("ABDEGHRT")
    gold = gene + gene.lower()
    return Case("genotype", gold, (rf"\text{{{gold}}}",), (gene * 2, gene.lower() * 2, "Ss"))


def value_of_function(chance: random.Random) -> Case:
    """What a function is somewhere."""
    at, value = chance.sample(range(2, 30), 2)
    gold = f"f({at})={value}"
    changes = (
        f"f({at + 1})={value}",
        f"f({at})={value + 1}",
        f"g({at})={value}",
        f"f({2 * at})={2 * value}",
        f"f({at})=-{value}",
        f"f(-{at})={value}",
    )
    return Case("function value", gold, (f"f({at}) = {value}", f"{value} = f({at})"), changes)


def based(chance: random.Random) -> Case:
    """A number of another base."""
    value = chance.randint(17, 4000)
    gold = f"0x{value:X}"
    return Case("base", gold, (f"0x{value:x}",), (f"0x{value + 1:X}", f"0b{value:b}", f"{value:X}", f"-{gold}", "0"))


def polynomial(chance: random.Random) -> Case:
    """A polynomial."""
    first, second, third = (chance.randint(2, 19) for _ in range(3))
    gold = f"{first}x^2+{second}x-{third}"
    changes = (
        f"{first + 1}x^2+{second}x-{third}", f"{first}x^2-{second}x-{third}", f"{first}x^2+{second}x+{third}", f"{first}x^3+{second}x-{third}",
        f"{first}y^2+{second}y-{third}", f"{first}(x^2+{second}x-{third})", f"{first}x^2+{second}x", f"-({gold})",
    )  # fmt: skip
    return Case(
        "polynomial", gold, (f"{second}x + {first}x^2 - {third}", f"-{third}+{first}x^{{2}}+{second}x"), changes
    )


def root(chance: random.Random) -> Case:
    """A root with a factor."""
    factor, radicand = chance.randint(2, 9), chance.choice([2, 3, 5, 6, 7, 10, 11, 13])
    gold = rf"{factor}\sqrt{{{radicand}}}"
    changes = (
        rf"{factor + 1}\sqrt{{{radicand}}}", rf"{factor}\sqrt{{{radicand + 1}}}", rf"-{gold}", f"{factor * radicand}",
        rf"{factor}\sqrt[3]{{{radicand}}}", rf"{factor}+\sqrt{{{radicand}}}", rf"\frac{{{factor}}}{{\sqrt{{{radicand}}}}}",
    )  # fmt: skip
    return Case(
        "root",
        gold,
        (
            rf"\sqrt{{{factor**2 * radicand}}}",
            f"{factor}√{radicand}",
            rf"{factor} \cdot \sqrt{{{radicand}}}",
            f"{factor}sqrt({radicand})",
        ),
        changes,
    )


def circle(chance: random.Random) -> Case:
    """A multiple of pi."""
    factor = chance.randint(2, 99)
    spellings = (f"{factor}π", rf"{factor} \pi", rf"{factor}\cdot\pi", f"{factor}π square units")
    return Case(
        "pi",
        rf"{factor}\pi",
        spellings,
        (
            rf"{factor + 1}\pi",
            rf"-{factor}\pi",
            str(factor),
            rf"\frac{{{factor}}}{{\pi}}",
            rf"{factor}\pi^2",
            rf"{factor}+\pi",
        ),
    )


def equation(chance: random.Random) -> Case:
    """A line."""
    slope, shift = chance.randint(2, 19), chance.randint(2, 19)
    changes = (
        f"y={slope + 1}x+{shift}",
        f"y={slope}x-{shift}",
        f"y=-{slope}x+{shift}",
        f"x={slope}y+{shift}",
        f"y={slope}x^2+{shift}",
        f"y<{slope}x+{shift}",
        f"y={shift}x+{slope}" if slope != shift else "y=1",
    )
    return Case(
        "equation",
        f"y={slope}x+{shift}",
        (f"y = {slope}x + {shift}", f"{slope}x+{shift}=y", f"y-{slope}x={shift}", f"y={shift}+{slope}x"),
        changes,
    )


def inequality(chance: random.Random) -> Case:
    """A condition on one variable."""
    bound = chance.randint(2, 99)
    changes = (
        f"x<{bound}",
        f"x>={bound}",
        f"x>{bound + 1}",
        f"x>-{bound}",
        f"y>{bound}",
        f"x={bound}",
        str(bound),
        f"x≠{bound}",
    )
    return Case(
        "inequality",
        f"x>{bound}",
        (f"x > {bound}", f"{bound}<x", rf"({bound},\infty)", f"{{x | x > {bound}}}"),
        changes,
    )


def chain(chance: random.Random) -> Case:
    """An order of names."""
    first, second, third = (f"f({value})" for value in chance.sample(range(1, 9), 3))
    changes = (
        f"{second}<{first}<{third}",
        f"{first}<{third}<{second}",
        f"{first}>{second}>{third}",
        f"{first}<{second}={third}",
        f"{first}<{second}",
    )
    return Case(
        "chain", f"{first}<{second}<{third}", (f"{first} < {second} < {third}", f"{third}>{second}>{first}"), changes
    )


def labelled(chance: random.Random) -> Case:
    """Parts with labels."""
    first, second = chance.sample(range(2, 99), 2)
    changes = (
        f"(a) {second} (b) {first}",
        f"(a) {first} (b) {second + 1}",
        f"(a) {first}",
        f"(a) -{first} (b) {second}",
    )
    return Case(
        "labelled",
        f"(a) {first} (b) {second}",
        (f"(a) {first}; (b) {second}", f"a) {first} b) {second}", f"{first}, {second}"),
        changes,
    )


def matrix(chance: random.Random) -> Case:
    """A matrix."""
    a, b, c, d = chance.sample(range(1, 60), 4)
    changes = (
        rf"\begin{{pmatrix}}{b}&{a}\\{c}&{d}\end{{pmatrix}}", rf"\begin{{pmatrix}}{a}&{b}\\{c}&-{d}\end{{pmatrix}}",
        rf"\begin{{vmatrix}}{a}&{b}\\{c}&{d}\end{{vmatrix}}", rf"\begin{{pmatrix}}{a}&{c}\\{b}&{d}\end{{pmatrix}}",
    )  # fmt: skip
    spellings = (
        rf"\begin{{bmatrix}}{a} & {b} \\ {c} & {d}\end{{bmatrix}}",
        rf"\left(\begin{{array}}{{cc}}{a} & {b} \\ {c} & {d}\end{{array}}\right)",
    )
    return Case("matrix", rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}", spellings, changes)


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


def polarity(chance: random.Random) -> Case:
    """Yes or no."""
    gold, other = chance.choice([("yes", "no"), ("no", "yes"), ("true", "false"), ("是", "否"), ("正确", "错误")])
    return Case(
        "yes or no",
        gold,
        (gold.title(), f"{gold}."),
        (other, f"not {gold}", f"{gold} and {other}", f"{gold} or {other}"),
    )


KINDS: tuple[Draw, ...] = (
    integer, decimal, fraction, measure, percent, money, span, size, letter, order, words, opposites, listing, point, interval,
    name, chemical, genotype, value_of_function, based, polynomial, root, circle, equation, inequality, chain, labelled, matrix,
    date, clock, scaled, polarity,
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
