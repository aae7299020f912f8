"""What was found, counted: per kind of fault, per data set, and as a verdict in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.durable import json_line, write_atomically
from tools.validation.chunks import ChunkFacts
from tools.validation.faults import FAULTS, FoundFault
from tools.validation.mixtures import Rows, held_out_prompts, length_bias, repeated_pairs

NOT_READ = ("meta_unusable", "path_missing", "wrong_file", "no_rows")  # faults by which a whole data set is left out
EXAMPLES = 20  # findings of a kind in the report; findings.jsonl has all


@dataclass
class SetSummary:
    """Figures of one data set; lengths in characters, shares in 0..1, None where there is nothing to count.

    Attributes:
        name, split: of the data set; "train" or "held-out".
        rows, per_epoch: rows of its file; rows that an epoch takes of it by repeat_time.
        usable: rows that training can use.
        prompts: different ones, by images and question.
        sharing_prompt, sharing_image: usable rows whose prompt, or whose images, another one of the set has too.
        chosen_longer: share of usable rows whose chosen answer has more characters.
        median_chosen, median_rejected: characters.
        median_tokens, longest_tokens: prompt and longest answer, of the rows that were tokenized.
    """

    name: str
    split: str
    rows: int
    per_epoch: int
    usable: int = 0
    prompts: int = 0
    sharing_prompt: int = 0
    sharing_image: int = 0
    chosen_longer: float | None = None
    median_chosen: int | None = None
    median_rejected: int | None = None
    median_tokens: int | None = None
    longest_tokens: int | None = None


@dataclass
class Summary:
    """Everything that the report says.

    Attributes:
        sets: figures per data set.
        counts: findings per kind of fault.
        examples: the first findings of each kind.
        unusable: rows that training would skip.
        tiles: rows with images by their tiles.
        tokens: of prompt and longest answer of the rows that were tokenized.
        chosen, rejected: characters of the answers of usable rows.
    """

    sets: list[SetSummary] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[FoundFault]] = field(default_factory=dict)
    unusable: int = 0
    tiles: Counter[int] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)
    chosen: list[np.ndarray] = field(default_factory=list)
    rejected: list[np.ndarray] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that were checked."""
        return sum(data.rows for data in self.sets)

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(number for name, number in self.counts.items() if FAULTS[name].severity == severity)

    def sharing_said(self) -> str:
        """How many pairs of the training data could meet in groups."""
        train = [data for data in self.sets if data.split == "train"]
        pairs, prompt, image = (
            sum(getattr(data, name) for data in train) for name in ("usable", "sharing_prompt", "sharing_image")
        )
        return f"of {pairs:,} pairs {prompt:,} share their prompt with another and {image:,} an image (--group_by)"

    def note(self, finding: FoundFault) -> FoundFault:
        """Count a finding and keep it if it is among the first of its kind."""
        self.counts[finding.fault] += 1
        examples = self.examples.setdefault(finding.fault, [])
        if len(examples) < EXAMPLES:
            examples.append(finding)
        return finding

    def passed(self, strict: bool, max_skipped_share: float = 0.0) -> bool:
        """Whether there is no error; with `strict` no warning either.

        Rows that training would skip (an error each) may be up to `max_skipped_share` of all, where no data set is
        left without a row.
        """
        errors = self.count("error")
        if errors == self.unusable <= max_skipped_share * self.rows and all(data.usable for data in self.sets):
            errors = 0
        return not errors and not (strict and self.counts)

    def to_json(self) -> dict[str, Any]:
        """As in validation.json; histograms as [[value, rows], ...] or summaries of five numbers."""
        faults = [
            {**asdict(FAULTS[name]), "count": number, "examples": [found._asdict() for found in self.examples[name]]}
            for name, number in ordered(self.counts)
        ]
        return {
            "rows": self.rows,
            "unusable_rows": self.unusable,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "faults": faults,
            "data_sets": [asdict(data) for data in self.sets],
            "tiles_per_row": sorted(self.tiles.items()),
            "tokens": quantiles(np.array(self.tokens)),
            "chosen_characters": quantiles(_joined(self.chosen)),
            "rejected_characters": quantiles(_joined(self.rejected)),
        }


@dataclass(frozen=True)
class Split:
    """The data sets of one meta.json: "train" or "held-out", opened, and where their numbers start among all."""

    name: str
    datasets: Sequence[MixedDataset]
    first: int


def summarise(
    facts: Iterable[ChunkFacts], splits: Sequence[Split], of_meta: Sequence[FoundFault], findings_file: Path
) -> Summary:
    """Count everything, and write all findings to a file, one a line.

    Args:
        facts: of all chunks, in order of the data.
        splits: "train", and "held-out" if there is one.
        of_meta: findings about meta.json.
        findings_file: JSONL to write.
    """
    summary = Summary()
    found = _findings(summary, facts, splits, of_meta)
    write_atomically(findings_file, (json_line(summary.note(finding)._asdict()) for finding in found))
    return summary


