"""Unpacking a zip of a million members: members a second and memory, the first time and when all is there.

    python benchmarks/bench_unpacking.py                     # 1,000,000 members, writes results/unpacking.json
    python benchmarks/bench_unpacking.py --members 20000     # the short form, prints only

Members are files of 100 bytes in folders of a thousand: what counts per member, not per byte. Each measurement is a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import zipfile
from pathlib import Path

from machine import call_apart, write_results

from tools.mmpr.unpack import Unpacker

PIECES = 3


def write_pieces(folder: Path, members: int) -> None:
    """images.zip_aa, _ab, _ac."""
    folder.mkdir(parents=True)
    whole = folder / "images.zip"
    with zipfile.ZipFile(whole, "w") as zipped:
        for number in range(members):
            zipped.writestr(f"images/set_{number % 90:02d}/{number // 90_000:04d}/{number:07d}.png", b"%100d" % number)
    size = -(-whole.stat().st_size // PIECES)
    with open(whole, "rb") as file:
        for ending in ("_aa", "_ab", "_ac"):
            (folder / f"images.zip{ending}").write_bytes(file.read(size))
    whole.unlink()


def measure(folder: Path) -> dict[str, float]:
    """Unpack in this process."""
    begin = time.perf_counter()
    result = Unpacker(folder / "out").unpack("images", sorted(folder.glob("images.zip*")))
    seconds, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "members": result.members,
        "written": result.written,
        "seconds": round(seconds, 1),
        "members_per_second": round(result.members / seconds),
        "members_per_cpu_second": round(result.members / (usage.ru_utime + usage.ru_stime)),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Measure both, and write the figures with the machine that they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        write_pieces(folder, args.members)
        figures = {run: call_apart(measure, folder) for run in ("first", "again")}
    if args.members == parser.get_default("members"):
        write_results("unpacking", figures)
    else:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
