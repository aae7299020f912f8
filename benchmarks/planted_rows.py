"""Pairs with planted duplicates and leaks, and clean ones that look like them: what `tools/curate.py` tells apart.

Pictures: those that scikit-image and scikit-learn ship, where they are installed, and drawn ones that are hard to tell
apart: charts, triangles and scenes with thin lines on white.
"""

from __future__ import annotations

import importlib.util
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

PACKAGES = {"skimage": "data", "sklearn": "datasets/images"}
MOST_CROP = 0.05  # a side
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif")
DRAWN = 40  # of each kind
# Those of these packages that show the same as another one: a stereo pair, a board in colour and in grey.
TWINS = ("motorcycle_right.png", "chessboard_RGB.png")
SUBJECTS = ("circle", "triangle", "square", "bar", "line", "label", "corner", "shadow", "colour", "texture")
TEMPLATES = (
    "How many {0}s can be seen in the upper part of picture {n}, and which of them is the largest one?",
    "What is the length of the {0} that is marked with {n} centimetres when the whole {1} is doubled in size?",
    "Which {0} is nearest to the centre of the image if the {1} at position {n} is removed from it?",
    "Is the {0} on the left larger than the {1} on the right? Give the reason in one sentence for case {n}.",
    "Describe the relation between the {0} and the {1} in figure {n} and say whether it changes from left to right.",
)


@dataclass
class Planted:
    """Rows to be written: `kinds` names what each is, "clean" or how it was planted."""

    folder: Path
    chance: random.Random
    rows: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, kind: str, image: str | None, question: str) -> None:
        """Append a row; answers are its own."""
        number = len(self.rows)
        row = {"question": question, "chosen": f"Answer {number}: yes.", "rejected": f"Answer {number}: no."}
        self.rows.append({"image": image, **row} if image else row)
        self.kinds.append(kind)


def shipped_pictures() -> Iterator[tuple[str, Image.Image]]:
    """Pictures of installed packages: (name, picture)."""
    for package, folder in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in sorted((Path(spec.submodule_search_locations[0]) / folder).iterdir()):
            if path.suffix in SUFFIXES and path.name not in TWINS and path.stat().st_size > 1000:
                try:
                    with Image.open(path) as image:
                        found = image.convert("RGB")
                except OSError:
                    continue  # some packages ship a pointer in place of the file
                if min(found.size) >= 64:
                    yield path.name, found


def drawn_pictures(number: int) -> Iterator[tuple[str, Image.Image]]:
    """Charts, triangles and scenes on white, the like of which are many in MMPR."""
    for seed in range(number):
        for kind in (draw_chart, draw_triangle, draw_scene):
            image = Image.new("RGB", (400, 300), "white")
            kind(ImageDraw.Draw(image), random.Random(f"{kind.__name__} {seed}"))
            yield f"{kind.__name__}_{seed}.png", image


