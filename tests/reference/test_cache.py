"""The cache on disk: what it keeps, what it survives."""

import errno
import multiprocessing

import numpy as np
import pytest

from internvl_chat.reference.cache import RECORD, LogpsCache

KEYS = [bytes([n]) * 15 + b"\0" for n in range(1, 6)]


def test_unknown_keys_are_nan_and_known_ones_exact(tmp_path):
    cache = LogpsCache(tmp_path / "made" / "when absent")
    cache.append(KEYS[:2], [-1.25, -700.123456789])
    found = cache.lookup([KEYS[1], KEYS[4], KEYS[0]])
    assert found[0] == -700.123456789 and np.isnan(found[1]) and found[2] == -1.25


def test_merging_keeps_every_rank_and_answers_the_same(tmp_path):
    first, second = LogpsCache(tmp_path, rank=0), LogpsCache(tmp_path, rank=1)
    first.append(KEYS[3:], [-4.0, -5.0])
    second.append(KEYS[:3], [-1.0, -2.0, -3.0])
    second.close()
    first.merge()
    second.reload()
    for cache in (first, second, LogpsCache(tmp_path)):
        assert cache.lookup(KEYS).tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0]
        assert len(cache) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logps.npy", "merge.lock"]
    assert isinstance(first.sorted, np.memmap)


def test_a_second_merge_adds_to_the_first(tmp_path):
    cache = LogpsCache(tmp_path)
    cache.append(KEYS[:1], [-1.0])
    cache.merge()
    cache.append(KEYS[1:2], [-2.0])
    cache.merge()
    assert cache.lookup(KEYS[:2]).tolist() == [-1.0, -2.0]
    assert np.isnan(cache.lookup(KEYS[2:])).all()  # not their neighbours in the sorted file


@pytest.mark.parametrize("torn", range(1, RECORD.itemsize))
def test_a_torn_record_is_dropped_and_the_rest_kept(tmp_path, torn):
    cache = LogpsCache(tmp_path)
    cache.append(KEYS[:2], [-1.0, -2.0])
    [shard] = tmp_path.glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-torn])
    again = LogpsCache(tmp_path)
    found = again.lookup(KEYS[:2])
    assert found[0] == -1.0 and np.isnan(found[1])
    again.append(KEYS[1:2], [-2.0])
    assert LogpsCache(tmp_path).lookup(KEYS[:2]).tolist() == [-1.0, -2.0]


def test_filled_data_are_remembered_until_forgotten(tmp_path):
    LogpsCache(tmp_path).mark_filled("data")
    cache = LogpsCache(tmp_path)
    assert cache.is_filled("data") and not cache.is_filled("other")
    cache.forget_filled()
    assert not cache.is_filled("data")


def test_an_empty_cache_knows_nothing(tmp_path):
    assert np.isnan(LogpsCache(tmp_path).lookup(KEYS)).all()
    assert LogpsCache(tmp_path).lookup([]).size == 0


@pytest.mark.parametrize("logp", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_cause_and_nothing_is_stored(tmp_path, logp):
    """Stored, it would be read as missing, and blamed on the data at every restart."""
    cache = LogpsCache(tmp_path)
    cause = rf"the reference gives {logp} for 1 of 2 answers of rows \['a:7'\], .*--bf16 True"
    with pytest.raises(FloatingPointError, match=cause):
        cache.append(KEYS[:2], [-1.0, logp], ["a:7"])
    assert np.isnan(cache.lookup(KEYS[:2])).all() and len(LogpsCache(tmp_path)) == 0


def test_what_another_run_writes_during_a_merge_is_kept(tmp_path, monkeypatch):
    """Two runs of one sweep, each with a first rank."""
    one, other = LogpsCache(tmp_path), LogpsCache(tmp_path)
    one.append(KEYS[:1], [-1.0])
    other.append(KEYS[1:2], [-2.0])
    save = np.save

    def meanwhile(*args):
        save(*args)
        other.append(KEYS[2:3], [-3.0])

    monkeypatch.setattr(np, "save", meanwhile)
    one.merge()
    monkeypatch.undo()
    other.append(KEYS[3:4], [-4.0])
    other.merge()
    assert LogpsCache(tmp_path).lookup(KEYS[:4]).tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert not list(tmp_path.glob("*.shard"))


def test_opening_leaves_the_record_that_another_run_is_writing(tmp_path):
    LogpsCache(tmp_path).append(KEYS[:1], [-1.0])
    [shard] = tmp_path.glob("*.shard")
    with shard.open("ab") as half_written:
        half_written.write(b"half")
    LogpsCache(tmp_path)
    assert shard.read_bytes().endswith(b"half")


def test_a_merge_leaves_the_shards_of_live_processes_and_takes_those_of_dead_ones(tmp_path):
    live = LogpsCache(tmp_path, rank=1)
    live.append(KEYS[:1], [-1.0])
    (tmp_path / "rank-00007-dead.shard").write_bytes(np.array([(KEYS[1], -2.0)], RECORD).tobytes() + b"torn")
    LogpsCache(tmp_path).merge()
    [left] = tmp_path.glob("*.shard")
    assert left.name.startswith("rank-00001-")
    assert LogpsCache(tmp_path).lookup(KEYS[:2]).tolist() == [-1.0, -2.0]


def test_without_locks_no_shard_is_ever_removed(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    one, other = LogpsCache(tmp_path), LogpsCache(tmp_path)
    one.append(KEYS[:1], [-1.0])
    other.append(KEYS[1:2], [-2.0])
    one.merge()
    other.merge()
    assert len(list(tmp_path.glob("*.shard"))) == 2
    assert LogpsCache(tmp_path).lookup(KEYS[:2]).tolist() == [-1.0, -2.0]


def fill(folder, run, records, barrier):
    """A run that merges often."""
    barrier.wait()
    for number in range(records):
        cache = LogpsCache(folder)
        cache.append([key_of(run, number)], [float(-number)])
        cache.merge()


def key_of(run, number):
    return f"{run:08d}{number:08d}".encode()


def test_two_processes_fill_one_cache_and_lose_nothing(tmp_path):
    fork = multiprocessing.get_context("fork")
    records, barrier = 15, fork.Barrier(2)
    runs = [fork.Process(target=fill, args=(tmp_path, run, records, barrier)) for run in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    for run in range(2):
        found = LogpsCache(tmp_path).lookup([key_of(run, number) for number in range(records)])
        assert found.tolist() == [float(-number) for number in range(records)]
    assert not list(tmp_path.glob("*.shard"))


def test_a_shard_that_is_merged_while_another_process_opens_the_cache_is_read_from_the_sorted_file(
    tmp_path, monkeypatch
):
    one = LogpsCache(tmp_path)
    one.append(KEYS[:1], [-1.0])
    read = np.fromfile

    def merged_meanwhile(*args):
        monkeypatch.undo()
        one.merge()
        return read(*args)

    monkeypatch.setattr(np, "fromfile", merged_meanwhile)
    assert LogpsCache(tmp_path).lookup(KEYS[:1]).tolist() == [-1.0]
