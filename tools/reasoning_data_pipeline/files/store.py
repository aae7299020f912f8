"""Where sampling ranks put their answers: restartable, exactly once, without a word between ranks.

    out/data.jsonl                              the merged file, there only when it is complete
    out/data.parts/manifest.json                what the run was started with
    out/data.parts/rank-00003-1f0c77aa.jsonl    what rank 3 wrote so far, whole lines only
    out/data.parts/{summary.json,rejects.jsonl} written with the merged file

A shard line is {"k": prompt index, "s": sample index, "row": {...}}, or "skip": reason instead of the row, or
{"k": prompt index, "reject": {file, line, reason}} for a prompt that was given up.

Prompts are split over the ranks by a hash of their key. A killed rank loses at most the line it was writing: the next
start drops a torn last line and makes what no shard holds yet, whichever rank wrote it, so the number of ranks may
change. The rank that finishes last, or the next start, merges in prompt order, then sample order.

    with SampleStore(out / "data.jsonl", keys=keys, num_samples=32, parameters=vars(args)) as store:
        for key, samples in store.pending():
            store.append(key, {s: answer(key, seed=sample_seed(args.seed, key, s)) for s in samples})
        summary = store.finish()

With several ranks pass `worker=find_process()`.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import orjson
import xxhash

from internvl_chat.records.durable import (
    json_line,
    json_text,
    open_for_append,
    read_json,
    whole_lines,
    write_atomically,
)
from internvl_chat.run.process import Process

MANIFEST_FIELDS = ("generation", "parameters", "origin")

logger = logging.getLogger(__name__)


class StoreMismatchError(ValueError):
    """A resume that would mix the answers of two different runs; the text names what differs."""


@dataclass(frozen=True)
class RunSummary:
    """What a complete run holds.

    Attributes:
        prompts: prompts that the run was given.
        rows: rows of the merged file.
        rejected: prompts that were given up; each stands in rejects.jsonl.
        skipped: samples that were made but left out on purpose, by reason.
        duplicates: samples found twice in the shards (two runs at once); one of each was kept.
    """

    prompts: int
    rows: int
    rejected: int
    skipped: dict[str, int]
    duplicates: int


def sample_seed(run_seed: int, key: str, sample: int = 0) -> int:
    """Seed of one sample, in 0 .. 2**63 - 1: depends on the run's seed, the prompt and the sample, on nothing else."""
    return xxhash.xxh3_64_intdigest(f"{run_seed}\0{key}\0{sample}".encode()) >> 1


def read_origin(output: Path) -> dict[str, Any]:
    """What the run that wrote `output` gave as its origin; {} for a file that no store wrote."""
    manifest = output.with_suffix(".parts") / "manifest.json"
    return read_json(manifest, MANIFEST_FIELDS)["origin"] if manifest.exists() else {}


def read_rejects(output: Path) -> Iterator[dict[str, Any]]:
    """The prompts of a complete run that were given up: {file, line, reason}."""
    return (row for _, row in whole_lines(output.with_suffix(".parts") / "rejects.jsonl"))


@dataclass
class FoundSamples:
    """What the shards hold; row i is sample `slots[i]` (prompt * samples + sample), at `places[2i : 2i + 2]`."""

    shards: list[Path]
    slots: array = field(default_factory=lambda: array("q"))
    places: array = field(default_factory=lambda: array("q"))  # shard number, byte offset, shard number, ...
    skipped: Counter[str] = field(default_factory=Counter)
    rejects: dict[int, Any] = field(default_factory=dict)
    duplicates: int = 0
    complete: bool = False


def locate(shards: list[Path], absent: np.ndarray) -> FoundSamples:
    """Find every sample once; 24 bytes a row, so that a run of millions merges in little memory.

    Args:
        shards: files of the ranks.
        absent: (prompts, samples) bool, the samples that nobody asked for.
    """
    seen, found = absent.copy(), FoundSamples(shards)
    for number, path in enumerate(shards):
        for offset, record in whole_lines(path):
            prompt, sample = record["k"], record.get("s")
            if sample is None:
                found.rejects.setdefault(prompt, record["reject"])
                continue
            if seen[prompt, sample]:
                found.duplicates += 1
            elif "skip" in record:
                found.skipped[record["skip"]] += 1
            else:
                found.slots.append(prompt * absent.shape[1] + sample)
                found.places.extend((number, offset))
            seen[prompt, sample] = True
    seen[list(found.rejects)] = True
    found.complete = bool(seen.all())
    return found


