"""The pictures of the small visual-reasoning world: cards with coloured shapes, cards with numbers, bar charts.

A picture is one to three square cards of 2 x 2 cells, side by side or stacked, so that dynamic tiling cuts it into one
tile per card and one visual token covers one cell. Content, not chance, says to which split a picture belongs
(`Scene.is_held_out`): training and held-out sets share no picture, whatever their seeds and sizes.

    scene = draw_scene("shapes", random.Random(0))
    render(scene, cell=28, rng=random.Random(0)).save("scene.png")
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

Kind = Literal["shapes", "numbers", "bars"]
Box = tuple[float, float, float, float]

COLOURS = {"red": (214, 48, 49), "green": (39, 150, 70), "blue": (45, 88, 205), "yellow": (240, 190, 20)}
SHAPES = ("circle", "square", "triangle")
LAYOUTS = {(1, 1): 5, (2, 1): 2, (1, 2): 2, (3, 1): 1}  # (columns, rows) of cards: how often
CELLS_PER_CARD = 4
MAX_BAR = 5
MAX_NUMBER = 6
HELD_OUT_SHARE = 8
INK = (40, 40, 46)
GRID = (200, 200, 205)

# Which of the segments a..g of a seven-segment display are lit, and their ends on a 1 x 2 lattice.
LIT = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
SEGMENTS = {
    "a": (0, 0, 1, 0),
    "b": (1, 0, 1, 1),
    "c": (1, 1, 1, 2),
    "d": (0, 2, 1, 2),
    "e": (0, 1, 0, 2),
    "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}


@dataclass(frozen=True)
class Shape:
    """A thing in a cell: a colour of COLOURS and a shape of SHAPES."""

    colour: str
    shape: str

    def has(self, attribute: str) -> bool:
        """Whether `attribute` is this thing's colour or its shape."""
        return attribute in (self.colour, self.shape)


Item = Shape | int | None


@dataclass(frozen=True)
class Scene:
    """What a picture shows, without its size and its jitter.

    `cards` holds per card its four cells in reading order (shapes and numbers; None is an empty cell), card by card in
    reading order; `bars` holds (colour, height 1..MAX_BAR) from left to right. One of the two is empty.
    """

    kind: Kind
    columns: int
    rows: int
    cards: tuple[tuple[Item, ...], ...] = ()
    bars: tuple[tuple[str, int], ...] = ()

    @property
    def is_held_out(self) -> bool:
        """Whether pictures of this content belong to the held-out split: one in HELD_OUT_SHARE, by a checksum."""
        return zlib.crc32(repr(self).encode()) % HELD_OUT_SHARE == 0

    def counts(self, attribute: str) -> list[int]:
        """Per card, how many of its shapes have this colour or shape."""
        return [sum(isinstance(item, Shape) and item.has(attribute) for item in card) for card in self.cards]

    @property
    def numbers(self) -> list[int]:
        """The numbers on all cards, in reading order of the cards."""
        return [item for card in self.cards for item in card if isinstance(item, int)]


def draw_scene(kind: Kind, rng: random.Random) -> Scene:
    """A random scene of this kind."""
    columns, rows = rng.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
    if kind == "bars":
        colours = rng.sample(sorted(COLOURS), rng.randint(2, len(COLOURS)))
        return Scene(kind, columns, rows, bars=tuple((colour, rng.randint(1, MAX_BAR)) for colour in colours))
    draw_card = _number_card if kind == "numbers" else _shape_card
    return Scene(kind, columns, rows, cards=tuple(draw_card(columns * rows, rng) for _ in range(columns * rows)))


def _shape_card(_: int, rng: random.Random) -> tuple[Item, ...]:
    """Up to four shapes; a cell is empty one time in four."""
    shapes = [Shape(rng.choice(sorted(COLOURS)), rng.choice(SHAPES)) for _ in range(CELLS_PER_CARD)]
    return tuple(shape if rng.random() < 0.75 else None for shape in shapes)


