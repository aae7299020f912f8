"""Look at preference pairs: one HTML page with images, question, and both answers with their difference marked.

    python tools/view_pairs.py --meta pairs/meta.json --out pairs.html
    python tools/view_pairs.py --pairs MMPR/annotations/x.jsonl --root MMPR/images/x --out pairs.html --number 50

The page is one file without a single external request, so it can be mailed or opened behind a firewall; images are
downscaled and embedded, of videos a few frames. The sample is seeded and drawn per data set. Rows that cannot be read
are counted, images that cannot be opened say why in their place. A table on top has, for each rule of the answer
checks, samples of what it called correct: five minutes there show whether the judge fits the data.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_chat.data.mixture import resolve_entry
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.meta import DatasetSpec, read_meta
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.run.entry import Parser, at_least, enter
from tools.pages.page import Segments, mark_differences, render
from tools.pages.pictures import Picture, embed, embed_frames
from tools.reasoning_data_pipeline.prompts.files import add_symlink_flag

TEMPLATE = Path(__file__).with_suffix(".html")
AUDIT_ROWS = 5000  # of a data set, drawn for the table of rules
AUDIT_SAMPLES = 10  # shown of a rule


@dataclass(frozen=True)
class PairView:
    """What the page shows of one pair; segments are (text, whether the other answer lacks it)."""

    dataset: str
    line: int
    verdict: str
    gold: str
    pictures: list[Picture]
    question: str
    chosen: Segments
    rejected: Segments
    chosen_length: int
    rejected_length: int
    chosen_rule: str
    rejected_rule: str


@dataclass(frozen=True)
class SourceView:
    """One data set of the page: pairs shown, rows in the file."""

    name: str
    shown: int
    total: int


@dataclass(frozen=True)
class RuleView:
    """What one rule called correct in one data set: (answer, ground truth, question), the same texts left out."""

    dataset: str
    rule: str
    samples: list[tuple[str, str, str]]


def sample_rows(path: Path, number: int, seed: str) -> tuple[list[tuple[int, bytes]], int]:
    """Up to `number` (line number, line) of a file in file order, each row equally likely; and the number of rows.

    Raises:
        FileNotFoundError: there is no such file, or it is no regular one.
    """
    rows = JsonlFile(path)
    drawn = random.Random(seed).sample(range(len(rows)), min(number, len(rows)))
    return [(line_no, line) for line, line_no in map(rows.__getitem__, sorted(drawn))], len(rows)


def guess_verdict(dataset: str, row: PreferencePair) -> str:
    """Why the rejected answer was rejected: as the row says, else by the documented names of the pair files."""
    by_name = {"format": "format_error", "correctness": "wrong"}
    guess = next((verdict for part, verdict in by_name.items() if part in dataset), "not recorded")
    return as_text(row.extra.get("rejected_verdict")) or guess


def as_text(value: Any) -> str:
    """A field that may hold any JSON value, for people: "" of null, the items of a list one behind the other."""
    if value is None:
        return ""
    return ", ".join(map(as_text, value)) if isinstance(value, list) else str(value)


def view_pair(
    spec: DatasetSpec, line: int, row: PreferencePair, max_side: int, *, follow_symlinks: bool = False
) -> PairView:
    """Lay out one pair."""
    chosen, rejected = mark_differences(row.chosen, row.rejected or "")
    pictures = [embed(spec.root, path, max_side, follow_symlinks=follow_symlinks) for path in row.image]
    if row.video is not None:
        pictures = embed_frames(spec.root, row.video, max_side, follow_symlinks=follow_symlinks)
    return PairView(
        dataset=spec.name,
        line=line,
        verdict=guess_verdict(spec.name, row),
        gold=as_text(row.extra.get("answer_gt")),
        pictures=pictures,
        question=row.conversation,
        chosen=chosen,
        rejected=rejected,
        chosen_length=len(row.chosen),
        rejected_length=len(row.rejected or ""),
        chosen_rule=as_text(row.extra.get("chosen_rule")),
        rejected_rule=as_text(row.extra.get("rejected_rule")),
    )


def collect(
    specs: Sequence[DatasetSpec], *, number: int, seed: int, max_side: int, follow_symlinks: bool = False
) -> Iterator[PairView | SourceView]:
    """The views of `number` pairs per data set, then the data set's own line; prints the rows that cannot be read."""
    for spec in specs:
        rows, total = sample_rows(Path(spec.annotation), number, f"{seed} {spec.name}")
        shown = 0
        for line, text in rows:
            where = Source(spec.annotation, line)
            try:
                row = PreferencePair.from_row(parse_row(text, *where), where, allow_no_rejected=True)
            except RecordError as error:
                print(f"left out: {error}")
                continue
            yield view_pair(spec, line, row, max_side, follow_symlinks=follow_symlinks)
            shown += 1
        yield SourceView(spec.name, shown, total)


