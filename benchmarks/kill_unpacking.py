"""Kill unpackings: whatever dies when, the started-again command ends in exactly the files of an undisturbed one.

    python benchmarks/kill_unpacking.py               # 100 kills, writes results/kill_unpacking.json
    python benchmarks/kill_unpacking.py --kills 2     # the short form

A set in the layout of MMPR-v1.1 (two pieces, 3,000 pictures in 40 folders, annotations) is prepared by the command that
users type, in a process that is killed with SIGKILL at a random moment; now and then the journal's last line is torn
as a power failure would. Then it starts again, until it ends by itself. Its tree, every name and byte, must be that of
the undisturbed run; then the next begins with an empty folder, until all kills are spent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

from machine import write_results

from tools import prepare_mmpr

FORK = multiprocessing.get_context("fork")
PICTURES, FOLDERS = 3_000, 40
NAME = "MMPR-v1.1"


def write_set(folder: Path) -> None:
    """The set as it is downloaded: images.zip_a, images.zip_b, annotations.zip, meta.json."""
    chance, folder = random.Random(0), folder / NAME
    folder.mkdir(parents=True)
    names = [f"Set{number % FOLDERS}/{number}.png" for number in range(PICTURES)]
    whole = folder / "images.zip"
    with zipfile.ZipFile(whole, "w") as zipped:
        for name in names:
            zipped.writestr(f"images/{name}", chance.randbytes(chance.randint(200, 20_000)))
    content = whole.read_bytes()
    whole.unlink()
    for piece, part in (("_a", content[: len(content) // 2]), ("_b", content[len(content) // 2 :])):
        (folder / f"images.zip{piece}").write_bytes(part)
    rows = [{"image": name, "question": "What?", "chosen": "A", "rejected": "B"} for name in [*names, "gone.png"]]
    with zipfile.ZipFile(folder / "annotations.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("annotations/pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    entry = {"root": f"{NAME}/images", "annotation": f"{NAME}/annotations/pairs.jsonl", "repeat_time": 1}
    (folder / "meta.json").write_text(json.dumps({"pairs": entry}))


def run(source: Path, out: Path) -> None:
    """The command, silent; in a process of its own."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends soon)
    sys.exit(prepare_mmpr.main(["--source", str(source), "--out", str(out), "--sets", NAME]))


def tree(out: Path) -> dict[str, str]:
    """Name -> digest of every file, its own folder's name in messages aside; what says how long it took is left out."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != prepare_mmpr.RECORD)
    found = {str(path.relative_to(out)): digest(path, out) for path in files}
    return {name: digest for name, digest in found.items() if not name.endswith(".journal")}


def digest(path: Path, out: Path) -> str:
    """Of a file's bytes without the name of the folder that it was written to."""
    return hashlib.sha256(path.read_bytes().replace(str(out).encode(), b"")).hexdigest()


def disturb(source: Path, out: Path, chance: random.Random, seconds: float, counts: Counter[str]) -> bool:
    """Start the command and kill it at a moment of an undisturbed run's time; whether it ended before that."""
    process = FORK.Process(target=run, args=(source, out))
    process.start()
    process.join(chance.uniform(0, 1.1 * seconds))
    counts["starts"] += 1
    if process.exitcode is not None:
        assert process.exitcode == 0, f"exit code {process.exitcode}"
        return True
    process.kill()
    process.join()
    counts["kills"] += 1
    journals = list(out.rglob("*.journal"))
    if journals and chance.random() < 0.2:
        journal = chance.choice(journals)
        journal.write_bytes(journal.read_bytes()[: -chance.randint(1, 9)] or b"")
        counts["torn journals"] += 1
    return False


def main() -> None:
    """Kill until all kills are spent; write what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    args = parser.parse_args()
    chance, counts = random.Random(1), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        source, calm = Path(name) / "source", Path(name) / "calm"
        write_set(source)
        begin = time.perf_counter()
        process = FORK.Process(target=run, args=(source, calm))
        process.start()
        process.join()
        seconds, expected = time.perf_counter() - begin, tree(calm)
        while counts["kills"] < args.kills:
            out = Path(name) / f"run{counts['runs']}"
            while not disturb(source, out, chance, seconds, counts):
                pass
            counts["runs"] += 1
            assert not (wrong := tree(out).items() ^ expected.items()), f"{out} differs: {sorted(wrong)[:9]}"
    figures = {**counts, "files": len(expected), "undisturbed_seconds": round(seconds, 2), "trees_that_differ": 0}
    if args.kills == parser.get_default("kills"):
        write_results("kill_unpacking", figures)
    else:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
