"""Units of measure as factors and dimensions, so that 5 cm equals 50 mm and not 5 mm.

A unit is a factor and a product of powers of base units: `km/h` is 1000/3600 of `m s^-1`, `N` is `kg m s^-2`. Symbols
take the SI prefixes and keep their case (mW is not MW); names do not. A word that is no unit of measure counts as one
of its own ("7 apples" is 7 of the dimension `apple`), which keeps 7 apples apart from 7 pears.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_UNIT_CHARS = 40


@dataclass(frozen=True)
class Unit:
    """A factor times powers of base units, from an offset; no powers at all is a bare number.

    Attributes:
        factor: how many of the base units one of this unit is.
        powers: (base unit, exponent) sorted by name, exponents never 0.
        offset: base units at 0 of this unit, other than 0 for temperatures: 0 K is -273.15 °C.
    """

    factor: Fraction
    powers: tuple[tuple[str, int], ...]
    offset: Fraction = Fraction(0)


NO_UNIT = Unit(Fraction(1), ())

_PREFIXES = {"p": -12, "n": -9, "μ": -6, "u": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12}
# Symbols that take prefixes: symbol, factor, and the product of base units that it stands for.
_PREFIXED = """
m 1 m | g 1 g | s 1 s | A 1 A | mol 1 mol | N 1000 g m s^-2 | J 1000 g m^2 s^-2 | W 1000 g m^2 s^-3
Pa 1000 g m^-1 s^-2 | Hz 1 s^-1 | V 1000 g m^2 s^-3 A^-1 | Ω 1000 g m^2 s^-3 A^-2
L 1/1000 m^3 | l 1/1000 m^3 | eV 1 eV | cal 1 cal
Wh 3600000 g m^2 s^-2 | bar 100000000 g m^-1 s^-2
"""
# Names and symbols without prefixes: factor, base units, and after a colon the names.
_TABLE = """
1 m: meter metre 米 | 1/1000 m: millimeter millimetre 毫米 | 1/100 m: centimeter centimetre 厘米 公分
1/10 m: decimeter decimetre 分米 | 1000 m: kilometer kilometre 千米 公里 | 254/10000 m: in inch inches 英寸
3048/10000 m: ft foot feet 英尺 | 9144/10000 m: yd yard | 1609344/1000 m: mi mile 英里
1/1000000 m: um micrometer micrometre micron 微米 | 1/1000000000 m: nanometer nanometre 纳米
1 g: gram gramme 克 | 1/1000 g: milligram 毫克 | 1000 g: kilogram kilogramme kilo kgs 千克 公斤
1000000 g: tonne ton t 吨 | 500 g: 斤 | 45359237/100000 g: lb lbs pound | 45359237/1600000 g: oz ounce
1 s: sec second 秒 秒钟 | 1/1000 s: millisecond 毫秒 | 60 s: min minute 分钟 | 3600 s: h hr hrs hour 小时
86400 s: day 天 日 | 604800 s: week wk 周 星期 | 1 year: year yr yrs 年 | 1/12 year: month mo 个月 | 1 month: 月
1/1000 m^3: liter litre 升 公升 | 1/1000000 m^3: milliliter millilitre 毫升 cc
1 gallon: gallon gal | 1/4 gallon: quart qt | 1/8 gallon: pint pt
1 °: ° deg degree degrees 度 | 1 rad: rad radian 弧度
1 USD: $ USD US$ dollar buck usdollar 美元 | 1/100 USD: cent ¢ | 1 EUR: € EUR euro 欧元 | 1 GBP: £ GBP 英镑
1 INR: ₹ Rs INR rupee | 1 MYR: RM MYR | 1 ¥: ¥ yen JPY CNY RMB yuan 元 人民币 | 1/10 ¥: 角 | 1 KRW: ₩ KRW won
1000 g m s^-2: newton 牛 牛顿 | 1000 g m^2 s^-2: joule 焦耳 焦 | 1000000 g m^2 s^-2: kilojoule 千焦
1000 g m^2 s^-3: watt 瓦 瓦特 | 1000000 g m^2 s^-3: kilowatt 千瓦 | 1000000000 g m^2 s^-3: megawatt 兆瓦
3600000000 g m^2 s^-2: kilowatthour 千瓦时 度电 | 1 cal: calorie | 1000 cal: Cal kilocalorie 千卡 大卡
1000 g m^2 s^-3 A^-1: volt 伏 伏特 | 1 A: amp ampere 安 安培 | 1000 g m^2 s^-3 A^-2: ohm 欧 欧姆 | 1 A s: coulomb 库仑
1 s^-1: hertz 赫兹 | 1000 g m^-1 s^-2: pascal 帕 | 1000000 g m^-1 s^-2: kilopascal 千帕 | 1 mol: mole 摩尔
1 B: byte bytes | 1024 B: KB | 1048576 B: MB | 1073741824 B: GB | 1099511627776 B: TB | 1 bit: bit | 1 ppm: ppm
1 dB: dB decibel 分贝 | 10000 m^2: ha hectare 公顷 | 1 acre: acre
"""
_KELVIN = Unit(Fraction(1), (("°C", 1),), Fraction(-27315, 100))
_CELSIUS = Unit(Fraction(1), (("°C", 1),))
_FAHRENHEIT = Unit(Fraction(5, 9), (("°C", 1),), Fraction(-160, 9))
_TEMPERATURES = {
    **dict.fromkeys(("K", "kelvin", "开尔文"), _KELVIN),
    **dict.fromkeys(("°C", "℃", "degreecelsius", "degreescelsius", "celsius", "摄氏度"), _CELSIUS),
    **dict.fromkeys(("°F", "℉", "degreefahrenheit", "degreesfahrenheit", "fahrenheit", "华氏度"), _FAHRENHEIT),
}
_BARE_WORDS = "unit units 个 只 条 张 人 次 辆 本 块 岁 位 名 种 件 单位"
_BARE = frozenset(_BARE_WORDS.split())
_COMPOUND = {
    "mph": "mi/h", "kmh": "km/h", "kph": "km/h", "fps": "ft/s", "sqft": "ft^2", "sqm": "m^2", "mps": "m/s",
    "平方厘米": "cm^2", "平方米": "m^2", "平方分米": "dm^2", "平方千米": "km^2", "平方公里": "km^2", "平方毫米": "mm^2",
    "立方厘米": "cm^3", "立方米": "m^3", "立方分米": "dm^3", "米每秒": "m/s", "千米每小时": "km/h", "米/秒": "m/s",
    "千米/时": "km/h", "千米/小时": "km/h", "newtonmeter": "N*m", "newtonmetre": "N*m",
}  # fmt: skip
_POWER_WORD = re.compile(
    r"\b(square|sq\.?|cubic|cu\.?)\s*([A-Za-z]+)|\b([A-Za-z]+)\s+(squared|cubed)(?![A-Za-z])", re.IGNORECASE
)
_UNIT_START = re.compile(r"[^\x00-\x40\[-`{-\x7f]|[$(%]|/[^\d\s]")
_FACTOR = re.compile(r"([^\d\s^*/{}()]+)(?:\^?\{?\(?(-?\d)\)?\}?)?")
_NOUNS = re.compile(r"[A-Za-zÀ-ɏ]{3,}(?: [a-z]{3,})?")
_COUNTED = re.compile("[个只条张人次辆本块位名种件]([一-鿿]{1,4})")
_OTHER_WORDS = """
and are but cubed did does each every fewer for from greater has her his isn its less lower more nor not off
out over per plus squared than that the then they thing times was were with wrong yes you minus higher below above
under left remaining off short too many least most only half
"""
_NOT_NOUNS = frozenset(_OTHER_WORDS.split())


def _powers(words: list[str]) -> tuple[tuple[str, int], ...]:
    """`kg m s^-2` as powers of its base units."""
    pairs = (word.partition("^") for word in words)
    return tuple(sorted((base, int(exponent or 1)) for base, _, exponent in pairs))


def _groups(table: str) -> Iterator[list[str]]:
    return (group.split() for line in table.strip().splitlines() for group in line.split(" | "))


def _read_tables() -> dict[str, Unit]:
    """Every known spelling -> its unit. Names in the table win over a symbol with a prefix (min, ft, pt)."""
    names: dict[str, Unit] = {}
    for symbol, factor, *bases in _groups(_PREFIXED):
        unit = Unit(Fraction(factor), _powers(bases))
        for prefix, exponent in _PREFIXES.items():
            names[prefix + symbol] = Unit(unit.factor * Fraction(10) ** exponent, unit.powers)
        names[symbol] = unit
    for group in _groups(_TABLE):
        end = next(index for index, word in enumerate(group) if word.endswith(":"))
        bases = [word.rstrip(":") for word in group[1 : end + 1]]
        names.update(dict.fromkeys(group[end + 1 :], Unit(Fraction(group[0]), _powers(bases))))
    del names["pm"]  # half past three, not picometres
    return names | _TEMPERATURES


_NAMES = _read_tables()
_MIXED_CASE = frozenset({"kg", "km", "cm", "ml", "hr", "hrs", "ft", "in", "lb", "lbs", "oz", "hz", "db", "usd", "khz"})
"""Symbols that people write in any case and that no other case of means something else."""


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """The unit that `text` spells, a count of things for plain nouns, or None for what is neither."""
    text = text.strip()
    if not text or text.split()[-1].lower() in _BARE:
        return NO_UNIT
    if len(text) > MAX_UNIT_CHARS or not _UNIT_START.match(text):
        return None
    return read_measure(text) or _nouns(text)


@lru_cache(maxsize=4096)
def read_measure(text: str) -> Unit | None:
    """The product of powers of known units that `text` spells, or None."""
    spelled = _POWER_WORD.sub(_power_sign, text).replace(" per ", "/").replace(".", "").replace("每", "/")
    joined = "".join(spelled.split())
    if joined.isalpha():  # one name in two words: degrees Celsius, US dollars
        return _product(joined) or _product("*".join(spelled.split()))
    return _product("*".join(spelled.replace(" / ", "/").replace(" * ", "*").split())) or _product(joined)


def _product(compact: str) -> Unit | None:
    """Factors joined by `*`, `-` and `/`."""
    if compact in _NAMES:
        return _NAMES[compact]
    compact = _COMPOUND.get(compact) or _COMPOUND.get(compact.lower(), compact)
    factor, powers = Fraction(1), Counter[str]()
    for index, side in enumerate(compact.split("/")):
        for part in re.split(r"[*]|(?<=[A-Za-z])-(?=[A-Za-z])", side.strip("()")):
            match = _FACTOR.fullmatch(part)
            known = _lookup(match[1]) if match else None
            if match is None or known is None:
                return None
            if part == compact:
                return known if not match[2] else _raised(known, int(match[2]))
            exponent = int(match[2] or 1) * (1 if index == 0 else -1)
            factor *= known.factor**exponent
            powers.update({base: power * exponent for base, power in known.powers})
    return Unit(factor, _sorted(powers))


def _raised(unit: Unit, exponent: int) -> Unit:
    return Unit(unit.factor**exponent, _sorted(Counter({base: power * exponent for base, power in unit.powers})))


def _sorted(powers: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((base, exponent) for base, exponent in powers.items() if exponent))


def _power_sign(match: re.Match[str]) -> str:
    word, unit = (match[1], match[2]) if match[1] else (match[4], match[3])
    return f"{unit}^{2 if word.lower().startswith('sq') else 3}"


def _lookup(name: str) -> Unit | None:
    """A unit by its symbol in its own case, or by its name in any case and number."""
    if name in _NAMES:
        return _NAMES[name]
    lowered = name.lower()
    if len(name) < 4 and lowered not in _MIXED_CASE and lowered.removesuffix("s") not in _MIXED_CASE:
        return _NAMES.get(lowered) if not lowered.isascii() or len(name) == 3 and lowered.isalpha() else None
    spellings = (lowered, lowered.removesuffix("s"), lowered.removesuffix("es"))
    return next((_NAMES[spelling] for spelling in spellings if spelling in _NAMES), None)


def _nouns(text: str) -> Unit | None:
    """Things that are counted: a noun, perhaps with an adjective before it, which does not count."""
    counted = _COUNTED.fullmatch(text)
    if counted:
        return Unit(Fraction(1), ((counted[1], 1),))
    words = text.lower().split()
    if not _NOUNS.fullmatch(text) or not _NOT_NOUNS.isdisjoint(words):
        return None
    return Unit(Fraction(1), ((words[-1].removesuffix("s"), 1),))
