"""Samples of a mixture: equal to the golden ones, tiles planned to fit, bad rows skipped with file, line and reason."""

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from internvl_chat.data.collator import dpo_concat_pad_data_collator, join_sample
from internvl_chat.data.dataset import MixtureDataset, RecentTiles
from internvl_chat.data.images import decode_rgb
from internvl_chat.model import load_tokenizer
from internvl_chat.model.modeling_internvl import normalize_tiles
from internvl_chat.records.samples import SkippedRow, prompt_key

GOOD = {"question": "Why?", "chosen": "Yes", "rejected": "No"}
OPTIONS = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "max_seq_length": 512}


@pytest.fixture
def dataset_of(tmp_path, tokenizer):
    """Function from rows (dicts, or bytes as they stand in the file) to a data set of them in file order."""
    (tmp_path / "images").mkdir()
    wide = np.random.default_rng(0).integers(0, 256, (20, 240, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "images/wide.png")
    Image.fromarray(wide[:, :20]).save(tmp_path / "images/square.png")
    (tmp_path / "images/broken.png").write_bytes((tmp_path / "images/wide.png").read_bytes()[:500])

    def make(rows, meta=None, **options):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        entry = {"root": "images", "annotation": "rows.jsonl", **(meta or {})}
        (tmp_path / "meta.json").write_text(json.dumps({"made": entry}))
        arguments = {**OPTIONS, "cache_dir": tmp_path / "cache", **options}
        return MixtureDataset(tmp_path / "meta.json", tokenizer, **arguments)

    return make


def by_line(dataset):
    """The samples of a data set in file order, whatever the shuffle."""
    samples = [dataset[place] for place in range(len(dataset))]
    row_ids = [sample.row_id if isinstance(sample, SkippedRow) else sample["row_id"] for sample in samples]
    order = sorted(range(len(samples)), key=lambda place: int(row_ids[place].rpartition(":")[2]))
    return [samples[place] for place in order]


def length(sample, answer=0):
    """Tokens of a sample's prompt and one of its answers, joined."""
    return sum(len(part) for part in (sample["prompt_ids"], sample["answers"][answer], sample["separator"]))


@pytest.mark.parametrize("model", ["tiny-qwen2", "tiny-internlm2"])
def test_samples_equal_the_golden_ones(model, golden_folder, tmp_path):
    info = json.loads((golden_folder / f"out/samples_{model}.json").read_text())["templates"]
    arrays = np.load(golden_folder / f"out/samples_{model}.npz")
    tokenizer = load_tokenizer(golden_folder / "ckpt" / model)
    for template, golden in info.items():
        options = {**OPTIONS, "template": template, "image_size": 56, "cache_dir": tmp_path}
        dataset = MixtureDataset(golden_folder / "data/meta.json", tokenizer, **options)
        order = [row_id for name in golden["order"] for row_id in golden["order"][name]]
        assert len(dataset) == len(order) == 20
        for place, row_id in enumerate(order):
            sample, figures = join_sample(dataset[place]), golden["samples"][row_id]
            for side in ("chosen", "rejected"):
                for part in ("input_ids", "labels"):
                    expected = arrays[f"{template}|{row_id}|{side}_{part}"][: figures[side]["real_len"]]
                    assert sample[f"{side}_{part}"].tolist() == expected.tolist(), (template, row_id)
            assert sample["image_flags"].tolist() == figures["image_flags"]
            pixels = normalize_tiles(sample["pixel_values"]).numpy()
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == figures["pixel_sha256_f32"]


def test_a_sample_by_hand(dataset_of):
    (sample,) = by_line(dataset_of([{**GOOD, "image": "wide.png", "id": 7}], meta={"max_dynamic_patch": 3}))
    assert sample["row_id"] == "made:1"
    assert sample["pixel_values"].shape == (4, 3, 28, 28) and sample["pixel_values"].dtype == torch.uint8
    assert sample["image_flags"].tolist() == [1] * 4
    assert [part.dtype for part in (sample["prompt_ids"], *sample["answers"])] == [torch.int64] * 3
    assert sample["prompt_key"] == prompt_key(sample["prompt_ids"].numpy(), sample["pixel_values"].numpy())
    joined, length = join_sample(sample), len(sample["prompt_ids"])
    for side in ("chosen", "rejected"):
        ids, labels = joined[f"{side}_input_ids"], joined[f"{side}_labels"]
        assert (labels[:length] == -100).all() and labels[length] == ids[length]
    assert torch.equal(joined["chosen_input_ids"][:length], joined["rejected_input_ids"][:length])


def test_text_rows_bring_a_blank_tile(dataset_of):
    (sample,) = by_line(dataset_of([GOOD]))
    assert sample["image_flags"].tolist() == [0]
    assert sample["pixel_values"].shape == (1, 3, 28, 28) and (sample["pixel_values"] == 255).all()


def test_bad_rows_are_skipped_and_none_takes_their_place(dataset_of, tmp_path):
    rows = [
        (GOOD, None),
        ({"question": "Why?", "chosen": "Yes"}, "field 'rejected' is missing"),
        ({**GOOD, "rejected": None}, "'rejected' must be a string"),
        (b'{"question": "Why?",}', "trailing comma"),
        ({**GOOD, "image": "none.png"}, "no such file"),
        ({**GOOD, "image": "broken.png"}, "broken image data"),
        ({**GOOD, "image": "../rows.jsonl"}, "leads out of its root"),
        ({**GOOD, "image": "square.png", "question": "<image><image>"}, "2 <image> in the question for 1 images"),
        ({**GOOD, "question": "<image>"}, "1 <image> in the question for 0 images"),
        ({**GOOD, "chosen": ""}, "an answer is empty"),
        ({**GOOD, "chosen": "No"}, "chosen and rejected are the same"),
        ({**GOOD, "chosen": "long " * 500}, "max_seq_length is 512"),
        ({**GOOD, "video": "v.mp4"}, "no such file"),
        ({**GOOD, "image": "square.png"}, None),
    ]
    samples = by_line(dataset_of([row for row, _ in rows]))
    assert len(samples) == len(rows)
    for line, ((_, reason), sample) in enumerate(zip(rows, samples, strict=True), 1):
        if reason is None:
            assert sample["row_id"] == f"made:{line}"
        else:
            assert reason in sample.reason
            assert (sample.file, sample.line, sample.row_id) == (str(tmp_path / "rows.jsonl"), line, f"made:{line}")


def test_lines_are_those_of_the_file(dataset_of):
    samples = by_line(dataset_of([b"", GOOD, b"", b"x"]))
    assert samples[0]["row_id"] == "made:2"
    assert (samples[1].row_id, samples[1].line) == ("made:4", 4)


@pytest.mark.parametrize("spare", [0, 1, 3, 4, 20])
def test_tiles_fit_the_sequence(dataset_of, spare):
    """As many tiles as the room allows, all of them whole; the text is never touched."""
    row = {**GOOD, "image": "wide.png"}
    (free,) = by_line(dataset_of([row]))
    (least,) = by_line(dataset_of([row], max_dynamic_patch=1))
    needed = length(least)
    (sample,) = by_line(dataset_of([row], max_seq_length=needed + 4 * spare))
    assert length(sample) <= needed + 4 * spare
    # 2 tiles come with a thumbnail, so the tiles are 1, 3, 4, ... 13
    assert len(sample["pixel_values"]) == {0: 1, 1: 1, 3: 4, 4: 5, 20: 13}[spare]
    text = [i for i in sample["prompt_ids"].tolist() if i != 625]
    assert text == [i for i in free["prompt_ids"].tolist() if i != 625]
    assert [ids.tolist() for ids in sample["answers"]] == [ids.tolist() for ids in free["answers"]]


def test_a_row_that_cannot_fit_is_skipped(dataset_of):
    row = {**GOOD, "image": ["wide.png", "square.png"]}
    (least,) = by_line(dataset_of([row], max_dynamic_patch=1))
    needed = length(least)
    (skipped,) = by_line(dataset_of([row], max_seq_length=needed - 1))
    assert skipped.reason == f"needs at least {needed} tokens with 2 tiles, max_seq_length is {needed - 1}"


def test_a_text_that_cannot_fit_is_skipped_for_its_length_alone(dataset_of):
    (skipped,) = by_line(dataset_of([{**GOOD, "rejected": "x" * 100_000}]))
    assert skipped.reason.startswith("a text of 100000 characters needs at least")


def test_longest_answer_counts(dataset_of):
    row = {**GOOD, "image": "wide.png", "rejected": "No, " * 100}
    (sample,) = by_line(dataset_of([row], max_seq_length=512))
    assert length(sample) < length(sample, 1) <= 512
    assert len(sample["pixel_values"]) > 1


def test_one_tile_and_own_limits(dataset_of):
    row = {**GOOD, "image": "wide.png"}
    assert len(by_line(dataset_of([row], dynamic_image_size=False))[0]["pixel_values"]) == 1
    assert len(by_line(dataset_of([row], use_thumbnail=False))[0]["pixel_values"]) == 12
    assert len(by_line(dataset_of([row], max_dynamic_patch=6))[0]["pixel_values"]) == 7
    assert len(by_line(dataset_of([row], meta={"max_dynamic_patch": 20}))[0]["pixel_values"]) == 13  # 12 : 1 it is


def test_augmentation_depends_on_seed_row_and_copy(dataset_of):
    rows = [{**GOOD, "image": "wide.png"}] * 6
    meta = {"data_augment": True, "repeat_time": 2, "max_dynamic_patch": 1}

    def pictures(seed):
        dataset = dataset_of(rows, meta=meta, seed=seed)
        return {
            dataset.mixture.locate(p)[1:]: dataset[p]["pixel_values"].numpy().tobytes() for p in range(len(dataset))
        }

    first = pictures(1)
    assert first == pictures(1) != pictures(2)
    assert len(set(first.values())) > 6  # 12 draws of 26 qualities
    plain = by_line(dataset_of(rows[:1], meta={"max_dynamic_patch": 1}))[0]["pixel_values"]
    assert plain.numpy().tobytes() not in first.values()


def test_fine_tuning_needs_no_rejected(dataset_of):
    rows = [{"question": "Why?", "chosen": "Yes"}, {**GOOD, "rejected": None}, GOOD]
    samples = by_line(dataset_of(rows, with_rejected=False))
    assert all(len(sample["answers"]) == 1 for sample in samples)


def test_lengths_follow_the_rows(dataset_of):
    dataset = dataset_of([GOOD, {**GOOD, "chosen": "word " * 80}])
    lengths = dataset.lengths()
    tokens = [length(dataset[place]) for place in range(2)]
    assert len(lengths) == 2 and np.argmax(lengths) == np.argmax(tokens)


def test_workers_give_the_same_samples(dataset_of):
    dataset = dataset_of([GOOD, b"x", {**GOOD, "image": "wide.png"}], meta={"repeat_time": 2})
    expected = [dpo_concat_pad_data_collator([dataset[p] for p in places]) for places in ((0, 1, 2), (3, 4, 5))]
    # Forked workers share the data set; spawned ones get it pickled.
    for given in (dataset, pickle.loads(pickle.dumps(dataset))):
        batches = DataLoader(given, batch_size=3, num_workers=1, collate_fn=dpo_concat_pad_data_collator)
        for batch, other in zip(batches, expected, strict=True):
            assert batch.keys() == other.keys() and batch["row_ids"] == other["row_ids"]
            assert batch.get("skipped") == other.get("skipped")
            assert torch.equal(batch["pixel_values"], other["pixel_values"])


def test_images_in_the_layout_of_a_hub_cache_take_a_flag(dataset_of, tmp_path):
    """Snapshots of a hub's cache are symlinks of single files to its blobs."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "images/square.png").rename(tmp_path / "blobs/0f3c")
    (tmp_path / "images/square.png").symlink_to("../blobs/0f3c")
    rows = [{"image": "square.png", **GOOD}]
    [skipped] = by_line(dataset_of(rows))
    assert skipped.fault == "image_outside_root" and "give --follow_symlinks to read it" in skipped.reason
    [sample] = by_line(dataset_of(rows, allow_file_symlinks=True))
    assert sample["image_flags"].tolist() == [1]


@pytest.mark.parametrize("key", ["images", "Images"])
def test_pictures_under_images_are_trained_on(dataset_of, key):
    [plain] = by_line(dataset_of([{"image": ["square.png"], **GOOD}]))
    [other] = by_line(dataset_of([{key: ["square.png"], **GOOD}]))
    assert torch.equal(plain["pixel_values"], other["pixel_values"]) and other["image_flags"].tolist() == [1]
    [skipped] = by_line(dataset_of([{"img": "square.png", **GOOD}]))
    assert skipped.fault == "picture_key" and "rename the key to 'image'" in skipped.reason


def test_an_error_that_nobody_foresaw_names_its_row(dataset_of, monkeypatch):
    dataset = dataset_of([GOOD, {"image": "square.png", **GOOD}])
    monkeypatch.setattr("internvl_chat.data.dataset.open_image", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        by_line(dataset)
    assert raised.value.__notes__ == [f"while reading row {dataset.mixture.datasets[0].rows.path}:2"]


def test_an_image_of_several_pairs_is_cut_once_unless_its_file_changes_or_copies_differ(
    dataset_of, tmp_path, monkeypatch
):
    images = ("square.png", "square.png", "wide.png")
    rows = [{**GOOD, "question": f"{number}?", "image": image} for number, image in enumerate(images)]
    decoded = []
    reading = lambda image: decoded.append(image) or decode_rgb(image)  # noqa: E731
    monkeypatch.setattr("internvl_chat.data.dataset.decode_rgb", reading)
    first, second, other = by_line(dataset_of(rows))
    assert len(decoded) == 2 and torch.equal(first["pixel_values"], second["pixel_values"])
    assert first["pixel_values"].data_ptr() != second["pixel_values"].data_ptr()  # nobody changes what is kept
    dataset = dataset_of(rows[:1])
    before = dataset[0]
    Image.open(tmp_path / "images/square.png").rotate(90).save(tmp_path / "images/square.png")
    os.utime(tmp_path / "images/square.png", ns=(1, 1))
    assert not torch.equal(dataset[0]["pixel_values"], before["pixel_values"])
    decoded.clear()
    by_line(dataset_of(rows, meta={"data_augment": True}))
    assert len(decoded) == 3


def test_what_was_asked_for_last_stays_within_the_bytes():
    recent, made = RecentTiles(most_bytes=20), []

    def get(key, size=8):
        def make():
            made.append(key)
            return np.zeros(size, np.uint8)

        return recent.get(key, make)

    first = get("a")
    get("b")
    assert get("a") is first
    get("c")  # b leaves
    get("a")
    get("b")  # c leaves
    assert made == ["a", "b", "c", "b"] and recent.kept_bytes == 16
    get("larger than all", 21)
    assert recent.kept_bytes == 0 and len(get("larger than all", 21)) == 21
