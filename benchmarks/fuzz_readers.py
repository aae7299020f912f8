"""Coverage-guided fuzzing of the row reader, the answer parser and the checker.

    pip install atheris==3.0.0
    python benchmarks/fuzz_readers.py --seconds 2400                  # all targets, writes results/fuzz_readers.json
    python benchmarks/fuzz_readers.py --seconds 60 --targets answers  # one of fuzz_targets.py, nothing written

Each target runs in a process of its own under libFuzzer, which keeps the inputs that reach new branches and alters
them. It begins with the golden cases of the tests and with what was found before. An input that breaks a promise, or
takes longer than TIMEOUT_S, is kept in the work folder and the target starts again. The exit status says whether there
was one; put it into tests/hostile/findings/<target> when it is mended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz_targets import MODES, TARGETS
from machine import write_results

from tools.reasoning_data_pipeline.prompts.wording import VERSIONS

ROOT = Path(__file__).parents[1]
ANSWERS = ROOT / "tests" / "answers"
FINDINGS = ROOT / "tests" / "hostile" / "findings"
SHARES = {"rows": 2, "lines": 1, "metas": 1, "responses": 2, "answers": 3, "algebra": 3}
TIMEOUT_S = 60  # by the clock, so a busy machine stretches it; algebra has a deadline of a second
MAX_BYTES = 16_384
_STATUS = re.compile(r"#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)")
_SLOWEST = re.compile(r"slowest_unit_time_sec: (\d+)")


def seeds(target: str) -> Iterator[bytes]:
    """Inputs to begin with: golden cases in the form that the target reads, and earlier findings."""
    if target == "rows":
        for path in (*ANSWERS.glob("pairs/*.jsonl"), *ANSWERS.glob("pairs/sampled/*.jsonl")):
            yield from path.read_bytes().splitlines()[:8]
        yield b"\0" + b"".join(bytes([field]) + b"\0a.png,b.png" for field in range(14))
    elif target == "lines":
        yield (ANSWERS / "pairs" / "mc_scores.jsonl").read_bytes().replace(b"\n", b"\r\n\n  \n")
    elif target == "metas":
        yield (ROOT / "tests" / "golden" / "data" / "meta.json").read_bytes()
    elif target == "responses":
        for case in _cases("golden_parse_answer.jsonl"):
            yield bytes([(*VERSIONS, case["prompt_version"]).index(case["prompt_version"])]) + case["response"].encode()
    else:
        for case in _cases("golden_check_answer.jsonl"):
            mode = bytes([MODES.index((case["mode"] or MODES)[-1])]) if target == "algebra" else b""
            yield mode + f"{case['pred']}\0{case['gt']}".encode()
    for path in sorted((FINDINGS / target).glob("*")):
        yield path.read_bytes()


def _cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ANSWERS / name).read_text(encoding="utf-8").splitlines()]


def fuzz(target: str, seconds: int, folder: Path) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris  # here only: the tests use the targets without it

    with atheris.instrument_imports(include=["internvl_chat", "tools", "fuzz_targets"]):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("internvl_chat", "tools")]:
            del sys.modules[name]
        del sys.modules["fuzz_targets"]
        from fuzz_targets import TARGETS as instrumented
    settings = {
        "max_total_time": seconds,
        "timeout": TIMEOUT_S,
        "report_slow_units": TIMEOUT_S,
        "max_len": MAX_BYTES,
        "rss_limit_mb": 2048,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/found-",
        "dict": folder / "words",
    }
    options = [f"-{name}={value}" for name, value in settings.items()]
    instrumented[target](next(seeds(target)))  # what is made at the first call does not count as time of an input
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], instrumented[target])
    atheris.Fuzz()


def prepare(target: str, folder: Path) -> None:
    """Write the seeds, and the words in them as a dictionary for libFuzzer."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    words: set[str] = set()
    for number, seed in enumerate(seeds(target)):
        (folder / "corpus" / f"seed-{number:04d}").write_bytes(seed)
        words.update(re.findall(r"\\[A-Za-z]+|[A-Za-z\"]{2,12}", seed.decode("utf-8", "replace")))
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in sorted(words))
    (folder / "words").write_text("".join(f'"{word}"\n' for word in quoted), encoding="utf-8")


def run(target: str, seconds: int, folder: Path) -> dict[str, Any]:
    """Fuzz one target for so long, starting again after each finding; what was reached and what was found."""
    prepare(target, folder)
    before, end = set(folder.glob("found-*")), time.monotonic() + seconds
    figures: dict[str, Any] = {"seconds": seconds, "executions": 0, "slowest_s": 0}
    while (left := round(end - time.monotonic())) > 0:
        command = [sys.executable, __file__, "--child", target, "--seconds", str(left), "--work", str(folder)]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        log = subprocess.run(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}).stderr.decode(
            "utf-8", "replace"
        )
        (folder / "log.txt").write_text(log, encoding="utf-8")
        found = set(folder.glob("found-*")) - before
        if found:
            print(log[-3000:])
        states = _STATUS.findall(log)
        if not states and not found:
            raise RuntimeError(f"the fuzzer of {target} did not start: {log[-2000:]}")
        for executions, branches, features, corpus in states[-1:]:
            figures["executions"] += int(executions)
            figures |= {"branches": int(branches), "features": int(features), "corpus": int(corpus)}
        figures["slowest_s"] = max([figures["slowest_s"], *map(int, _SLOWEST.findall(log))])
    return {**figures, "findings": sorted(path.name for path in set(folder.glob("found-*")) - before)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where an input broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2400, help="of all targets together")
    parser.add_argument("--jobs", type=int, default=2, help="targets fuzzed at the same time")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="only these; nothing is written then")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/fuzz"), help="where corpus and findings are kept")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        fuzz(args.child, args.seconds, args.work)
    shares = {name: SHARES[name] for name in args.targets or TARGETS}
    seconds = [args.seconds * share // sum(shares.values()) for share in shares.values()]
    folders = [args.work.absolute() / name for name in shares]
    with ThreadPoolExecutor(args.jobs) as pool:
        figures = dict(zip(shares, pool.map(run, shares, seconds, folders), strict=True))
    for name, found in figures.items():
        print(name, found)
    if not args.targets:
        write_results("fuzz_readers", {"seconds": args.seconds, "timeout_s": TIMEOUT_S, "targets": figures})
    return int(any(found["findings"] for found in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
