"""Rows of a benchmark for critics: an answer in steps, and of each step whether it is right, as people have found.

The format of VisualProcessBench (arXiv 2503.10291), as published:

    {"image": ["images/a.png"], "question": "<image1> How many?", "answer": "2",
     "response": {"steps": ["I see ..", ..], "process_correctness": [1, 0, -1, ..]},
     "policy_model": "GPT-4o", "data_source": "MathVision"}

1 is right, -1 wrong, 0 neutral. What people make of the file is read too: `image` as one path, `images`, no image at
all; `response` as JSON in a string; its fields in the row itself. Marks such as `<image1>` stay words of the question:
the released critic reads them so, with the pictures in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Prompt, RecordError, Source, is_blank, parse_row, shown
from tools.reasoning_data_pipeline.prompts.files import ImageRoots
from tools.reasoning_data_pipeline.prompts.wording import split_placeholders

RIGHT, NEUTRAL, WRONG = 1, 0, -1
LABELS = (RIGHT, NEUTRAL, WRONG)
NO_SOURCE = "all rows"  # of a file that names none


@dataclass(frozen=True)
class ProcessRow:
    """One judged answer.

    Attributes:
        key: names the row in files of scores: its content, and which of equal rows it is.
        number: of the row in its file, from 0, as other evaluators count.
        where: file and line, for errors.
        question: without the gold answer.
        images: paths that exist.
        steps: texts.
        labels: of each step, of LABELS.
        source: data set that the question is from.
        policy: model that answered, "" where nobody knows.
        pictures: the images as the row names them, the same wherever the benchmark lies.
    """

    key: str
    number: int
    where: Source
    question: str
    images: tuple[str, ...]
    steps: tuple[str, ...]
    labels: tuple[int, ...]
    source: str
    policy: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """The usable rows of a file, and the errors that name the others."""

    rows: list[ProcessRow]
    unusable: list[RecordError]


def read_benchmark(file: Path, image_root: Path | None = None, *, follow_symlinks: bool = False) -> Benchmark:
    """The rows of a file; images as of `ImageRoots`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no rows, or is no JSONL.
    """
    lines = JsonlFile(file)
    if not len(lines):
        raise ValueError(f"{file}: no rows; name a JSONL file of judged answers (VisualProcessBench: test.jsonl)")
    roots = ImageRoots(file.parent, image_root, follow_symlinks)
    found = Benchmark([], [])
    seen: dict[str, int] = {}
    for number in range(len(lines)):
        line, line_no = lines[number]
        where = Source(str(file), line_no)
        try:
            row = parse_row(line, *where)
            name = xxhash.xxh3_64_hexdigest(line)
            seen[name] = seen.get(name, 0) + 1
            key = f"{name}-{seen[name]}" if seen[name] > 1 else name
            found.rows.append(_row(row, key, number, where, roots))
        except RecordError as error:
            found.unusable.append(error)
    return found


def _row(row: dict[str, Any], key: str, number: int, where: Source, roots: ImageRoots) -> ProcessRow:
    """A parsed row, checked; RecordError names what is wrong with it."""
    prompt = Prompt.from_row(row, where, allow_no_answer=True)
    split_placeholders(prompt.question, len(prompt.image), where)  # refuses a wrong number of them
    judged = _response(row, where)
    steps, labels = _steps(judged, where), _labels(judged, where)
    if len(steps) != len(labels):
        counts = f"{len(steps)} steps but {len(labels)} judgements"
        raise RecordError(*where, f"{counts}: 'process_correctness' needs one of {LABELS} for each step", "unequal")
    return ProcessRow(
        key=key,
        number=number,
        where=where,
        question=prompt.question,
        images=roots.resolve(prompt.image, where),
        steps=steps,
        labels=labels,
        source=str(row.get("data_source") or NO_SOURCE),
        policy=str(row.get("policy_model") or ""),
        pictures=prompt.image,
    )


def _response(row: Mapping[str, Any], where: Source) -> Mapping[str, Any]:
    """Where steps and judgements stand: in `response`, in the JSON that it holds as a string, or in the row."""
    response = row.get("response")
    if isinstance(response, str) and response.lstrip().startswith("{"):
        try:
            response = json.loads(response)
        except ValueError as error:
            raise RecordError(*where, f"field 'response' is no JSON: {error}", "wrong_type") from error
    return response if isinstance(response, Mapping) else row


def _steps(judged: Mapping[str, Any], where: Source) -> tuple[str, ...]:
    steps = judged.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        reason = f"'steps' must be a list of texts, not {shown(steps)}; they stand in 'response', with their judgements"
        raise RecordError(*where, reason, "no_steps")
    if blank := [number for number, step in enumerate(steps, 1) if is_blank(step)]:
        raise RecordError(*where, f"step {blank[0]} has no text; leave it out, with its judgement", "empty_step")
    return tuple(steps)


def _labels(judged: Mapping[str, Any], where: Source) -> tuple[int, ...]:
    labels = judged.get("process_correctness")
    if not isinstance(labels, list):
        reason = f"'process_correctness' must be a list of {LABELS}, not {shown(labels)}"
        raise RecordError(*where, reason, "no_judgements")
    for number, label in enumerate(labels, 1):
        if isinstance(label, bool) or label not in LABELS:
            reason = f"step {number} is judged {shown(label)}: write 1 for right, -1 for wrong, 0 for neither"
            raise RecordError(*where, reason, "other_judgement")
    return tuple(map(int, labels))