def draw_chart(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Six bars on axes."""
    draw.line((40, 20, 40, 270, 380, 270), fill="black", width=2)
    for bar in range(6):
        draw.rectangle((60 + 50 * bar, chance.randint(40, 250), 90 + 50 * bar, 270), fill=(60, 90, 200))
    draw.text((150, 5), f"Sales {chance.randint(1990, 2024)}", fill="black")


def draw_triangle(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Three thin lines with letters."""
    corners = [(chance.randint(20, 380), chance.randint(20, 280)) for _ in range(3)]
    draw.polygon(corners, outline="black")
    for corner, letter in zip(corners, "ABC", strict=True):
        draw.text(corner, letter, fill="black")


def draw_scene(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Some coloured discs and boxes."""
    for _ in range(chance.randint(4, 8)):
        left, top, side = chance.randint(0, 340), chance.randint(0, 240), chance.randint(20, 60)
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape((left, top, left + side, top + side), fill=chance.choice(["red", "green", "blue", "orange"]))


def changed(image: Image.Image, kind: str, chance: random.Random) -> bytes:
    """A picture re-encoded, resized, or cropped by up to 5 % a side and re-encoded."""
    if kind == "cropped":
        width, height = image.size
        most = MOST_CROP if chance.random() < 0.7 else 0
        left, top, right, bottom = (chance.uniform(0, MOST_CROP) if most else MOST_CROP for _ in range(4))
        image = image.crop(
            (round(left * width), round(top * height), round(width * (1 - right)), round(height * (1 - bottom)))
        )
    if kind in ("resized", "cropped"):
        factor = chance.choice([0.4, 0.6, 0.8, 1.3, 2])
        image = image.resize((max(48, int(image.width * factor)), max(48, int(image.height * factor))))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=chance.choice([35, 50, 75, 90]))
    return buffer.getvalue()


def respelled(question: str, chance: random.Random) -> str:
    """The question in other letters: case, marks, spaces, British and American, a typo or two, articles."""
    text = question.replace("colour", "color").replace("centre", "center").replace("centimetres", "centimeters")
    words = text.split()
    for _ in range(chance.randint(1, 2)):
        at = chance.choice([index for index, word in enumerate(words) if word.isalpha() and len(word) > 4])
        letter = chance.randint(1, len(words[at]) - 2)
        words[at] = words[at][:letter] + words[at][letter + 1] + words[at][letter] + words[at][letter + 2 :]
    text = ("  " if chance.random() < 0.5 else " ").join(words)
    text = chance.choice([str.upper, str.lower, str.capitalize, str])(text)
    return chance.choice(["", "Please: ", " "]) + text.rstrip("?.") + chance.choice(["?", " ?", "", "..."])


def question_for(number: int, chance: random.Random) -> str:
    """A question that no other number has."""
    one, other = chance.sample(SUBJECTS, 2)
    return TEMPLATES[number % len(TEMPLATES)].format(one, other, n=number)


def plant(folder: Path, seed: int = 0) -> tuple[list[str], Path, Path]:
    """Write pairs with duplicates and leaks, meta.json, and the evaluation file; kinds by row, meta.json, that file."""
    chance = random.Random(seed)
    pictures = [*shipped_pictures(), *drawn_pictures(DRAWN)]
    chance.shuffle(pictures)
    planted = Planted(folder, chance)
    (folder / "images").mkdir(parents=True)
    held_out = []
    for number, (name, image) in enumerate(pictures):
        file = f"{number}_{Path(name).stem}.png"
        image.save(folder / "images" / file)
        question = question_for(number, chance)
        if number % 4 == 0:
            held_out.append({"image": file, "question": question, "answer": "yes"})
            plant_leaks(planted, number, image, file, question)
        else:
            planted.add("clean", file, question)
            plant_duplicates(planted, number, image, file, question)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planted.rows))
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    (folder / "meta.json").write_text(json.dumps({"pairs": {"root": "images", "annotation": "pairs.jsonl"}}))
    return planted.kinds, folder / "meta.json", folder / "held_out.jsonl"


def store(planted: Planted, name: str, content: bytes) -> str:
    """Write a picture; returns its name."""
    (planted.folder / "images" / name).write_bytes(content)
    return name


def plant_duplicates(planted: Planted, number: int, image: Image.Image, file: str, question: str) -> None:
    """What repeats a row, and what only looks like it."""
    chance, content = planted.chance, (planted.folder / "images" / file).read_bytes()
    planted.add("duplicate, exact", store(planted, f"copy_{number}.png", content), question)
    planted.add("duplicate, respelled", store(planted, f"copy2_{number}.png", content), respelled(question, chance))
    for kind in ("re-encoded", "resized", "cropped"):
        made = store(planted, f"{kind}_{number}.jpg", changed(image, kind, chance))
        planted.add(f"duplicate, {kind}", made, respelled(question, chance) if chance.random() < 0.5 else question)
    planted.add("clean", file, question.replace(f" {number}", f" {number + 7000}"))  # another number
    planted.add("clean", file, question_for(number + 3000, chance))  # another question about it
    planted.add("clean", file, "How many corners are there?")  # everybody's question
    if "larger" in question or "left" in question:
        planted.add("clean", file, question.replace("larger", "smaller").replace("left", "right"))


def plant_leaks(planted: Planted, number: int, image: Image.Image, file: str, question: str) -> None:
    """What has the picture or the question of an evaluation row; here the evaluation has the picture as file."""
    chance = planted.chance
    copy = store(planted, f"leak_{number}.png", (planted.folder / "images" / file).read_bytes())
    planted.add("leak, exact picture", copy, question_for(number + 5000, chance))
    for kind in ("re-encoded", "resized", "cropped"):
        made = store(planted, f"leak_{kind}_{number}.jpg", changed(image, kind, chance))
        planted.add(f"leak, {kind} picture", made, question_for(number + 5000 + len(kind) * 300, chance))
    planted.add("leak, exact question", None, question)
    planted.add("leak, respelled question", None, respelled(question, chance))
    planted.add("leak, quoted question", None, f"Look at this. {question} Answer in one word, please.")
    planted.add("clean", None, question.replace(f" {number}", f" {number + 9000}"))  # another number