def rows_in_order(found: FoundSamples) -> Iterator[bytes]:
    """The lines of the merged file: prompt order, then sample order."""
    order = np.argsort(np.array(found.slots, dtype=np.int64))
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")) for path in found.shards]
        for row in order:
            file = files[found.places[2 * row]]
            file.seek(found.places[2 * row + 1])
            yield json_line(orjson.loads(file.readline())["row"])


class SampleStore:
    """The answers to a list of prompts, `num_samples` each; the module's docstring shows the files.

    Args:
        output: the merged file; the shards stand beside it.
        keys: one distinct string per prompt, in the order of the merged file.
        num_samples: answers per prompt, >= 1; a list of them where prompts differ.
        parameters: JSON values that decide what the answers are; a resume with others is refused.
        origin: JSON values that later stages may want and that a resume may change (`read_origin` finds them again).
        worker: which share is ours.
        overwrite: throw away what earlier launches wrote (not what another worker of this launch wrote).

    Raises:
        StoreMismatchError: the output was begun with other parameters or prompts.
        ValueError: two equal keys, or fewer than one sample.
        BlockingIOError: another live process writes the same shard.
    """

    def __init__(
        self,
        output: Path,
        *,
        keys: Sequence[str],
        num_samples: int | Sequence[int],
        parameters: Mapping[str, Any],
        origin: Mapping[str, Any] | None = None,
        worker: Process | None = None,
        overwrite: bool = False,
    ) -> None:
        if np.any(np.less(num_samples, 1)):
            raise ValueError(f"num_samples must be at least 1, not {np.min(num_samples)}")
        self.output, self.keys, self.num_samples = Path(output), keys, int(np.max(num_samples, initial=1))
        self.worker = worker or Process()
        self.parts = self.output.with_suffix(".parts")
        self._index = _places(keys, self.output)
        wanted = np.broadcast_to(num_samples, len(keys))
        self._absent = np.arange(self.num_samples) >= wanted[:, None]  # (prompts, samples)
        self._done = self._absent.copy()
        self._shard: BinaryIO | None = None
        self._generation = self._enter_run(orjson.loads(orjson.dumps(dict(parameters))), origin or {}, overwrite)
        if not self.finished:
            self._resume()

    @property
    def finished(self) -> bool:
        """Whether the merged file is there."""
        return self.output.exists()

    def pending(self) -> Iterator[tuple[str, list[int]]]:
        """(key, sample indices still to be made) of this worker's share, in prompt order."""
        if self.finished:
            return
        for index in np.flatnonzero(~self._done.all(axis=1)).tolist():
            if self.worker.owns(self.keys[index]):
                yield self.keys[index], np.flatnonzero(~self._done[index]).tolist()

    def append(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Keep finished samples of one prompt, sample index -> row; other processes can read them when it returns."""
        self._write(key, [{"s": sample, "row": row} for sample, row in rows.items()])

    def skip(self, key: str, sample: int, reason: str) -> None:
        """Mark a sample as made but left out of the merged file; counted under `reason`."""
        self._write(key, [{"s": sample, "skip": reason}])

    def reject(self, key: str, *, file: str, line: int, reason: str) -> None:
        """Give up what is left of a prompt: rejects.jsonl gets {file, line, reason}, `line` counted from 1."""
        self._write(key, [{"reject": {"file": file, "line": line, "reason": reason}}])

    def finish(self) -> RunSummary | None:
        """Merge if every worker's share is complete; None while another worker still has samples to make.

        Call it at the end of every worker: whoever comes last finds all shards complete. Two that come together
        write the same bytes.
        """
        self.close()
        if not self.finished and not self._merge() and not self.finished:
            return None
        for shard in self._shards():  # of workers that started while another one merged
            shard.unlink(missing_ok=True)
        return RunSummary(**orjson.loads((self.parts / "summary.json").read_bytes()))

    def close(self) -> None:
        """Close the shard; what was appended is kept."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _enter_run(self, parameters: dict[str, Any], origin: Mapping[str, Any], overwrite: bool) -> str:
        """Join the run that the manifest describes, or begin one; returns the generation in the shards' names."""
        digest = xxhash.xxh3_64_hexdigest("\0".join(self.keys).encode())
        mine = {**parameters, "num_samples": self.num_samples, "prompts": f"{len(self.keys)} prompts ({digest})"}
        manifest = self.parts / "manifest.json"
        generation = xxhash.xxh32_hexdigest(self.worker.run_id.encode())
        known = self._read_manifest(manifest, overwrite)
        if overwrite and (known is None or known["generation"] != generation):
            self._discard(generation)
            known = None
        if known is None:
            if self.finished:
                raise StoreMismatchError(f"{self.output} exists without {manifest}: move it away, or use --overwrite")
            begun = {"generation": generation, "parameters": mine, "origin": dict(origin)}
            write_atomically(manifest, [json_text(begun)])
            # a worker that started with us may have been the last to write
            known = read_json(manifest, MANIFEST_FIELDS)
        if differences := describe_differences(known["parameters"], mine):
            raise StoreMismatchError(
                f"{self.output} was begun with other parameters: {differences}; "
                "resume with the old ones, or start afresh with --overwrite"
            )
        return known["generation"]

    @staticmethod
    def _read_manifest(manifest: Path, overwrite: bool) -> dict[str, Any] | None:
        """What the run that is there wrote; None without one, or where a damaged one is to be overwritten."""
        try:
            return read_json(manifest, MANIFEST_FIELDS) if manifest.exists() else None
        except ValueError:
            if overwrite:
                return None
            raise

    def _discard(self, generation: str) -> None:
        """Remove what other launches wrote; shards of this launch stay, another worker may be writing them."""
        if not self.worker.run_id:
            raise ValueError(
                f"--overwrite cannot tell this launch from the last one (run_id {self.worker.run_id!r}): "
                "give torchrun an --rdzv-id"
            )
        self.output.unlink(missing_ok=True)
        for shard in self.parts.glob("rank-*.jsonl"):
            if not shard.stem.endswith(generation):
                shard.unlink(missing_ok=True)

    def _resume(self) -> None:
        """Open our shard behind its last whole line, and learn what all shards hold."""
        self._shard = open_for_append(self.parts / f"rank-{self.worker.rank:05d}-{self._generation}.jsonl")
        self._read_shards()
        if self._done.all():
            self.finish()
        elif done := int((self._done & ~self._absent).sum()):
            logger.info("%s: resuming with %d of %d samples done", self.output, done, (~self._absent).sum())

    def _shards(self) -> list[Path]:
        """The shards of this run, in order of rank."""
        return sorted(self.parts.glob(f"rank-*-{self._generation}.jsonl"))

    def _read_shards(self) -> None:
        try:
            for path in self._shards():
                for _, record in whole_lines(path):
                    self._mark(record)
        except FileNotFoundError:  # removed by a worker that has just merged
            if not self.finished:
                raise

    def _mark(self, record: Mapping[str, Any]) -> None:
        """Note one shard line {"k": prompt index, "s": sample index, "row" | "skip": ..} or {"k": .., "reject": ..}."""
        self._done[record["k"], record.get("s", slice(None))] = True

    def _write(self, key: str, entries: list[dict[str, Any]]) -> None:
        if self._shard is None:
            raise ValueError(f"{self.output}: cannot add to {key!r}, the store is closed or its run is finished")
        records = [{"k": self._index[key], **entry} for entry in entries]
        self._shard.write(b"".join(map(json_line, records)))
        self._shard.flush()
        for record in records:
            self._mark(record)

    def _merge(self) -> bool:
        """Merge if the shards hold everything: another worker may have merged and be removing them under our hands."""
        try:
            found = locate(self._shards(), self._absent)
            if found.complete:
                self._write_merged(found)
        except FileNotFoundError:
            return False
        return found.complete

    def _write_merged(self, found: FoundSamples) -> None:
        """Write rejects, summary and the merged file, in this order: who sees the last may read the others."""
        rejects = [found.rejects[prompt] for prompt in sorted(found.rejects)]
        skipped = dict(sorted(found.skipped.items()))
        summary = RunSummary(len(self.keys), len(found.slots), len(rejects), skipped, found.duplicates)
        write_atomically(self.parts / "rejects.jsonl", map(json_line, rejects))
        write_atomically(self.parts / "summary.json", [json_text(asdict(summary))])
        write_atomically(self.output, rows_in_order(found))


def _places(keys: Sequence[str], output: Path) -> dict[str, int]:
    """Where each key stands; ValueError for one that stands twice."""
    places = {key: index for index, key in enumerate(keys)}
    if len(places) != len(keys):
        doubled = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"{output}: the key {doubled!r} stands for more than one prompt")
    return places


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """'temperature 1.0 -> 0.8, ...' over the parameters that are not equal."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {then.get(name)!r} -> {now.get(name)!r}" for name in names)
