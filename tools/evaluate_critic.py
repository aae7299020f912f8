"""How well a critic tells right steps from wrong ones: VisualProcessBench and files of its format.

    python tools/evaluate_critic.py --benchmark VisualProcessBench/test.jsonl --critic work_dirs/prm \
        --out work_dirs/prm/critic.json --page work_dirs/prm/critic.html
    python tools/evaluate_critic.py --benchmark test.jsonl --scores others.jsonl
    python tools/evaluate_critic.py --benchmark test.jsonl --critic work_dirs/prm --threshold sweep

Macro F1 of right and wrong steps, per source and overall in the three readings that are published; neutral steps are
left out and counted. A step is right where its score, p(`+`), is above `--threshold`: 0.85 is that of VisualPRM-8B.
`sweep` seeks one on a seeded part of the questions and measures the others: sought on what it is measured on, a
threshold flatters. With --out x.json scores are kept in x.scores.jsonl; a scoring that was stopped goes on there.
`--scores` measures what another critic said, or Monte-Carlo estimates. docs/critics.md tells more.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import json_text, write_atomically
from internvl_chat.records.rows import RecordError
from internvl_chat.run.entry import Parser, at_least, enter
from tools.critic_benchmark.metrics import ScoredRow, measure
from tools.critic_benchmark.rows import Benchmark, read_benchmark
from tools.critic_benchmark.scores import StepScores, read_scores, score_rows
from tools.critic_benchmark.split import Chosen, sweep
from tools.critic_benchmark.table import table
from tools.reasoning_data_pipeline.prompts.files import add_symlink_flag
from tools.scoring.critic import critic_weights, open_critic

THRESHOLD = 0.85
MOST_SHOWN = 5  # lines of unusable rows


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, required=True, help="JSONL of answers whose steps were judged")
    parser.add_argument("--critic", help="checkpoint that scores the steps: folder or hub name")
    parser.add_argument("--scores", type=Path, help="JSONL of scores made elsewhere, instead of --critic")
    parser.add_argument("--image-root", type=Path, help="folder of the rows' images; paths may not lead out of it")
    add_symlink_flag(parser)
    parser.add_argument("--max-num", type=at_least(1), default=6, help="tile limit of a question's pictures together")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="answers to one question scored at once")
    choice = parser.add_argument_group("threshold")
    choice.add_argument("--threshold", type=threshold, default=THRESHOLD, help="0 to 1, or sweep; default %(default)s")
    choice.add_argument("--sweep-share", type=share, default=0.2, help="of the questions, to seek it on: %(default)s")
    choice.add_argument("--seed", type=int, default=0, help="of that part")
    results = parser.add_argument_group("results")
    results.add_argument("--out", type=Path, help="JSON file to write")
    results.add_argument("--page", type=Path, help="HTML page to write, with answers it misjudges")
    results.add_argument("--number", type=at_least(0), default=8, help="of these, a kind (default: %(default)s)")
    results.add_argument("--leave-out", action="store_true", help="leave out rows that cannot be used, and count them")
    return parser.parse_args(argv)


def threshold(text: str) -> float | None:
    """Type of --threshold: None for `sweep`."""
    return None if text == "sweep" else _between(text, float(text), 0 <= float(text) <= 1, "0 to 1, or sweep")


def share(text: str) -> float:
    """Type of --sweep-share."""
    wanted = "above 0 and below 1: a threshold is not sought on the rows that are measured"
    return _between(text, float(text), 0 < float(text) < 1, wanted)


def _between(text: str, value: float, is_right: bool, wanted: str) -> float:
    if not is_right:
        raise argparse.ArgumentTypeError(f"{text} must be {wanted}")
    return value


def evaluate_critic(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what `args` (of `parse_arguments`) names; write and return it as JSON values.

    Raises:
        ValueError: neither or both of --critic and --scores, or nothing to measure.
        RecordError: a row or a line of scores is not usable, and not --leave-out.
        FileNotFoundError: a file, a checkpoint or a picture is not there.
    """
    if bool(args.critic) == bool(args.scores):
        raise ValueError("give one of --critic, a checkpoint that scores the steps, and --scores, a file of them")
    benchmark = read_benchmark(args.benchmark, args.image_root, follow_symlinks=args.follow_symlinks)
    left_out = left_out_of(benchmark.unusable, leave_out=args.leave_out)
    scores = find_scores(args, benchmark)
    left_out += left_out_of(unscored(benchmark, scores), leave_out=args.leave_out)
    rows = [ScoredRow(row, scores[row.key]) for row in benchmark.rows if row.key in scores]
    if not rows:
        raise ValueError(f"{args.benchmark}: no row is left to measure ({dict(left_out)})")
    found = choose(rows, args)
    report = {
        "benchmark": str(args.benchmark),
        "scored": str(args.critic or args.scores),
        "threshold": found.threshold,
        "chosen": found.how,
        "rows": len(found.rows),
        "left_out": dict(left_out),
        **measure(found.rows, found.threshold),
    }
    write_results(args, report, found.rows)
    return report


def find_scores(args: argparse.Namespace, benchmark: Benchmark) -> StepScores:
    """The scores of a file, or those of a critic, which are kept beside --out."""
    if args.scores:
        total = len(benchmark.rows) + len(benchmark.unusable)
        return read_scores(args.scores, benchmark.rows, total)
    return score_rows(
        benchmark.rows,
        lambda: open_critic(args.critic, args.max_num),
        by=f"{critic_weights(args.critic)}-{args.max_num}",
        kept=args.out.with_suffix(".scores.jsonl") if args.out else None,
        at_once=args.batch_size,
    )


def unscored(benchmark: Benchmark, scores: StepScores) -> list[RecordError]:
    """The rows that a file of scores, or an earlier scoring, says nothing of."""
    rows = (row for row in benchmark.rows if row.key not in scores)
    return [RecordError(*row.where, "no score for its steps", "no_score") for row in rows]


def left_out_of(faults: Sequence[RecordError], *, leave_out: bool) -> Counter[str]:
    """Rows that cannot be measured, by the reason; RecordError with the first of them unless they may be left out."""
    if faults and not leave_out:
        first = min(faults, key=lambda fault: fault.line)
        lines = ", ".join(str(fault.line) for fault in sorted(faults, key=lambda fault: fault.line)[:MOST_SHOWN])
        cure = f"mend or score them (lines {lines} first), or --leave-out, which counts them"
        reason = f"{first.reason}\n{len(faults)} rows cannot be used: {cure}"
        raise RecordError(first.file, first.line, reason, first.fault)
    return Counter(fault.fault for fault in faults)


def choose(rows: Sequence[ScoredRow], args: argparse.Namespace) -> Chosen:
    """The threshold that was given, or one that is sought on a part of the rows."""
    if args.threshold is None:
        return sweep(rows, args.sweep_share, args.seed)
    return Chosen(args.threshold, "given", rows)


def write_results(args: argparse.Namespace, report: dict[str, Any], rows: Sequence[ScoredRow]) -> None:
    """Write the JSON file and the page, where they are asked for."""
    if args.out:
        write_atomically(args.out, [json_text(report)])
    if args.page:
        from tools.critic_benchmark.page import critic_page  # with matplotlib

        title = f"Critic {report['scored']}"
        write_atomically(args.page, [critic_page(report, rows, number=args.number, title=title).encode()])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    print(table(evaluate_critic(parse_arguments(argv))))


if __name__ == "__main__":
    enter(main)
