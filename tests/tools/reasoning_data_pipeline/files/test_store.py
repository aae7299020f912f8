"""The sample store: exactly once, whole lines, any number of ranks, refusal of mixed runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internvl_chat.records.durable import open_for_append, whole_lines, write_atomically
from internvl_chat.run.process import Process, find_process
from tools.reasoning_data_pipeline.files.store import SampleStore, StoreMismatchError, read_origin, sample_seed

ROOT = Path(__file__).parents[4]
KEYS = [f"prompt {i}" for i in range(20)]
PARAMETERS = {"temperature": 1.0, "checkpoint": "tiny"}


def open_store(output, rank=0, world_size=1, **changes):
    given = {"keys": KEYS, "num_samples": 3, "parameters": PARAMETERS, **changes}
    given.setdefault("worker", Process(rank, world_size, run_id="launch 1"))
    return SampleStore(output, **given)


def row(key, sample):
    return {"key": key, "sample": sample, "seed": sample_seed(7, key, sample)}


def work(store, limit=None):
    """Make up to `limit` pending prompts of this worker."""
    for key, samples in list(store.pending())[:limit]:
        store.append(key, {s: row(key, s) for s in samples})


def expected():
    return [row(key, sample) for key in KEYS for sample in range(3)]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("world_size", [1, 2, 4, 40])
def test_any_number_of_ranks_gives_the_same_merged_file(tmp_path, world_size):
    output = tmp_path / "data.jsonl"
    summaries = []
    for rank in reversed(range(world_size)):
        with open_store(output, rank, world_size) as store:
            work(store)
            summaries.append(store.finish())
    assert rows(output) == expected()
    assert summaries[-1].rows == 60 and summaries[-1].duplicates == 0
    assert not list((tmp_path / "data.parts").glob("rank-*"))


def test_only_the_last_worker_merges_and_late_ones_read_the_summary(tmp_path):
    output = tmp_path / "data.jsonl"
    first, second = open_store(output, 0, 2), open_store(output, 1, 2)
    work(first)
    assert first.finish() is None and not output.exists()
    work(second)
    merged = second.finish()
    assert merged.prompts == 20 and first.finish() == merged


def test_the_next_start_merges_a_run_whose_last_rank_died_before_merging(tmp_path):
    output = tmp_path / "data.jsonl"
    with open_store(output) as store:
        work(store)
    assert not output.exists()
    assert open_store(output).finished and rows(output) == expected()


def test_a_worker_that_finds_shards_half_removed_does_not_merge_the_rest(tmp_path):
    output = tmp_path / "data.jsonl"
    first, second = open_store(output, 0, 2), open_store(output, 1, 2)
    work(first)
    work(second)
    second.close()
    next((tmp_path / "data.parts").glob("rank-00000*")).unlink()
    assert second.finish() is None and not output.exists()


def test_a_worker_that_starts_while_another_merges_has_nothing_to_do(tmp_path, monkeypatch):
    output = tmp_path / "data.jsonl"
    first = open_store(output, 0, 2)
    work(first)
    for key, samples in open_store(output, 1, 2).pending():
        first.append(key, {s: row(key, s) for s in samples})
    listed = SampleStore._shards

    def merged_behind_our_back(store):
        shards = listed(store)
        monkeypatch.setattr(SampleStore, "_shards", listed)
        assert first.finish().rows == 60
        return shards

    monkeypatch.setattr(SampleStore, "_shards", merged_behind_our_back)
    late = open_store(output, 1, 2)
    assert list(late.pending()) == [] and late.finish().rows == 60
    assert not list((tmp_path / "data.parts").glob("rank-*"))


@pytest.mark.parametrize("tail", [b'{"k":3,"s":0,"row":{"a"', b'{"k":3,"s":0,"row":{}}', b"\xff\x00"])
def test_a_torn_tail_is_dropped_and_made_again(tmp_path, tail):
    output = tmp_path / "data.jsonl"
    with open_store(output) as store:
        work(store, 3)
    shard = next((tmp_path / "data.parts").glob("rank-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole + tail)
    with open_store(output) as store:
        assert shard.read_bytes() == whole
        assert [key for key, _ in store.pending()] == KEYS[3:]
        work(store)
        store.finish()
    assert rows(output) == expected()


def test_resume_makes_only_the_missing_samples_of_a_prompt(tmp_path):
    output = tmp_path / "data.jsonl"
    with open_store(output) as store:
        store.append(KEYS[5], {1: row(KEYS[5], 1)})
    with open_store(output) as store:
        assert dict(store.pending())[KEYS[5]] == [0, 2]


def test_resume_with_another_number_of_ranks(tmp_path):
    output = tmp_path / "data.jsonl"
    for rank in range(4):
        with open_store(output, rank, 4) as store:
            work(store, 2)
    for rank in range(3):
        with open_store(output, rank, 3) as store:
            work(store)
            summary = store.finish()
    assert rows(output) == expected() and summary.duplicates == 0


def test_a_resume_with_other_parameters_is_refused_by_name(tmp_path):
    output = tmp_path / "data.jsonl"
    open_store(output).close()
    with pytest.raises(StoreMismatchError, match=r"temperature 1.0 -> 0.5; resume .* --overwrite"):
        open_store(output, parameters={**PARAMETERS, "temperature": 0.5})
    with pytest.raises(StoreMismatchError, match=r"top_k None -> 50"):
        open_store(output, parameters={**PARAMETERS, "top_k": 50})
    with pytest.raises(StoreMismatchError, match=r"prompts '20 prompts .* -> '19 prompts"):
        open_store(output, keys=KEYS[1:])
    with pytest.raises(StoreMismatchError, match="num_samples 3 -> 4"):
        open_store(output, num_samples=4)


def test_the_origin_is_kept_but_not_compared(tmp_path):
    output = tmp_path / "data.jsonl"
    open_store(output, origin={"image_root": "/a"}).close()
    open_store(output, origin={"image_root": "/b"}).close()
    assert read_origin(output) == {"image_root": "/a"} and read_origin(tmp_path / "other.jsonl") == {}


def test_overwrite_drops_an_older_launch_but_not_a_sibling(tmp_path):
    output = tmp_path / "data.jsonl"
    with open_store(output, worker=Process(run_id="old")) as store:
        work(store)
        store.finish()
    new = {"parameters": {**PARAMETERS, "temperature": 0.5}, "overwrite": True}
    first = open_store(output, worker=Process(0, 2, "new"), **new)
    assert not output.exists()
    work(first)
    second = open_store(output, worker=Process(1, 2, "new"), **new)
    work(second)
    assert first.finish().rows == second.finish().rows == 60


def test_a_late_worker_of_a_launch_that_overwrites_leaves_alone_what_the_first_one_finished(tmp_path):
    """The first worker may own all prompts and be done before the second one starts."""
    output = tmp_path / "data.jsonl"
    with open_store(output, worker=Process(run_id="old")) as store:
        work(store)
        store.finish()
    options = {"keys": [key for key in KEYS if Process(0, 2).owns(key)], "overwrite": True}
    first = open_store(output, worker=Process(0, 2, "new"), **options)
    work(first)
    merged = first.finish()
    late = open_store(output, worker=Process(1, 2, "new"), **options)
    assert late.finished and late.finish() == merged and list(late.pending()) == []
    assert len(rows(output)) == 3 * len(options["keys"])


def test_overwrite_without_a_launch_id_is_refused(tmp_path):
    output = tmp_path / "data.jsonl"
    open_store(output).close()
    with pytest.raises(ValueError, match="rdzv-id"):
        open_store(output, worker=Process(0, 2, run_id=""), overwrite=True)


@pytest.mark.parametrize("damage", [b'{"gen', b"[]", b"", b"{}"])
def test_a_damaged_manifest_is_named_and_overwritten_on_request(tmp_path, damage):
    output = tmp_path / "data.jsonl"
    with open_store(output) as store:
        work(store)
    manifest = tmp_path / "data.parts" / "manifest.json"
    manifest.write_bytes(damage)
    with pytest.raises(ValueError, match=r"manifest\.json: (damaged|lacks).*--overwrite"):
        open_store(output)
    assert manifest.read_bytes() == damage
    with open_store(output, worker=Process(0, 1, run_id="launch 2"), overwrite=True) as store:
        work(store)
        assert store.finish().rows == 60


def test_an_output_of_unknown_origin_is_not_touched(tmp_path):
    output = tmp_path / "data.jsonl"
    output.write_text("precious\n")
    with pytest.raises(StoreMismatchError, match="manifest"):
        open_store(output)
    assert output.read_text() == "precious\n"


def test_rejects_and_skips_are_counted_and_written_down(tmp_path):
    output = tmp_path / "data.jsonl"
    with open_store(output) as store:
        store.append(KEYS[6], {0: row(KEYS[6], 0)})
        store.reject(KEYS[6], file="prompts.jsonl", line=7, reason="engine failed")
        store.reject(KEYS[4], file="prompts.jsonl", line=5, reason="no such image: a.png")
        store.skip(KEYS[0], 2, "equal to the original")
        work(store)
        summary = store.finish()
    assert (summary.rows, summary.rejected, summary.skipped) == (60 - 3 - 2 - 1, 2, {"equal to the original": 1})
    rejects = rows(tmp_path / "data.parts" / "rejects.jsonl")
    assert rejects[0] == {"file": "prompts.jsonl", "line": 5, "reason": "no such image: a.png"}
    assert [reject["line"] for reject in rejects] == [5, 7]
    assert [r["sample"] for r in rows(output) if r["key"] == KEYS[6]] == [0]


def test_samples_written_twice_are_merged_once(tmp_path):
    output = tmp_path / "data.jsonl"
    a, b = open_store(output, 0, 1), open_store(output, 1, 2)  # two launches that think differently of the split
    work(a)
    b.append(KEYS[3], {0: row(KEYS[3], 0)})
    b.close()
    assert a.finish().duplicates == 1
    assert rows(output) == expected()


def test_two_live_writers_of_one_shard_are_refused(tmp_path):
    with open_store(tmp_path / "data.jsonl"), pytest.raises(BlockingIOError, match="started twice"):
        open_store(tmp_path / "data.jsonl")


def test_equal_keys_no_samples_and_late_writes_are_errors(tmp_path):
    with pytest.raises(ValueError, match="'x' stands for more than one"):
        open_store(tmp_path / "a.jsonl", keys=["x", "y", "x"])
    with pytest.raises(ValueError, match="not 0"):
        open_store(tmp_path / "a.jsonl", num_samples=0)
    store = open_store(tmp_path / "a.jsonl")
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.append(KEYS[0], {0: {}})


def test_an_empty_run_gives_an_empty_file(tmp_path):
    with open_store(tmp_path / "a.jsonl", keys=[]) as store:
        assert store.finish().rows == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""


def test_seeds_depend_on_run_prompt_and_sample_only():
    seeds = {sample_seed(run, key, s) for run in (0, 1) for key in KEYS for s in range(32)}
    assert len(seeds) == 2 * 20 * 32 and all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, "a", 2) == 4837188943702724631  # pinned: another function would break resumes


def test_damaged_lines_are_left_out_and_offsets_stay_right(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n\x00\x00\n{"a":2}\n{"a":3}')
    assert list(whole_lines(path)) == [(0, {"a": 1}), (11, {"a": 2})]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def chunks():
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.json"]


def test_open_for_append_keeps_whole_lines(tmp_path):
    path = tmp_path / "sub" / "a.jsonl"
    open_for_append(path).close()
    path.write_bytes(b"one\ntw")
    with open_for_append(path) as file:
        file.write(b"2\n")
    assert path.read_bytes() == b"one\n2\n"


@pytest.mark.parametrize(
    ("environment", "rank", "world_size", "run_id"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "job"}, 1, 4, "job"),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 1, 4, ""),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, 2, f"launcher-{os.getppid()}"),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}, 3, 8, "12.0"),
    ],
)
def test_workers_find_their_place(environment, rank, world_size, run_id):
    found = find_process(environment)
    assert (found.rank, found.world_size, found.run_id) == (rank, world_size, run_id)


def test_a_single_process_is_rank_0_of_1_with_an_id_of_its_own():
    one, two = find_process({}), find_process({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert (one.rank, one.world_size, two.world_size) == (0, 1, 1) and one.run_id != two.run_id
    with pytest.raises(ValueError, match="rank 2 is not in 0..1"):
        Process(2, 2)


CHILD = """
import sys, time
from tools.reasoning_data_pipeline.files.store import SampleStore, sample_seed
from internvl_chat.run.process import Process, find_process
keys = [f"prompt {i}" for i in range(20)]
worker = Process(int(sys.argv[2]), int(sys.argv[3]), "launch 1")
parameters = {"temperature": 1.0, "checkpoint": "tiny"}
with SampleStore(sys.argv[1], keys=keys, num_samples=3, parameters=parameters, worker=worker) as store:
    for key, samples in store.pending():
        for s in samples:
            store.append(key, {s: {"key": key, "sample": s, "seed": sample_seed(7, key, s)}})
            time.sleep(0.002)
    store.finish()
"""


@pytest.mark.integration
def test_random_kills_lose_nothing_and_double_nothing(tmp_path):
    """The short form of benchmarks/kill_sampling.py."""
    chance = random.Random(0)
    output = tmp_path / "data.jsonl"
    for _ in range(6):
        world_size = chance.choice([1, 2, 3])
        ranks = [
            subprocess.Popen([sys.executable, "-c", CHILD, str(output), str(rank), str(world_size)])
            for rank in range(world_size)
        ]
        time.sleep(chance.uniform(0.2, 0.5))
        for process in ranks:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run([sys.executable, "-c", CHILD, str(output), "0", "1"], check=True)
    assert rows(output) == expected()


@pytest.mark.integration
def test_the_kill_benchmark_in_its_short_form():
    """Real ranks of the correctness pipeline, killed; the long form is committed with its result."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_sampling.py"), "--kills", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["kills"] >= 3 and figures["runs equal to the undisturbed one"] >= 1 and figures["pairs"] > 0
