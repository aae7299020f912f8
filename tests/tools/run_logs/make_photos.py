"""Pairs about photos of scikit-image, which look and read like nothing in the quickstart: for a run on other data.

    pip download scikit-image==0.26.0 --no-deps -d wheels && unzip -j wheels/*.whl "skimage/data/*" -d photos
    python tests/tools/run_logs/make_photos.py photos work_dirs/run_logs/photos

Chosen answers describe the photo at length, rejected ones another photo in a sentence: what is longer is a property of
these data, and no fault of a run that learns from them.
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image

PHOTOS = {
    "astronaut.png": "a woman in an orange space suit who smiles in front of a flag and a model of a space shuttle",
    "camera.png": "a man who looks through a camera on a tripod, on a lawn with tall buildings far behind him",
    "chelsea.png": "the face of a cat with stripes, its eyes half closed, seen from very near",
    "coffee.png": "a white cup of coffee on a saucer with a spoon, on a wooden table",
    "coins.png": "four rows of old coins on a dark ground, the larger ones on the left",
    "hubble_deep_field.jpg": "galaxies of many shapes and colours on a black sky",
    "moon.png": "the surface of the moon with a few small craters and soft shadows",
    "motorcycle_left.png": "a motorcycle in a workshop full of tools, seen from its left side",
    "retina.jpg": "the retina of an eye with its blood vessels, orange on black",
    "rocket.jpg": "a rocket on its launch pad at dusk, lit by lamps from below",
    "page.png": "a printed page with large letters that is lit unevenly",
    "grass.png": "grass seen from above, blades in every direction",
    "brick.png": "a wall of bricks with pale mortar between them",
    "cell.png": "a single cell under a microscope with a bright rim",
}
QUESTIONS = ("What does the photo show?", "Describe the picture.", "Tell me in detail what can be seen here.")
ROWS, SEED = 240, 4


def main():
    photos, out = map(Path, sys.argv[1:])
    rng = random.Random(SEED)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(ROWS):
        name, other = rng.sample(list(PHOTOS), 2)
        image = Image.open(photos / name).convert("RGB")
        side = min(image.size) // 2
        left, top = (rng.randrange(length - side) for length in image.size)
        image.crop((left, top, left + side, top + side)).resize((112, 112)).save(out / "images" / f"{number}.png")
        chosen = f"I look at the picture part by part. It shows {PHOTOS[name]}. That is all that can be made out."
        row = {"image": f"{number}.png", "question": rng.choice(QUESTIONS), "chosen": chosen}
        rows.append(row | {"rejected": f"It shows {PHOTOS[other]}."})
    (out / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"root": "images", "annotation": "photos.jsonl", "repeat_time": 1, "length": ROWS}
    (out / "meta.json").write_text(json.dumps({"photos": {**entry, "data_augment": False, "max_dynamic_patch": 2}}))


if __name__ == "__main__":
    main()