def _number_card(cards: int, rng: random.Random) -> tuple[Item, ...]:
    """Two or three numbers where there is one card, one or two where there are two, one where there are three."""
    fewest = {1: 2, 2: 1, 3: 1}[cards]
    filled = set(rng.sample(range(CELLS_PER_CARD), min(fewest + rng.randint(0, 1), 4 - cards)))
    return tuple(rng.randint(1, MAX_NUMBER) if place in filled else None for place in range(CELLS_PER_CARD))


def render(scene: Scene, cell: int, rng: random.Random) -> Image.Image:
    """The scene as an RGB picture of 2 * cell * (columns, rows) pixels; `rng` gives background and jitter.

    Raises:
        ValueError: cells of fewer than 16 pixels, in which a tiny vision tower could not tell the shapes apart.
    """
    if cell < 16:
        raise ValueError(f"cell {cell}: at least 16 pixels are needed to tell shapes apart")
    size = (2 * cell * scene.columns, 2 * cell * scene.rows)
    image = Image.new("RGB", size, tuple(rng.randint(238, 255) for _ in range(3)))
    canvas = ImageDraw.Draw(image)
    if scene.kind == "bars":
        _draw_bars(canvas, scene, size)
    for index, card in enumerate(scene.cards):
        row, column = divmod(index, scene.columns)
        corner = (2 * cell * column, 2 * cell * row)
        canvas.rectangle((*corner, corner[0] + 2 * cell - 1, corner[1] + 2 * cell - 1), outline=GRID)
        for place, item in enumerate(card):
            _draw_item(canvas, item, _cell_box(corner, place, cell, rng))
    return image


def _cell_box(corner: tuple[int, int], place: int, cell: int, rng: random.Random) -> Box:
    """Where the item of cell `place` goes: the cell without its margin, moved and scaled a little."""
    size = cell * rng.uniform(0.62, 0.74)
    left = corner[0] + cell * (place % 2) + (cell - size) / 2 + rng.uniform(-0.06, 0.06) * cell
    top = corner[1] + cell * (place // 2) + (cell - size) / 2 + rng.uniform(-0.06, 0.06) * cell
    return left, top, left + size, top + size


def _draw_item(canvas: ImageDraw.ImageDraw, item: Item, box: Box) -> None:
    if isinstance(item, Shape):
        DRAW[item.shape](canvas, box, COLOURS[item.colour])
    elif item is not None:
        _draw_digit(canvas, item, box)


def _circle(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    canvas.ellipse(box, fill=colour)


def _square(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    canvas.rectangle(box, fill=colour)


def _triangle(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    canvas.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


DRAW: dict[str, Callable[[ImageDraw.ImageDraw, Box, tuple[int, int, int]], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
}


def _draw_digit(canvas: ImageDraw.ImageDraw, digit: int, box: Box) -> None:
    """A seven-segment digit, half as wide as high: no font, so every machine draws the same pixels."""
    left, top, right, bottom = box
    step = (bottom - top) / 2
    left = (left + right - step) / 2
    for name in LIT[digit]:
        x0, y0, x1, y1 = SEGMENTS[name]
        ends = (left + x0 * step, top + y0 * step, left + x1 * step, top + y1 * step)
        canvas.line(ends, fill=INK, width=max(2, math.ceil(step / 4)))


def _draw_bars(canvas: ImageDraw.ImageDraw, scene: Scene, size: tuple[int, int]) -> None:
    """Bars on a baseline, four places wide, with a line at every second unit."""
    width, height = size
    unit, place = height / (MAX_BAR + 1), width / len(COLOURS)
    for level in range(0, MAX_BAR + 1, 2):
        y = height - 1 - level * unit
        canvas.line((0, y, width, y), fill=GRID)
    for index, (colour, value) in enumerate(scene.bars):
        left = index * place + place / 6
        canvas.rectangle((left, height - 1 - value * unit, left + place * 2 / 3, height - 1), fill=COLOURS[colour])
