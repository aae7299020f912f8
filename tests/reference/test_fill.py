"""Which rows a fill reads, in which batches, and what it leaves in the cache."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from internvl_chat.data import dataset as dataset_module
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.packing import collate_packed
from internvl_chat.reference import fill as fill_module
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.fill import (
    RowsToFill,
    cut_batches,
    distinct_places,
    fill_cache,
    known_rows,
    plan_fill,
)
from internvl_chat.reference.frozen import CachedReference, FrozenReference
from internvl_chat.reference.rows import RowIndex

ASKED = {"a": ("square_small.png", 3), "b": ("square_small.png", 1), "c": ("tall_3to4.png", 2)}  # image, pairs
ROWS = [
    {"image": image, "question": f"<image>\nWhat is {name}?", "chosen": "This.", "rejected": f"Not {n}."}
    for name, (image, pairs) in ASKED.items()
    for n in range(pairs)
]


@pytest.fixture
def mix(golden_folder, tokenizer, tmp_path):
    """Function from entries of a meta.json, by name of their rows' file, to the mixture."""
    folder = tmp_path / "data"
    shutil.copytree(golden_folder / "data" / "images", folder / "images")

    def open_mixture(rows=ROWS, **entry):
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        meta = {"root": "images/", "annotation": "rows.jsonl", "data_augment": False, "repeat_time": 1, **entry}
        (folder / "meta.json").write_text(json.dumps({"rows": meta}))
        options = {"num_image_token": 4, "image_size": 56, "cache_dir": tmp_path / "lines"}
        return MixtureDataset(folder / "meta.json", tokenizer, template="internvl2_5", max_seq_length=512, **options)

    return open_mixture


@pytest.fixture
def filling(policy, tmp_path):
    """Function that fills a cache from a mixture by the plan, and counts answers computed and rows known."""
    use_shared_prefix(policy)
    accelerator = Accelerator(cpu=True)
    reference = FrozenReference(policy, accelerator)

    def fill(dataset, name="cache"):
        cache, index = LogpsCache(tmp_path / name), RowIndex(tmp_path / name)
        plan = plan_fill(dataset, lambda places: known_rows(places, dataset, index, cache, rank=0, world_size=1))
        samples = RowsToFill(dataset, collate_packed)
        batches = (samples.collate([samples[place] for place in batch]) for batch in plan.batches)
        return fill_cache(cache, reference, batches, accelerator, index), plan.known

    return fill


def test_a_row_that_is_repeated_stands_in_the_plan_once_and_the_rows_of_a_prompt_side_by_side(mix):
    dataset = mix(repeat_time=2.5)
    plan = plan_fill(dataset)
    found = [dataset.mixture.locate(place) for batch in plan.batches for place in batch]
    assert [place.row for place in found] == [0, 1, 2, 3, 4, 5]
    assert {place.copy for place in found} == {0} and plan.prompts == len(ASKED)


def test_rows_of_a_prompt_that_are_scattered_meet(mix):
    rows = [ROWS[number] for number in (0, 4, 1, 3, 5, 2)]
    dataset = mix(rows)
    found = [dataset.mixture.locate(place).row for batch in plan_fill(dataset).batches for place in batch]
    assert found == [0, 2, 5, 1, 4, 3]  # a, a, a, c, c, b


def test_part_of_a_data_set_is_what_the_epoch_has_of_it(mix):
    dataset = mix(repeat_time=0.5)
    assert sorted(distinct_places(dataset)) == [0, 1, 2]


def test_augmented_rows_have_other_pixels_in_every_copy_and_share_no_prompt(mix):
    dataset = mix(repeat_time=2, data_augment=True)
    plan = plan_fill(dataset)
    assert sorted(place for batch in plan.batches for place in batch) == list(range(12)) and plan.prompts == 12


