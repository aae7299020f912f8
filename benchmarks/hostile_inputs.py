"""Malformed input through every entry point: each ends in a named error or in the ledger, and does nothing else.

    python benchmarks/hostile_inputs.py                     # all cases, writes results/hostile_inputs.json
    python benchmarks/hostile_inputs.py --sample 4          # of each kind, entry point and outcome 4; nothing written
    python benchmarks/hostile_inputs.py --only 'path/train' # cases whose id matches this

Every case starts from a clean folder of three rows, in which one thing is malformed, and goes through the documented
main function in a forked process. Held against it: an error must be raised by our code and say what is wrong; a row is
used or stands in the ledger, never both or neither; no traceback from below, no hang (over MAX_SECONDS of processor
time, or LIMIT_S by the clock, which a busy machine stretches), no more than MAX_MEMORY_MB above the clean input,
nothing written elsewhere, no program, connection or code of the input, and no text that becomes a special token. The
exit status says whether all held.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import write_results

if TYPE_CHECKING:
    from hostile.case import Case
    from hostile.watch import Report

LIMIT_S = 60.0  # after which a process is ended: a machine under load gets the time to show that it is no hang


def all_cases() -> list[Case]:
    """The generator: all cases, in a fixed order."""
    from hostile import chats, checkpoints, files, images, metas, paths, rows, texts

    kinds = (images, rows, paths, texts, metas, checkpoints, files, chats)
    found = [case for kind in kinds for case in kind.cases()]
    doubled = [name for name, count in Counter(case.id for case in found).items() if count > 1]
    assert not doubled, f"cases of one name: {doubled}"
    return found


def sampled(cases: Iterable[Case], number: int) -> list[Case]:
    """Evenly spread cases of each kind, entry point and outcome."""

    def group(case: Case) -> tuple[str, str, str]:
        return case.kind, case.entry, case.outcome

    found = []
    for _, same in groupby(sorted(cases, key=group), group):
        members = list(same)
        found += members[:: max(1, len(members) // number)][:number]
    return found


def run_all(cases: Sequence[Case], scratch: Path, jobs: int) -> dict[str, Any]:
    """Run cases, so many at the same time, print those that broke a promise; the figures."""
    from hostile.watch import faults, freeze, run, warm_up

    clean: dict[str, Report] = {}
    broken: dict[str, list[str]] = {}
    reports: dict[str, Report] = {}
    for entry in dict.fromkeys(case.entry for case in cases):
        warm_up(entry, scratch / "warm")
        freeze()
        clean[entry] = run(entry, None, scratch / "clean", LIMIT_S)
        shutil.rmtree(scratch / "clean")
        account = clean[entry].account
        assert account and account.used == [1, 2, 3], f"{entry} does not take the clean input: {clean[entry]}"

    def one(number: int) -> Report:
        folder = scratch / f"{number:04d}"
        report = run(cases[number].entry, cases[number], folder, LIMIT_S)
        shutil.rmtree(folder)
        return report

    for case, report in zip(cases, in_processes(one, len(cases), jobs), strict=True):
        reports[case.id] = report
        if problems := faults(case, report, clean[case.entry]):
            broken[case.id] = problems
            print(f"{case.id}: {problems}\n    {report.error} {report.message[:600]}\n{report.trace}", flush=True)
    return {**figures(cases, reports, clean), "broken": broken}


def in_processes(work: Callable[[int], Report], count: int, jobs: int) -> Iterator[Report]:
    """`work` for 0 to count - 1 in forked processes; what it closes over is theirs already."""
    fork = multiprocessing.get_context("fork")
    channels = [fork.Pipe(duplex=False) for _ in range(jobs)]

    def share(job: int) -> None:
        for number in range(job, count, jobs):
            channels[job][1].send(work(number))

    workers = [fork.Process(target=share, args=(job,)) for job in range(jobs)]
    for worker in workers:
        worker.start()
    for _, sender in channels:
        sender.close()
    for number in range(count):
        yield channels[number % jobs][0].recv()
    for worker in workers:
        worker.join()


def figures(cases: Sequence[Case], reports: dict[str, Report], clean: dict[str, Report]) -> dict[str, Any]:
    """Counts by kind, entry point and outcome; the most seconds and the most memory above a clean input."""
    added = {case.id: reports[case.id].memory_mb - clean[case.entry].memory_mb for case in cases}
    slowest, largest = max(cases, key=lambda case: reports[case.id].seconds), max(added, key=added.__getitem__)
    return {
        "cases": len(cases),
        "malformed": sum(case.outcome != "used" for case in cases),
        "by_outcome": dict(sorted(Counter(case.outcome for case in cases).items())),
        "by_kind": {
            kind: dict(sorted(Counter(case.outcome for case in cases if case.kind == kind).items()))
            for kind in dict.fromkeys(case.kind for case in cases)
        },
        "by_entry_point": dict(sorted(Counter(case.entry for case in cases).items())),
        "most_seconds": {"case": slowest.id, "processor_seconds": round(reports[slowest.id].seconds, 2)},
        "most_memory": {"case": largest, "mb_above_clean": round(added[largest])},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many cases of each kind, entry point and outcome")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cases at the same time")
    parser.add_argument("--record", action="store_true", help="write the result of a sample, too")
    parser.add_argument("--only", default="", help="cases whose id matches this regular expression")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        prepare(Path(scratch))
        chosen = [case for case in all_cases() if re.search(args.only, case.id)]
        chosen = sampled(chosen, args.sample) if args.sample else chosen
        result = run_all(chosen, Path(scratch), args.jobs)
    if (args.sample or args.only) and not args.record:
        print(f"{result['cases']} cases, {len(result['broken'])} broken: {', '.join(result['broken'])}")
    else:
        write_results("hostile_inputs", result)
    return int(bool(result["broken"]))


def prepare(scratch: Path) -> None:
    """Settings that must stand before the libraries are imported."""
    os.environ |= {"XDG_CACHE_HOME": f"{scratch}/cache", "HF_HOME": f"{scratch}/cache/hf"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in ("RANK", "WORLD_SIZE", "TP", "SLURM_NTASKS"):
        os.environ.pop(name, None)
    import torch
    import tqdm

    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # no thread before a fork


if __name__ == "__main__":
    sys.exit(main())