def _findings(
    summary: Summary, facts: Iterable[ChunkFacts], splits: Sequence[Split], of_meta: Sequence[FoundFault]
) -> Iterator[FoundFault]:
    """All findings; fills in the figures of the summary on the way."""
    yield from of_meta
    datasets = [data for split in splits for data in split.datasets]
    per_set: list[list[ChunkFacts]] = [[] for _ in datasets]
    for part in facts:
        data = datasets[part.chunk.number]
        for line, fault, detail in part.faults:
            yield FoundFault(fault, data.spec.name, data.rows.path, line, detail)
        per_set[part.chunk.number].append(replace(part, faults=[]))
        summary.unusable += part.chunk.stop - part.chunk.start - len(part.columns["line"])
        summary.tiles.update(part.tiles)
        summary.tokens += part.tokens
    rows = {}
    for split in splits:
        parts = per_set[split.first : split.first + len(split.datasets)]
        for data, of_set in zip(split.datasets, parts, strict=True):
            yield from _about_set(summary, data, split.name, of_set)
        rows[split.name] = _rows(parts)
        yield from repeated_pairs(rows[split.name], split.datasets)
    if len(splits) == 2:
        train, held_out = splits
        yield from held_out_prompts(rows[train.name], rows[held_out.name], train.datasets, held_out.datasets)


def _about_set(summary: Summary, data: MixedDataset, split: str, parts: Sequence[ChunkFacts]) -> Iterator[FoundFault]:
    """Findings about a data set as a whole; adds its figures to the summary."""
    chosen, rejected = (_joined([part.columns[side] for part in parts]) for side in ("chosen", "rejected"))
    summary.chosen.append(chosen)
    summary.rejected.append(rejected)
    summary.sets.append(_summarise_set(data, split, parts, chosen, rejected))
    pairs = rejected > 0
    yield from length_bias(data.spec.name, data.rows.path, chosen[pairs], rejected[pairs])


def _summarise_set(
    data: MixedDataset, split: str, facts: Sequence[ChunkFacts], chosen: np.ndarray, rejected: np.ndarray
) -> SetSummary:
    summary = SetSummary(data.spec.name, split, len(data.rows), len(data.order), usable=len(chosen))
    tokens = [count for part in facts for count in part.tokens]
    if tokens:
        summary.median_tokens, summary.longest_tokens = int(np.median(tokens)), max(tokens)
    if len(chosen):
        prompts, images = (_joined([part.columns[name] for part in facts]) for name in ("prompt", "image"))
        summary.prompts = len(np.unique(prompts))
        summary.sharing_prompt, summary.sharing_image = sharing(prompts), sharing(images[images != 0])
        summary.chosen_longer = round(float(np.mean(chosen > rejected)), 4)
        summary.median_chosen, summary.median_rejected = int(np.median(chosen)), int(np.median(rejected))
    return summary


def _rows(chunks: Sequence[Sequence[ChunkFacts]]) -> Rows:
    """The usable rows of the data sets of a split, given the facts of each."""
    parts = [(number, part.columns) for number, of_set in enumerate(chunks) for part in of_set]
    numbers = _joined([np.full(len(columns["line"]), number, np.uint32) for number, columns in parts])
    return Rows(
        numbers, *(_joined([columns[name] for _, columns in parts]) for name in ("line", "prompt", "pair", "mirror"))
    )


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.uint64)


def sharing(values: np.ndarray) -> int:
    """How many of the values are there more than once."""
    counts = np.unique(values, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def quantiles(values: np.ndarray) -> dict[str, int] | None:
    """Five numbers and the count; None of nothing."""
    if not len(values):
        return None
    names = ("least", "quarter", "median", "three_quarters", "most")
    return {name: int(np.quantile(values, 0.25 * at)) for at, name in enumerate(names)} | {"count": len(values)}


def ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Faults with their counts, errors first, in the order of the catalogue."""
    return [(name, counts[name]) for name in FAULTS if counts[name]]


def verdict(summary: Summary, *, strict: bool, with_tokens: bool, max_skipped_share: float = 0.0) -> str:
    """What it comes to, in words."""
    word = "PASS" if summary.passed(strict, max_skipped_share) else "FAIL"
    unread = [found for name in NOT_READ for found in summary.examples.get(name, [])]
    names = ", ".join(found.dataset for found in unread if found.dataset)
    parts = [f"data sets that could not be read: {names}"] if names else []
    if summary.rows:
        parts.append(_rows_said(summary, "row of the others" if names else "row"))
    else:
        parts.append("there is no row to check")
    counts = {kind: summary.count(kind) for kind in ("error", "warning")}
    parts += [f"{number:,} {kind}{'s' * (number > 1)}" for kind, number in counts.items() if number and summary.rows]
    text = f"{word}: {', '.join(parts)}."
    if word == "PASS" and summary.unusable:
        text += f" Training skips them: --max_skipped_share allows {max_skipped_share:.1%}."
    for data in summary.sets:
        if data.rows and not data.usable:
            text += f" No row of {data.name} can be trained on: are its root and annotation right?"
    if summary.rows and not with_tokens:
        text += " Lengths were not checked: give --model_name_or_path and --max_seq_length."
    return text


def _rows_said(summary: Summary, what: str) -> str:
    """How many rows train; `what` is one of them."""
    rows = what.replace("row", "rows", 1)
    if summary.unusable:
        return f"{summary.unusable:,} of {summary.rows:,} {rows} cannot be trained on"
    return f"all {summary.rows:,} {rows} can be trained on"
