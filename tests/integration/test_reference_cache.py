"""A filled cache on a cluster: ranks that see a file differently must still do the same."""

import os
import time
from pathlib import Path

import pytest

from tests.integration import ranks

pytestmark = pytest.mark.integration


def rank_of_a_cluster(rank, *args):
    """A rank of `ranks.train`; all but the first see another time of access of every file, as over NFS."""
    if rank:
        look = os.stat

        def later(*how, **options):
            seen = look(*how, **options)
            fields = {name: getattr(seen, name) for name in dir(seen) if name.startswith("st_")}
            fields |= {"st_atime": fields["st_atime"] + 1, "st_atime_ns": fields["st_atime_ns"] + 10**9}
            return os.stat_result([*seen[:7], seen[7] + 1, *seen[8:]], fields)

        os.stat = later
    ranks._rank(rank, *args)


def test_ranks_with_other_times_of_access_train_from_a_filled_cache(tiny_flags, losses_of, tmp_path):
    """On their own word one would train while the other loads a model and waits: a hang."""
    settings = {"reference": "cache", "max_steps": 2, "save_strategy": "no", "reference_cache_dir": tmp_path / "caches"}
    argv = tiny_flags(tmp_path, **settings)
    for path in Path(argv[argv.index("--meta_path") + 1]).parent.glob("*.jsonl"):
        os.utime(path, (time.time() + 3600, path.stat().st_mtime))  # so that reading it here does not change it
    for run, target in (("fills", None), ("reads", rank_of_a_cluster)):
        argv = tiny_flags(tmp_path / run, **settings)
        ranks.train(argv, world=2, log=tmp_path / f"{run}.log", target=target, timeout=90)
    assert "some are to be computed" in (tmp_path / "fills.log").read_text()
    assert "all there" in (tmp_path / "reads.log").read_text()
    assert losses_of(tmp_path / "reads") == losses_of(tmp_path / "fills")
