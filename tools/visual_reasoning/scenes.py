"""The pictures of the small visual-reasoning world: four cells, each empty or with a coloured shape.

A picture is a square of 2 x 2 cells of 28 pixels, one tile of a model whose tiles are 56 pixels wide, so that one
visual token covers one cell. Content, not chance, says to which split a picture belongs (`Scene.is_held_out`): training
and held-out sets share no picture, whatever their seeds and sizes.

    scene = draw_scene(random.Random(0))
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
PLACES = ("top left", "top right", "bottom left", "bottom right")
CELL = 28  # pixels
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
    """What a picture shows, without its jitter: the cells in the order of PLACES, None where one is empty."""

    cells: tuple[Shape | None, ...]

    @property
    def is_held_out(self) -> bool:
        """Whether pictures of this content belong to the held-out split: one in HELD_OUT_SHARE, by a checksum."""
        return zlib.crc32(repr(self).encode()) % HELD_OUT_SHARE == 0

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


def draw_scene(rng: random.Random) -> Scene:
    """A random scene, which is not quite empty."""
    things = [Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in PLACES]
    scene = Scene(tuple(thing if rng.random() >= EMPTY_SHARE else None for thing in things))
    return scene if scene.things else draw_scene(rng)


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as an RGB picture of 2 * CELL pixels each way; `rng` gives background and jitter."""
    image = Image.new("RGB", (2 * CELL, 2 * CELL), tuple(rng.randint(238, 255) for _ in range(3)))
    canvas = ImageDraw.Draw(image)
    for place, thing in enumerate(scene.cells):
        left, top = CELL * (place % 2), CELL * (place // 2)
        canvas.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=GRID)
        if thing:
            DRAW[thing.shape](canvas, _box(left, top, rng), COLOURS[thing.colour])
    return image


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
