"""The cache on disk: what it keeps, what it survives."""

import numpy as np
import pytest

from internvl_chat.reference.cache import RECORD, LogpsCache

KEYS = [bytes([n]) * 15 + b"\0" for n in range(1, 6)]


def test_unknown_keys_are_nan_and_known_ones_exact(tmp_path):
    cache = LogpsCache(tmp_path)
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
