"""Units of measure as factors and dimensions, so that 5 cm equals 50 mm and not 5 mm.

A unit is a factor and a product of powers of base units: `km/h` is 1000/3600 of `m s^-1`. A word that is no unit of
measure counts as one of its own ("7 apples" is 7 of the dimension `apple`), which keeps 7 apples apart from 7 pears.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_UNIT_CHARS = 40


@dataclass(frozen=True)
class Unit:
    """A factor times powers of base units; no powers at all is a bare number.

    Attributes:
        factor: how many of the base units one of this unit is.
        powers: (base unit, exponent) sorted by name, exponents never 0.
    """

    factor: Fraction
    powers: tuple[tuple[str, int], ...]


NO_UNIT = Unit(Fraction(1), ())

_TABLE = """
m: m meter metre 米 | 1/1000 mm millimeter millimetre 毫米 | 1/100 cm centimeter centimetre 厘米 公分
m: 1/10 dm 分米 | 1000 km kilometer kilometre 千米 公里 | 254/10000 in inch inches 英寸 | 3048/10000 ft foot feet 英尺
m: 9144/10000 yd yard | 1609344/1000 mi mile 英里 | 1/1000000 μm um micrometer | 1/1000000000 nm nanometer
g: g gram 克 | 1/1000 mg milligram 毫克 | 1000 kg kilogram kilo 千克 公斤 | 1000000 tonne ton 吨
g: 45359237/100000 lb lbs pound | 28349523125/1000000000 oz ounce
s: s sec second 秒 | 1/1000 ms millisecond 毫秒 | 60 min minute 分钟 | 3600 h hr hrs hour 小时 | 86400 day 天 日
s: 604800 week 周 | year: year yr 年 | 1/12 month mo 个月 | month: 月
l: L liter litre 升 | 1/1000 ml mL milliliter millilitre 毫升
°: ° deg degree degrees 度 | rad: rad radian | K: K kelvin
°C: °C ℃ degreecelsius degreescelsius celsius 摄氏度 | °F: °F degreefahrenheit degreesfahrenheit fahrenheit
USD: $ USD US$ dollar usdollar 美元 | 1/100 cent ¢ | EUR: € EUR euro 欧元 | GBP: £ GBP
INR: ₹ Rs INR rupee | MYR: RM MYR | ¥: ¥ yen JPY CNY RMB yuan 元 人民币
N: N newton 牛 牛顿 | 1000 kN | J: J joule 焦耳 | 1000 kJ | W: W watt 瓦 | 1000 kW | 1000000 MW
cal: cal calorie | 1000 kcal
V: V volt 伏 | 1/1000 mV | 1000 kV | A: A amp ampere 安 | 1/1000 mA | Ω: Ω ohm 欧 欧姆 | 1000 kΩ
Hz: Hz hertz 赫兹 | 1000 kHz | 1000000 MHz | Pa: Pa pascal 帕 | 1000 kPa | mol: mol mole 摩尔
B: byte | 1024 KB | 1048576 MB | 1073741824 GB | ppm: ppm | dB: dB | ha: ha hectare
"""
_BARE_WORDS = "unit units 个 只 条 张 人 次 辆 本 块 岁 位 名 种 件 单位"
_BARE = frozenset(_BARE_WORDS.split())
_COMPOUND = {
    "mph": "mi/h", "kmh": "km/h", "kph": "km/h", "fps": "ft/s", "cc": "cm^3", "sqft": "ft^2", "sqm": "m^2",
    "平方厘米": "cm^2", "平方米": "m^2", "平方分米": "dm^2", "平方千米": "km^2", "立方厘米": "cm^3", "立方米": "m^3",
    "米每秒": "m/s", "千米每小时": "km/h",
}  # fmt: skip
_POWER_WORD = re.compile(r"\b(square|sq\.?|cubic|cu\.?)\s*([A-Za-z]+)", re.IGNORECASE)
_FACTOR = re.compile(r"([^\d\s^*/{}()]+)\^?\{?\(?(-?\d)?\)?\}?")
_NOUNS = re.compile(r"[^\W\d_]{3,}(?: [a-z]{3,})?")
_COUNTED = re.compile("[个只条张人次辆本块位名种件]([一-鿿]{1,4})")
_NOT_NOUNS = """and are but cubed did does for from has her his isn its nor not off out over per plus squared than that
the then they thing times was were with wrong yes you"""


def _read_table(table: str) -> dict[str, tuple[Fraction, str]]:
    """Unit name -> (factor, base). A group is `base: [factor] names`; the groups after it share its base."""
    names: dict[str, tuple[Fraction, str]] = {}
    for line in table.strip().splitlines():
        base = ""
        for group in line.split(" | "):
            head, colon, rest = group.partition(": ")
            base, words = (head.strip(), rest.split()) if colon else (base, group.split())
            factor = Fraction(words.pop(0)) if words[0][0].isdigit() else Fraction(1)
            names.update((word, (factor, base)) for word in words)
    return names


_NAMES = _read_table(_TABLE)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """The unit that `text` spells, a count of things for plain nouns, or None for what is neither."""
    text = text.strip()
    if not text or text.split()[-1] in _BARE:
        return NO_UNIT
    if len(text) > MAX_UNIT_CHARS:
        return None
    return read_measure(text) or _nouns(text)


def read_measure(text: str) -> Unit | None:
    """The product of powers of known units that `text` spells, or None."""
    spelled = _POWER_WORD.sub(_power_sign, text).replace(" per ", "/").replace(".", "").replace("每", "/")
    joined = "".join(spelled.split())
    if joined.isalpha():  # one name in two words: degrees Celsius, US dollars
        return _product(joined)
    return _product("*".join(spelled.split())) or _product(joined)


def _product(compact: str) -> Unit | None:
    """Factors joined by `*` and `/`."""
    compact = _COMPOUND.get(compact) or _COMPOUND.get(compact.lower(), compact)
    factor, powers = Fraction(1), Counter[str]()
    for index, side in enumerate(compact.split("/")):
        for part in side.strip("()").split("*"):
            match = _FACTOR.fullmatch(part)
            known = _lookup(match[1]) if match else None
            if match is None or known is None:
                return None
            exponent = int(match[2] or 1) * (1 if index == 0 else -1)
            factor *= known[0] ** exponent
            powers[known[1]] += exponent
    return Unit(factor, tuple(sorted((base, exponent) for base, exponent in powers.items() if exponent)))


def _power_sign(match: re.Match[str]) -> str:
    return f"{match[2]}^{2 if match[1].lower().startswith('sq') else 3}"


def _lookup(name: str) -> tuple[Fraction, str] | None:
    for spelling in (name, name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("es")):
        if spelling in _NAMES:
            return _NAMES[spelling]
    return None


def _nouns(text: str) -> Unit | None:
    """Things that are counted: a noun, perhaps with an adjective before it, which does not count."""
    counted = _COUNTED.fullmatch(text)
    if counted:
        return Unit(Fraction(1), ((counted[1], 1),))
    words = text.lower().split()
    if not _NOUNS.fullmatch(text) or not set(words).isdisjoint(_NOT_NOUNS.split()):
        return None
    return Unit(Fraction(1), ((words[-1].removesuffix("s"), 1),))