def audit(specs: Sequence[DatasetSpec], seed: int) -> Iterator[RuleView]:
    """Per data set and rule some answers that the rule called correct, as the pair files record them."""
    for spec in specs:
        rows, _ = sample_rows(Path(spec.annotation), AUDIT_ROWS, f"{seed} rules {spec.name}")
        rules: dict[str, dict[tuple[str, str], str]] = {}
        for line, text in rows:
            try:
                row = parse_row(text, spec.annotation, line)
            except RecordError:  # `collect` says which rows cannot be read
                continue
            answer, gold = row.get("chosen_answer"), str(row.get("answer_gt", ""))
            if isinstance(answer, str) and answer != gold:
                samples = rules.setdefault(str(row.get("chosen_rule", "")), {})
                if len(samples) < AUDIT_SAMPLES:
                    samples.setdefault((answer, gold), str(row.get("question", "")))
        for rule, samples in sorted(rules.items()):
            yield RuleView(spec.name, rule, [(*texts, question) for texts, question in samples.items()])


def page(views: Sequence[PairView | SourceView | RuleView], title: str) -> str:
    """The page."""
    pairs = [view for view in views if isinstance(view, PairView)]
    return render(
        TEMPLATE,
        title=title,
        pairs=pairs,
        sources=[view for view in views if isinstance(view, SourceView)],
        rules=[view for view in views if isinstance(view, RuleView)],
        datasets=list(dict.fromkeys(pair.dataset for pair in pairs)),
        verdicts=sorted({pair.verdict for pair in pairs}),
    )


def find_specs(meta: Path) -> list[DatasetSpec]:
    """The data sets of a meta.json, their paths as training finds them."""
    specs = []
    for spec in read_meta(meta):
        root, annotation = resolve_entry(spec, meta)
        specs.append(DatasetSpec(spec.name, str(root), str(annotation)))
    return specs


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta", type=Path, help="meta.json whose data sets are shown")
    parser.add_argument("--pairs", type=Path, nargs="+", default=[], help="pair files (JSONL), instead of or besides")
    parser.add_argument("--root", default="", help="folder of the images of --pairs")
    parser.add_argument("--out", type=Path, default=Path("pairs.html"), help="the page (default: %(default)s)")
    parser.add_argument("--title", default="Preference pairs", help="heading of the page (default: %(default)s)")
    parser.add_argument("--number", type=at_least(1), default=20, help="pairs per data set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed shows other pairs (default: %(default)s)")
    parser.add_argument(
        "--max-side", type=at_least(1), default=512, help="pixels of a shown image (default: %(default)s)"
    )
    add_symlink_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.meta is None and not args.pairs:
        parser.error("give --meta or --pairs")
    specs = [DatasetSpec(path.stem, args.root, str(path)) for path in args.pairs]
    specs += find_specs(args.meta) if args.meta else []
    how = {"max_side": args.max_side, "follow_symlinks": args.follow_symlinks}
    views = [*collect(specs, number=args.number, seed=args.seed, **how), *audit(specs, args.seed)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(views, args.title), encoding="utf-8")
    shown = sum(isinstance(view, PairView) for view in views)
    print(f"{args.out}: {shown} pairs, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    enter(main)
