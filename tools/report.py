"""A training run as one HTML page: what is wrong, curves, evaluation and answers before and after, data, settings.

    python tools/report.py work_dirs/mpo                                   work_dirs/mpo/report.html
    python tools/report.py work_dirs/mpo --evaluation work_dirs/after.json --out report.html
    python tools/report.py work_dirs/mpo --live                            serves the page while the run goes on

Reads what a run leaves in its output folder: trainer_state.json (or that of its last checkpoint; log.jsonl where that
is newer), settings.json, provenance.json, skipped.jsonl, ledger.json. The evaluation is an --out of tools/evaluate.py
made with --before or --against; without the flag, evaluation.json in the folder or after.json beside it. What is not
there is named in its place. The page is one file without a single external request. The rules that it judges by are
those of `tools.diagnosis.rules`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, at_least, enter
from tools.run_report.live import serve_run
from tools.run_report.page import PageOptions, run_page


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--evaluation", type=Path, help="--out of tools/evaluate.py; default: looked for")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the folder")
    parser.add_argument("--title", default="", help="heading; default: the folder")
    parser.add_argument("--number", type=int, default=8, help="answers shown (default: %(default)s)")
    parser.add_argument("--live", action="store_true", help="serve the page, which follows the run, instead")
    parser.add_argument("--host", default="127.0.0.1", help="address of --live (default: %(default)s)")
    parser.add_argument("--port", type=at_least(0), default=7861, help="of --live; 0 takes a free one (%(default)s)")
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> Path:
    """Write the page of `args` (of `parse_arguments`); returns its path. Errors as of `run_page`."""
    page = run_page(args.run, PageOptions(args.evaluation, args.title, args.number))
    out = args.out or args.run / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_arguments(argv)
    if args.live:
        serve_run(args.run, PageOptions(args.evaluation, args.title, args.number, is_live=True), (args.host, args.port))
        return
    out = report(args)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    enter(main)
