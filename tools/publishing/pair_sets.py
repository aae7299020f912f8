"""Pairs to a data set for the hub: parquet files with the pictures inside, which its viewer shows, and a card.

Columns: `images` (a list, bytes as they were), `question`, `chosen`, `rejected`, `data_set`, and `extra`, the other
fields of a row as JSON. Rows that cannot be read, or lack a picture, do not leave; they are counted in the card.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from huggingface_hub import DatasetCard, DatasetCardData

from internvl_chat.data.images import ImageError, resolve_image
from internvl_chat.data.mixture import MixedDataset, open_dataset
from internvl_chat.publishing.card import check_repo_id
from internvl_chat.publishing.contents import PublishError, read_json
from internvl_chat.publishing.secrets import holds_secret, scrub, scrub_text
from internvl_chat.records.meta import read_meta
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.run.bars import track

FEATURES = Features(
    {
        "images": List(Image()),
        "question": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "data_set": Value("string"),
        "extra": Value("string"),
    }
)
SHARD_BYTES = 400 << 20  # of pictures and texts in a file
BATCH_BYTES = 32 << 20  # in memory
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass
class LeavingRows:
    """What came of a data set: rows that leave, and why others do not."""

    leaves: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def stage(args: argparse.Namespace, folder: Path) -> None:
    """Write the parquet files and the card into `folder`.

    Raises:
        PublishError: no row can leave, or one holds a secret.
        FileNotFoundError, ValueError: meta.json is not usable.
    """
    check_repo_id(args.to)
    counts: dict[str, LeavingRows] = {}
    write_shards(folder / "data", rows_of(args.checkpoint, counts))
    if not any(found.leaves for found in counts.values()):
        raise PublishError(
            f"{args.checkpoint}: no row can be published: { {name: dict(c.faults) for name, c in counts.items()} }"
        )
    card(args, counts).save(folder / "README.md")


def rows_of(meta_path: Path, counts: dict[str, LeavingRows]) -> Iterator[dict[str, Any]]:
    """The rows of all data sets with their pictures' bytes."""
    for number, spec in enumerate(read_meta(meta_path)):
        data, found = open_dataset(spec, number, meta_path), counts.setdefault(spec.name, LeavingRows())
        for index in track(range(len(data.rows)), desc=spec.name, unit="row"):
            line, line_no = data.rows[index]
            where = Source(data.rows.path, line_no)
            try:
                yield table_row(PreferencePair.from_row(parse_row(line, *where), where), data, where)
                found.leaves += 1
            except (RecordError, ImageError) as error:
                found.faults[error.fault] += 1


def table_row(pair: PreferencePair, data: MixedDataset, where: Source) -> dict[str, Any]:
    """One row of the table; ImageError where a picture is not there, PublishError where a text holds a secret."""
    texts = {"question": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
    extra = orjson.dumps(scrub(pair.extra)).decode() if pair.extra else None
    if holds_secret("\n".join(filter(None, texts.values()))):
        raise PublishError(
            f"{where.file}:{where.line}: the row holds a token or key: take it out of the data, and withdraw it"
        )
    images = []
    for path in pair.image:
        images.append({"bytes": Path(resolve_image(data.root, path)).read_bytes(), "path": Path(path).name})
    return {"images": images, **texts, "data_set": data.spec.name, "extra": extra}


def write_shards(folder: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows into files of bounded size, in bounded memory."""
    folder.mkdir(parents=True, exist_ok=True)
    schema, writer, shard, written = FEATURES.arrow_schema, None, 0, 0
    for batch, size in batches(rows):
        if writer is None or written + size > SHARD_BYTES:
            if writer:
                writer.close()
            writer, written = pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", schema), 0
            shard += 1
        writer.write_table(pa.Table.from_pylist(batch, schema))
        written += size
    if writer:
        writer.close()


def batches(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows by BATCH_BYTES, with their size."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += sum(len(image["bytes"]) for image in row["images"]) + len(row["chosen"]) + len(row["rejected"])
        if size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def card(args: argparse.Namespace, counts: dict[str, LeavingRows]) -> DatasetCard:
    """The card: what the pairs are, how many, how each was judged, how to load them."""
    total = sum(found.leaves for found in counts.values())
    data = DatasetCardData(
        license=args.license or "other",
        language=list(args.languages),
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[
            next((name for most, name in SIZES if total < most), "n>1T" if total >= 10**12 else "10M<n<100M")
        ],
        tags=["preference-optimization", "dpo", "mpo", "internvl"],
        pretty_name=args.to.partition("/")[2],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    )
    decontamination = read_json(args.decontamination).get("decontamination") if args.decontamination else None
    table = "\n".join(
        f"| {name} | {found.leaves} | {', '.join(f'{k}: {n}' for k, n in found.faults.items()) or '-'} |"
        for name, found in counts.items()
    )
    text = f"""# {data.pretty_name}

{total} preference pairs: a question about pictures, an answer that is preferred, and one that is not.

| data set | pairs | left out |
|---|---|---|
{table}

## How the pairs were judged

{args.judged or "Not recorded."}

## Decontamination

{decontamination["headline"] + "." if decontamination else "Not compared with evaluation files."}

## Columns

`images` (in the order of `<image>` in the question), `question`, `chosen`, `rejected`, `data_set`, and `extra`, the
other fields as JSON.

```python
from datasets import load_dataset

pairs = load_dataset("{args.to}", split="train")
```
"""
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{scrub_text(text)}")
