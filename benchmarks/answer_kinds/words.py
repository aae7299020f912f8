"""Options, phrases and names."""

from __future__ import annotations

import random

from answer_kinds.case import Case, Draw, another_letter

_WORDS = "river bridge garden window engine market island planet bottle signal ladder mirror candle basket carpet"
WORDS = _WORDS.split()
NAMES = "abkmnpqrtuvwyz"


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


def polarity(chance: random.Random) -> Case:
    """Yes or no."""
    gold, other = chance.choice([("yes", "no"), ("no", "yes"), ("true", "false"), ("是", "否"), ("正确", "错误")])
    return Case(
        "yes or no",
        gold,
        (gold.title(), f"{gold}."),
        (other, f"not {gold}", f"{gold} and {other}", f"{gold} or {other}"),
    )


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


KINDS: tuple[Draw, ...] = (letter, order, words, opposites, labelled, polarity, name, chemical, genotype)
