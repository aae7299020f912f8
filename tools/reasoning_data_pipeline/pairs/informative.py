"""The rows of judged steps that teach a critic most, by the Balanced-Information Score (arXiv 2602.04145).

    BIS = (p (1 - p) + alpha) R    p the share of right steps, R their mean Monte-Carlo score, 1 where there is none

Answers with right and wrong steps come first, among like ones those whose right steps are surely right. The best share
of each data set is kept, so that no source is lost: a tenth of VisualPRM400K chosen like this trained as well as all.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from internvl_chat.model.critic_turns import RIGHT
from internvl_chat.records.durable import json_text, write_atomically
from internvl_chat.records.judged import JudgedRow
from internvl_chat.records.meta import read_meta
from internvl_chat.records.rows import Source, parse_row


def add_selection_flag(parser: argparse.ArgumentParser) -> None:
    """`--keep-share`, None where nothing is selected."""
    parser.add_argument(
        "--keep-share",
        type=share_of_rows,
        metavar="SHARE",
        help="also write prm_best_meta.json: this share of the conversations of each data set, that which teaches a "
        "critic most; 0.1 is published",
    )


def share_of_rows(text: str) -> float:
    """A share above 0, at most 1; ArgumentTypeError else."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0 and at most 1")
    return share


def information(row: JudgedRow, alpha: float = 0.05) -> float:
    """BIS of a row, >= 0; of its measured steps."""
    known = list(zip(row.judgements, row.scores or [1.0] * len(row.judgements), strict=True))
    measured = [(judgement, score) for judgement, score in known if judgement]
    right = [score for judgement, score in measured if judgement == RIGHT and score is not None]
    share = len(right) / len(measured)
    return (share * (1 - share) + alpha) * (fmean(right) if right else 1.0)


def best_rows(scores: Sequence[float], share: float) -> list[int]:
    """Places of the best share of rows, rounded up, in their order; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return sorted(order[: math.ceil(share * len(scores))])


def keep_best(meta_path: Path, share: float, alpha: float = 0.05) -> Path:
    """Write the best share of each data set beside its file, and a meta.json of these beside `meta_path`.

    Returns:
        The path of that meta.json: `prm_meta.json` becomes `prm_best_meta.json`.

    Raises:
        RecordError: a row is no conversation of judged steps.
    """
    entries = {}
    for spec in read_meta(meta_path):
        source = meta_path.parent / spec.annotation
        lines = source.read_bytes().splitlines()
        wheres = [Source(str(source), number) for number in range(1, len(lines) + 1)]
        rows = (JudgedRow.from_row(parse_row(line, *at), at) for line, at in zip(lines, wheres, strict=True))
        kept = best_rows([information(row, alpha) for row in rows], share)
        target = Path(spec.annotation).with_suffix(".best.jsonl")
        write_atomically(meta_path.parent / target, (lines[place] + b"\n" for place in kept))
        name = f"{spec.name}_best"
        entries[name] = replace(spec, name=name, annotation=str(target), length=len(kept)).to_entry()
    path = meta_path.with_name(meta_path.name.replace("meta.json", "best_meta.json"))
    write_atomically(path, [json_text(entries)])
    return path