@pytest.mark.parametrize(
    ("most", "most_prompts", "batches"),
    [
        (1000, 3, [[0, 1, 2, 3, 4, 5]]),
        (1000, 2, [[0, 1, 2, 3, 4], [5]]),
        (1000, 1, [[0, 1], [2, 3, 4], [5]]),
        # 8 + 3 + 5 of the first prompt; the second would fit in part: it begins anew
        (25, 3, [[0, 1], [2, 3, 4], [5]]),
        (16, 3, [[0, 1], [2], [3], [4], [5]]),  # just as many as are allowed
        (20, 3, [[0, 1], [2, 3], [4], [5]]),  # its third row needs the image again
        (1, 3, [[0], [1], [2], [3], [4], [5]]),  # a row stays whole
    ],
)
def test_prompts_stay_whole_where_they_fit_and_are_cut_between_rows_where_not(most, most_prompts, batches):
    prompts, own = np.array([0, 0, 1, 1, 1, 2]), np.array([3, 5, 5, 5, 5, 9])
    cut = cut_batches(prompts, own, np.full(6, 8), most=most, most_prompts=most_prompts)
    assert [list(range(6))[batch] for batch in cut] == batches


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_all_ranks_have_as_many_batches_and_every_row_is_on_one_of_them(mix, small_batches, world):
    plan = plan_fill(mix())
    shares = [plan.of_rank(rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1 and len(plan.batches) > 2
    assert sorted(place for share in shares for batch in share for place in batch) == list(range(len(ROWS)))


def test_a_grouped_fill_gives_every_answer_the_log_prob_it_has_alone(mix, filling, policy, tmp_path):
    dataset = mix()
    assert filling(dataset) == (3 + len(ROWS), 0)  # each prompt's chosen answer, and each rejected one
    reference, cached = FrozenReference(policy, Accelerator(cpu=True)), CachedReference(LogpsCache(tmp_path / "cache"))
    for place in range(len(dataset)):
        batch = collate_packed([dataset[place]])
        assert torch.allclose(cached.answer_logps(batch), reference.answer_logps(batch), rtol=0, atol=1e-5)


def test_a_grown_mixture_opens_the_images_of_new_rows_alone(mix, filling, monkeypatch):
    filling(mix(ROWS[:3]))
    opened = []
    open_image = dataset_module.open_image
    monkeypatch.setattr(dataset_module, "open_image", lambda path: opened.append(path) or open_image(path))
    assert filling(mix(ROWS)) == (1 + 1 + 1 + 2, 3)  # chosen and rejected of b, chosen and two rejected of c
    assert len(opened) == 3
    opened.clear()
    assert filling(mix(ROWS, repeat_time=3)) == (0, len(ROWS)) and not opened


@pytest.mark.parametrize("change", ["image", "row", "tiles", "seed of augmented rows"])
def test_what_changes_pixels_or_ids_makes_a_row_unknown(mix, filling, change, tmp_path):
    augmented = change.startswith("seed")
    dataset = mix(data_augment=augmented)
    filling(dataset)
    rows = ROWS
    if change == "image":
        path = tmp_path / "data" / "images" / "square_small.png"
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "row":
        rows = [{**row, "chosen": "That."} for row in ROWS[:4]] + ROWS[4:]
    again = mix(rows, data_augment=augmented, **({"max_dynamic_patch": 2} if change == "tiles" else {}))
    again.seed += augmented
    expected = {"image": 2, "row": 2, "tiles": 0, "seed of augmented rows": 0}[change]
    assert filling(again)[1] == expected


def test_an_index_that_lost_its_log_probs_is_not_believed(mix, filling, tmp_path):
    computed, _ = filling(mix())
    (tmp_path / "cache" / "logps.npy").unlink()
    assert filling(mix()) == (computed, 0)


def test_the_index_knows_both_answers_of_a_row_and_the_only_one_twice(tmp_path):
    index = RowIndex(tmp_path)
    index.append({b"r" * 16: [b"a" * 16, b"b" * 16], b"s" * 16: [b"c" * 16]})
    records, is_known = index.find([b"r" * 16, b"s" * 16, b"t" * 16])
    assert is_known.tolist() == [True, True, False]
    assert records["answers"][:2].tolist() == [[b"a" * 16, b"b" * 16], [b"c" * 16] * 2]


def test_a_stale_index_is_dropped_with_the_mark(mix, filling, tmp_path):
    """An image that changed and kept its time: the run stops, the next one reads every row and goes on."""
    dataset = mix()
    filling(dataset)
    path = tmp_path / "data" / "images" / "square_small.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = path.read_bytes()
    shutil.copy(path.with_name("square_big.png"), path)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=times)
    shutil.copy(path.with_name("square_big.png"), path.with_name("tall_3to4.png"))
    batch = collate_packed([dataset[int(np.flatnonzero(dataset.mixture.datasets[0].order == 5)[0])]])
    with pytest.raises(LookupError, match="start the run again"):
        CachedReference(LogpsCache(tmp_path / "cache")).answer_logps(batch)
    assert len(RowIndex(tmp_path / "cache")) == 0
    assert filling(dataset)[1] == 0


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of a row or two."""
    monkeypatch.setattr(fill_module, "ROOM", 0.1)


def _killed(fill, dataset, after):
    """Fill, and die once so many batches are computed."""
    compute = FrozenReference.answer_logps
    done = []

    def dying(self, batch):
        if len(done) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(batch)
        return compute(self, batch)

    FrozenReference.answer_logps = dying
    fill(dataset)


def test_a_fill_that_is_killed_in_the_middle_goes_on_and_ends_with_the_very_same_cache(
    mix, filling, small_batches, tmp_path
):
    dataset = mix()
    assert len(plan_fill(dataset).batches) >= 4
    whole, _ = filling(dataset, "undisturbed")
    for after in (1, 2):
        child = multiprocessing.get_context("fork").Process(target=_killed, args=(filling, dataset, after))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    rest, known = filling(dataset)
    assert 0 < rest < whole and known > 0
    expected, found = (np.load(tmp_path / name / "logps.npy") for name in ("undisturbed", "cache"))
    assert np.array_equal(found, expected)
    assert not list((tmp_path / "cache").glob("*.shard"))
