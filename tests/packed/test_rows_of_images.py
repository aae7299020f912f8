"""Rows as they stand in files, questions about images and videos, in one pack: each answer as if alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import collate_packed
from tests.videos import write_gif

ANSWERS = {"chosen": "It is blue, I think.", "rejected": "No."}
TURN = {"history": [["<image>\nWhat is it? And where?", "A square on the left."]]}
QUESTIONS = {  # rows that have a beginning in common, and how many tiles they have together
    "image": (4, [{"image": "wide.png", "question": q} for q in ("Which colour?", "<image>\nHow wide?", "How long?")]),
    "several": (2, [{"image": ["wide.png", "small.png"], "question": f"{q}?"} for q in ("Which", "Where")]),
    "other last": (3, [{"image": ["small.png", last], "question": "Same?"} for last in ("wide.png", "b.png")]),
    "turns": (1, [{"image": "b.png", "question": f"{question}?", **TURN} for question in ("Why", "Since when")]),
    "video": (3, [{"video": "a.gif", "question": f"{question}?"} for question in ("Who", "What is next")]),
}
TEXT = [{"question": "How many?"}, {"question": "Why?"}]


@pytest.fixture(scope="module")
def model(golden_folder):
    model = load_model(golden_folder / "ckpt" / "tiny-qwen2").eval()
    use_shared_prefix(model)
    return model


@pytest.fixture(scope="module")
def samples_of(golden_folder, model, tmp_path_factory):
    """Function from rows to their samples, at most 3 tiles and a thumbnail an image."""
    folder = tmp_path_factory.mktemp("rows")
    noise = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    for name, pixels in (("wide", noise), ("small", noise[:, :20]), ("b", noise[:, 20:40])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    write_gif(folder / "a.gif", 3)

    def made(rows):
        (folder / "rows.jsonl").write_text("".join(json.dumps({**row, **ANSWERS}) + "\n" for row in rows))
        (folder / "meta.json").write_text(json.dumps({"made": {"root": ".", "annotation": "rows.jsonl"}}))
        options = {"template": "internvl2_5", "num_image_token": model.num_image_token, "max_dynamic_patch": 3}
        tokenizer = load_tokenizer(golden_folder / "ckpt" / "tiny-qwen2")
        size = model.config.force_image_size
        dataset = MixtureDataset(folder / "meta.json", tokenizer, image_size=size, cache_dir=folder, **options)
        found = sorted((dataset[place] for place in range(len(dataset))), key=lambda sample: sample["row_id"])
        assert len(found) == len(rows)
        return found

    return made


@torch.no_grad()
def logps(model, samples):
    """(pairs, 2) of chosen and rejected answers, and the batch."""
    batch = collate_packed(samples, model.img_context_token_id)
    return answer_logps(model, batch)[batch["packed"].pair_answers.T], batch


@pytest.mark.parametrize("kind", QUESTIONS)
def test_rows_that_begin_alike_share_it_and_keep_their_log_probs(model, samples_of, kind):
    tiles, rows = QUESTIONS[kind]
    samples = samples_of(rows)
    together, batch = logps(model, samples)
    alone = [logps(model, [sample]) for sample in samples]
    torch.testing.assert_close(together, torch.cat([each for each, _ in alone]), rtol=0, atol=1e-5)
    assert len(batch["pixel_values"]) == tiles
    sizes = [each["packed"].input_ids.numel() for _, each in alone]
    assert batch["packed"].input_ids.numel() < sum(sizes) - (len(rows) - 1) * model.num_image_token


def test_rows_of_all_kinds_in_one_pack(model, samples_of):
    samples = samples_of([row for _, rows in QUESTIONS.values() for row in rows] + TEXT)
    together, batch = logps(model, samples)
    alone = torch.cat([logps(model, [sample])[0] for sample in samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert len(batch["pixel_values"]) == sum(tiles for tiles, _ in QUESTIONS.values()) + len(TEXT)  # blank ones
