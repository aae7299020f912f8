"""One prompt file at one tile limit, sampled on one rank: tasks out of the store, answers into it."""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from internvl_chat.records.rows import Prompt, RecordError, SampledResponse, Source
from tools.reasoning_data_pipeline.engines.protocol import Completion, Engine, Failure, Request
from tools.reasoning_data_pipeline.files.store import SampleStore, sample_seed
from tools.reasoning_data_pipeline.prompts.files import ImageRoots, PromptFile, Task
from tools.reasoning_data_pipeline.prompts.wording import ask, style_for, version_for

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEY_SEPARATOR = "/"  # of a task's key and what a pipeline adds to name several requests of one task


@dataclass(frozen=True)
class Job:
    """One prompt file at one tile limit: where it is read, where its answers go."""

    prompts: Path
    max_num: int
    output: Path


class SamplingRun:
    """One job in progress; a pipeline asks it for tasks and hands it rows.

    Attributes:
        args: the command line.
        dataset: name of the prompt file without its suffix.
        version: prompt version of this file; None where questions are asked as they are.
        images: where this file's images are looked for.
    """

    def __init__(
        self, args: argparse.Namespace, job: Job, *, prompts: PromptFile, store: SampleStore, engine: Engine, bar: tqdm
    ) -> None:
        self.args, self.dataset = args, job.prompts.stem
        self.version = args.prompt_version and version_for(args.prompt_version, job.prompts.name)
        self.images = ImageRoots(job.prompts.parent, args.image_root, args.follow_symlinks)
        self._job, self._prompts, self._store, self._engine, self._bar = job, prompts, store, engine, bar
        self._rejected: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._begin = time.monotonic()

    def task(self, key: str) -> Task:
        """The task with this key, read again: nothing has to be kept while its answers are made."""
        return self._prompts.task(key, [])

    def checked(self, read: Callable[[Task], T]) -> Iterator[T]:
        """What `read` makes of each open task; tasks for which it raises RecordError are rejected."""
        for key, samples in self._store.pending():
            try:
                item = read(self._prompts.task(key, samples))
            except RecordError as error:
                self.reject(key, error.reason)
            else:
                yield item

    def windows(self, read: Callable[[Task], T], size: int) -> Iterator[list[T]]:
        """`checked` in lists of up to `size`: for pipelines that ask the engine more than once per task."""
        items = self.checked(read)
        while window := list(islice(items, size)):
            yield window

    def ask(self, task: Task, question: str, num_images: int) -> str:
        """The question of a task in the words of the prompt version and style of this run."""
        style = style_for(self.args.prompt_style, task.key)
        return ask(question, num_images, version=self.version, style=style, where=task.where)

    def asked(self, task: Task) -> SampledResponse:
        """The prompt of a task as the row of an answer whose `response` is still empty; RecordError if it is none."""
        prompt = Prompt.from_row(task.row, task.where)
        return SampledResponse(
            image=prompt.image,
            question=self.ask(task, prompt.question, len(prompt.image)),
            question_orig=prompt.question,
            answer=prompt.answer,
            response="",
            prompt_version=self.version or "",
            extra={key: value for key, value in prompt.extra.items() if key not in SampledResponse.KEYS},
            image_form=prompt.image_form,
        )

    def seeds(self, key: str, samples: Iterable[int]) -> dict[int, int]:
        """A seed per sample: of the run's seed, the key and the sample's index."""
        return {sample: sample_seed(self.args.seed, key, sample) for sample in samples}

    def max_tiles(self, num_images: int) -> int:
        """Tile limit of each image: the images of a prompt share --max-num, as in training."""
        return max(1, self._job.max_num // max(1, num_images)) if self.args.dynamic else 1

    def request(self, task: Task, question: str, images: tuple[str, ...]) -> Request:
        """The request for all open samples of a task; RecordError when an image is not there."""
        paths = self.images.resolve(images, task.where)
        return Request(task.key, question, self.seeds(task.key, task.samples), paths, self.max_tiles(len(paths)))

    def answers(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """The engine's answers; a request that fails rejects its task."""
        for result in self._engine.generate(requests):
            key = result.key.partition(KEY_SEPARATOR)[0]
            if isinstance(result, Failure):
                self.reject(key, result.reason)
            elif key not in self._rejected:
                self._counts["cut at --max-new-tokens or --session-len"] += result.finish == "length"
                yield result

    def keep(self, key: str, sample: int, row: Mapping[str, Any]) -> None:
        """Write one finished row."""
        self._store.append(key, {sample: row})
        self._count("written")

    def skip(self, key: str, sample: int, reason: str) -> None:
        """Leave a finished sample out, counted under `reason`."""
        self._store.skip(key, sample, reason)
        self._count(f"left out ({reason})")

    def reject(self, key: str, reason: str) -> None:
        """Give up a task; rejects.jsonl tells why."""
        if key in self._rejected:
            return
        self._rejected.add(key)
        where: Source = self._prompts.where(key)
        self._store.reject(key, file=where.file, line=where.line, reason=reason)
        self._counts["prompts rejected"] += 1
        logger.warning("%s:%d rejected: %s", where.file, where.line, reason)

    def rejected(self, key: str) -> bool:
        """Whether the task was given up during this run."""
        return key in self._rejected

    def report(self) -> str:
        """One line: what this rank did, and how fast."""
        seconds = time.monotonic() - self._begin
        parts = [f"{count} {name}" for name, count in self._counts.items() if count]
        rate = self._counts["written"] / max(seconds, 1e-9)
        return f"{self._job.output}: {', '.join(parts) or 'nothing to do'} in {seconds:.0f} s ({rate:.2f} rows/s)"

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._bar.update()
