"""Names whose letters, digits and case mean something: chemical formulas, genotypes, codes, numbers in other bases."""

from __future__ import annotations

import re

_ELEMENT_NAMES = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb
Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg
Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu
"""
_ELEMENTS = frozenset(_ELEMENT_NAMES.split())
_ATOM = re.compile(r"([A-Z][a-z]?)(\d*)|[()]\d*")
_GENOTYPE = re.compile(r"(?:([A-Za-z])(?i:\1)){1,4}")
_GAMETE = re.compile(r"[A-Za-z]{2,4}")
_CODE = re.compile(r"[A-Za-z\d]*[A-Za-z]\d+[A-Za-z][A-Za-z\d]*")
_BASED = re.compile(r"(?<![\d.])0(?:[xX][0-9A-Fa-f]|[bB][01]|[oO][0-7])[0-9A-Fa-f]*")
_COMMON_WORDS = "am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we ad am pm tv uk eu ph"
_TWO_LETTER_WORDS = frozenset(_COMMON_WORDS.split())


def is_compound(text: str) -> bool:
    """Whether `text` is a chemical formula: at least two symbols of elements, with their numbers."""
    text = text.replace("_", "").replace("{", "").replace("}", "")
    atoms = list(_ATOM.finditer(text))
    symbols = [atom[1] for atom in atoms if atom[1]]
    return len(symbols) > 1 and "".join(atom[0] for atom in atoms) == text and _ELEMENTS.issuperset(symbols)


def is_code(text: str) -> bool:
    """Whether letters follow digits that follow letters, without a space or an operator: A1B2, C2H5OH, 2x3y."""
    return _CODE.fullmatch(text) is not None


def is_based(text: str) -> bool:
    """Whether a number of another base is in `text`: 0x7E, 0b1001."""
    return _BASED.search(text) is not None


def case_differs(first: str, second: str) -> bool:
    """Whether two spellings that differ in case only mean different things: Gg and GG, CO and Co."""
    if first == second or first.casefold() != second.casefold():
        return False
    if " " in first:
        return any(map(case_differs, first.split(), second.split()))
    if _GENOTYPE.fullmatch(first) or (is_compound(first) and is_compound(second)):
        return True
    return any(_is_odd(text) for text in (first, second))


def _is_odd(text: str) -> bool:
    """Whether a short word mixes cases as words do not: aB, pH; or is two letters and no common word."""
    if _GAMETE.fullmatch(text) is None:
        return False
    natural = text.islower() or text.isupper() or text.istitle() or is_compound(text)
    return not natural or (len(text) == 2 and text.casefold() not in _TWO_LETTER_WORDS)
