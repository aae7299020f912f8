"""Small sets in the layouts of the five published ones: pieces, absolute paths, slashes in names, missing images."""

import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLUSTER = "/mnt/petrelfs/somebody/datasets"
SHAPES = "shapes_en_20240402_extracted_pairs_vqa_correctness_rules"
PREFIX = "openbmb/RLAIF-V-Dataset_extracted_prefix_pair_sr0.5_wo_image"


def picture(number):
    """A PNG, its own per number."""
    buffer = io.BytesIO()
    Image.new("RGB", (40 + number, 30), (number * 20 % 256, 80, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def pair(number, **fields):
    row = {
        "question": f"<image>\nHow many sides has shape {number}?",
        "chosen": f"It has {number}.",
        "rejected": "None.",
    }
    return {"image": f"{number}.png", **row, **fields}


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_zip(path, members, pieces=(), cut=0.5):
    """A zip of {name: bytes}; with `pieces`, names of endings, cut into as many parts and not left whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    if pieces:
        content, begin = path.read_bytes(), 0
        path.unlink()
        for number, piece in enumerate(pieces, 1):
            end = len(content) if number == len(pieces) else int(len(content) * cut * number / (len(pieces) - 1))
            path.with_name(path.name + piece).write_bytes(content[begin:end])
            begin = end


def pair_rows():
    """Rows of two data sets: plain, a list of images; no <image>, no image, plain, an image that is not there."""
    shapes = [pair(number) for number in range(4)]
    shapes.append(pair(0, image=["0.png", "1.png"], question="<image>\n<image>\nWhich is larger?"))
    prefix = [pair(4, question="What is shown?"), pair(5, image=None, question="What is 2 + 2?"), pair(6)]
    return shapes, [*prefix, pair(7, image="gone.png")]


def write_pairs(folder, name, pieces=(), absolute=False):
    """MMPR, -v1.1 or -v1.2 in `folder`; with `absolute`, annotations as on the authors' cluster."""
    shapes, prefix = pair_rows()
    images = {f"images/Shapes/{number}.png": picture(number) for number in range(4)}
    images |= {f"images/openbmb/RLAIF-V-Dataset/{number}.png": picture(number) for number in range(4, 7)}
    write_zip(
        folder / "images.zip", {f"{name}/{path}" if absolute else path: data for path, data in images.items()}, pieces
    )
    write_zip(folder / "annotations.zip", {f"annotations/{SHAPES}.jsonl": jsonl(shapes),
                                           f"annotations/{PREFIX}.jsonl": jsonl(prefix)})  # fmt: skip
    begin = f"{CLUSTER}/{name}" if absolute else name
    entry = {"data_augment": False, "max_dynamic_patch": 12, "repeat_time": 1}
    meta = {
        SHAPES: {"root": f"{name}/images/Shapes", "annotation": f"{begin}/annotations/{SHAPES}.jsonl", "length": 5},
        PREFIX: {"root": f"{name}/images/openbmb/RLAIF-V-Dataset", "annotation": f"{begin}/annotations/{PREFIX}.jsonl",
                 "length": 4},
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps({key: {**value, **entry} for key, value in meta.items()}))


def write_prompts(folder):
    """MMPR-v1.2-prompts in `folder`."""
    correctness = [
        {"image": f"{number}.png", "question": f"What is {number}?", "answer": str(number)} for number in range(3)
    ]
    correctness.append({"image": "gone.png", "question": "What is gone?", "answer": "9"})
    dropout = [{"image": "geo/0.png", "question": "Describe it.", "chosen": "A shape.", "rejected": None}]
    dropout.append({"image": ["geo/0.png", "geo/1.png"], "question": "Compare.", "chosen": None, "rejected": None})
    pictures = {f"{number}.png": picture(number) for number in range(3)}
    write_zip(
        folder / "correctness_images.zip",
        {f"correctness_images/{n}": p for n, p in pictures.items()},
        ("_aa", "_ab", "_ac"),
    )
    write_zip(folder / "correctness_prompts.zip", {"correctness_prompts/shapes_en.jsonl": jsonl(correctness)})
    write_zip(
        folder / "dropoutntp_images.zip", {f"geo/{name}": content for name, content in pictures.items()}, ("_aa", "_ab")
    )
    write_zip(folder / "dropoutntp_prompts.zip", {"dropoutntp_prompts/geo.jsonl": jsonl(dropout)})


def write_tiny(folder):
    """MMPR-Tiny in `folder`: one image, two that are numbered, none."""

    def row(images, question, answer):
        return {"data_source": "tiny", "images": [{"path": f"MMPR-Tiny/images/{name}"} for name in images],
                "prompt": [{"role": "user", "content": question}], "reward_model": {"ground_truth": answer},
                "extra_info": {"question": question}}  # fmt: skip

    rows = [
        row(["0.png"], "<image>\nHow many?", "3"),
        row(["0.png", "1.png"], "Is <image_2> larger than <image_1>?", "yes"),
    ]
    rows += [row([], "What is 2 + 2?", "4"), row(["gone.png"], "<image>\nWhat?", "5")]
    write_zip(folder / "images.zip", {f"images/{number}.png": picture(number) for number in range(2)})
    pq.write_table(pa.Table.from_pylist(rows), folder / "mmpr_tiny.parquet")


WRITERS = {
    "MMPR": lambda folder: write_pairs(folder, "MMPR", absolute=True),
    "MMPR-v1.1": lambda folder: write_pairs(folder, "MMPR-v1.1", ("_a", "_b")),
    "MMPR-v1.2": lambda folder: write_pairs(folder, "MMPR-v1.2", ("_aa", "_ab", "_ac")),
    "MMPR-v1.2-prompts": write_prompts,
    "MMPR-Tiny": write_tiny,
}
