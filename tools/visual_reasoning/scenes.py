"""The pictures of the small visual-reasoning world: four cells of coloured shapes, or a chart of four coloured bars.

A picture is a square of 56 pixels, one tile of a model whose tiles are that wide. Shapes stand in 2 x 2 cells, each
empty or with one shape, so that one visual token covers one cell. The bars of a chart have the four colours in any
order, and heights from 1 to 9 that all differ. Content, not chance, says to which split a picture belongs
(`is_held_out`): training and held-out sets share no picture, whatever their seeds and sizes.

    scene = draw_scene(random.Random(0))    # or draw_chart
    render(scene, random.Random(0)).save("scene.png")
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

COLOURS = {"red": (214, 48, 49), "green": (39, 150, 70), "blue": (45, 88, 205), "yellow": (240, 190, 20)}
SHAPES = ("circle", "triangle", "square")
PLACES = ("northwest", "northeast", "southwest", "southeast")
NOTHING = "nothing"  # in an empty cell
HEIGHTS = range(1, 10)
CELL = 28  # pixels
BAR, UNIT = 14, 6  # pixels: room of a bar in width, and one of HEIGHTS
EMPTY_SHARE = 0.2
HELD_OUT_SHARE = 6
GRID = (200, 200, 205)


@dataclass(frozen=True)
class Shape:
    """A thing in a cell: a colour of COLOURS and a shape of SHAPES."""

    colour: str
    shape: str

    def has(self, attribute: str) -> bool:
        """Whether `attribute` is this thing's colour or its shape."""
        return attribute in (self.colour, self.shape)

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture of shapes shows, without its jitter: the cells in the order of PLACES, None where one is empty."""

    cells: tuple[Shape | None, ...]

    @property
    def things(self) -> list[Shape]:
        """All things, in reading order."""
        return [cell for cell in self.cells if cell]

    @property
    def upper_half(self) -> Scene:
        """The scene with nothing in its lower half."""
        return Scene((*self.cells[:2], None, None))

    def having(self, attribute: str) -> list[Shape]:
        """The things of this colour or shape, in reading order."""
        return [thing for thing in self.things if thing.has(attribute)]

    def misread(self, rng: random.Random, keep: str) -> Scene:
        """The scene with something else in one cell; what has this attribute stays all that has it."""
        cells = [place for place, cell in enumerate(self.cells) if not (cell and cell.has(keep))]
        place = rng.choice(cells)
        things = [Shape(colour, shape) for colour in COLOURS for shape in SHAPES]
        other = rng.choice([thing for thing in things if thing != self.cells[place] and not thing.has(keep)])
        return Scene((*self.cells[:place], other, *self.cells[place + 1 :]))

    def at(self, place: int) -> str:
        """What is at one of PLACES, in words."""
        return str(self.cells[place] or NOTHING)


@dataclass(frozen=True)
class Chart:
    """What a bar chart shows: the colours of its bars and their heights, from left to right."""

    colours: tuple[str, ...]
    heights: tuple[int, ...]

    def misread(self, rng: random.Random, keep: str) -> Chart:
        """The chart with one bar read at a height that none has; `keep` is for scenes."""
        place = rng.randrange(len(self.heights))
        other = rng.choice([height for height in HEIGHTS if height not in self.heights])
        return Chart(self.colours, (*self.heights[:place], other, *self.heights[place + 1 :]))

    def height(self, colour: str) -> int:
        """How tall the bar of this colour is."""
        return self.heights[self.colours.index(colour)]


Picture = Scene | Chart


def is_held_out(picture: Picture) -> bool:
    """Whether pictures of this content belong to the held-out split: one in HELD_OUT_SHARE, by a checksum."""
    return zlib.crc32(repr(picture).encode()) % HELD_OUT_SHARE == 0


def draw_scene(rng: random.Random) -> Scene:
    """A random scene whose lower half is not empty."""
    things = [Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in PLACES]
    scene = Scene(tuple(thing if rng.random() >= EMPTY_SHARE else None for thing in things))
    return scene if scene != scene.upper_half else draw_scene(rng)


def draw_chart(rng: random.Random) -> Chart:
    """A random chart."""
    return Chart(tuple(rng.sample(list(COLOURS), len(COLOURS))), tuple(rng.sample(HEIGHTS, len(COLOURS))))


def render(picture: Picture, rng: random.Random) -> Image.Image:
    """The picture in RGB, 2 * CELL pixels each way; `rng` gives background and jitter."""
    image = Image.new("RGB", (2 * CELL, 2 * CELL), tuple(rng.randint(238, 255) for _ in range(3)))
    canvas = ImageDraw.Draw(image)
    if isinstance(picture, Chart):
        _draw_bars(canvas, picture, rng)
    else:
        _draw_shapes(canvas, picture, rng)
    return image


def _draw_bars(canvas: ImageDraw.ImageDraw, chart: Chart, rng: random.Random) -> None:
    """Bars on the lower edge, moved a little to the side."""
    for place, (colour, height) in enumerate(zip(chart.colours, chart.heights, strict=True)):
        left = BAR * place + 2 + rng.uniform(-1, 1)
        canvas.rectangle((left, 2 * CELL - UNIT * height, left + BAR - 4, 2 * CELL), fill=COLOURS[colour])


def _draw_shapes(canvas: ImageDraw.ImageDraw, scene: Scene, rng: random.Random) -> None:
    for place, thing in enumerate(scene.cells):
        left, top = CELL * (place % 2), CELL * (place // 2)
        canvas.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=GRID)
        if thing:
            DRAW[thing.shape](canvas, _box(left, top, rng), COLOURS[thing.colour])


def _box(left: int, top: int, rng: random.Random) -> Box:
    """Where a thing goes in its cell: the cell without its margin, moved and scaled a little."""
    size = CELL * rng.uniform(0.62, 0.74)
    left_edge = left + (CELL - size) / 2 + rng.uniform(-0.06, 0.06) * CELL
    top_edge = top + (CELL - size) / 2 + rng.uniform(-0.06, 0.06) * CELL
    return left_edge, top_edge, left_edge + size, top_edge + size


def _circle(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.ellipse(box, fill=colour)


def _square(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(box, fill=colour)


def _triangle(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    canvas.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


DRAW: dict[str, Callable[[ImageDraw.ImageDraw, Box, Colour], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
}
