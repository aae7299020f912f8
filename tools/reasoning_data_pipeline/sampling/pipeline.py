"""What the sampling pipelines share: prompt files times tile limits, each a restartable run over one engine.

A pipeline is a function `sample(run)` that turns the run's tasks into requests and the engine's answers into rows:

    def sample(run: SamplingRun) -> None:
        def read(task: Task) -> Request: ...
        for answer in run.answers(run.checked(read)):
            run.keep(answer.key, answer.sample, {**run.task(answer.key).row, "response": answer.text})

    sys.exit(run_pipeline(Pipeline("name", sample, ...), args))

Ranks share the prompts by a hash of their key and never talk to each other (see files/store.py); tasks that lead no
group of --tp GPUs end at once (see engines/gpus.py). The exit code is 1 where all jobs are complete and have no row.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypedDict, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from internvl_chat.data.images import tile_share
from internvl_chat.records.rows import Prompt, RecordError, SampledResponse, Source
from internvl_chat.run.bars import track
from internvl_chat.run.process import Process, find_process
from tools.reasoning_data_pipeline.engines.gpus import claim_devices, engine_worker
from tools.reasoning_data_pipeline.engines.opening import WITHOUT_GPUS, choose_engine, open_engine
from tools.reasoning_data_pipeline.engines.protocol import Completion, Engine, Failure, Request
from tools.reasoning_data_pipeline.files.store import RunSummary, SampleStore, read_rejects, sample_seed
from tools.reasoning_data_pipeline.prompts.files import ImageRoots, PromptFile, Task
from tools.reasoning_data_pipeline.prompts.wording import ask, style_for, version_for
from tools.reasoning_data_pipeline.sampling.arguments import (
    Job,
    check_arguments,
    engine_options,
    plan_jobs,
    sampling_settings,
)

logger = logging.getLogger(__name__)

LOGPROB_DIGITS = 6  # behind the point: more than the engines agree on
KEY_SEPARATOR = "/"  # of a task's key and what a pipeline adds to name several requests of one task

T = TypeVar("T")


class Seeds(TypedDict):
    """Keywords of a `Request`."""

    seeds: dict[int, int]
    base_seed: int


@dataclass(frozen=True)
class Pipeline:
    """What tells one pipeline from another.

    Attributes:
        name: stands in the store's manifest.
        sample: does the work of one run on one rank.
        tile_folders: put outputs into a folder per tile limit.
        samples_per_request: answers that one request of this pipeline asks for.
        parameters: settings of its own that decide what the rows are.
    """

    name: str
    sample: Callable[[SamplingRun], None]
    tile_folders: bool
    samples_per_request: int
    parameters: Mapping[str, Any] = field(default_factory=dict)


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

    def seeds(self, key: str, samples: Iterable[int]) -> Seeds:
        """A seed per sample, of the run's seed, the key and the sample's index; and one of the whole prompt."""
        each = {sample: sample_seed(self.args.seed, key, sample) for sample in samples}
        return {"seeds": each, "base_seed": sample_seed(self.args.seed, key)}

    def max_tiles(self, num_images: int) -> int:
        """Tile limit of each image: the images of a prompt share --max-num, as in training."""
        return tile_share(self._job.max_num, num_images) if self.args.dynamic else 1

    def request(self, task: Task, question: str, images: tuple[str, ...]) -> Request:
        """The request for all open samples of a task; RecordError when an image is not there."""
        paths = self.images.resolve(images, task.where)
        seeds = self.seeds(task.key, task.samples)
        return Request(task.key, question, images=paths, max_tiles=self.max_tiles(len(paths)), **seeds)

    def answers(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """The engine's answers; a request that fails rejects its task."""
        for result in self._engine.generate(requests):
            key = result.key.partition(KEY_SEPARATOR)[0]
            if isinstance(result, Failure):
                self.reject(key, result.reason)
            elif key not in self._rejected:
                self._counts["cut at --max-new-tokens or --session-len"] += result.finish == "length"
                yield result

    def drawn(self, answer: Completion) -> dict[str, Any]:
        """Row fields with the tokens of an answer and their log-probs, where --keep-logprobs asks for them."""
        if not self.args.keep_logprobs or answer.tokens is None or answer.logprobs is None:
            return {}
        logprobs = [round(logprob, LOGPROB_DIGITS) for logprob in answer.logprobs]
        return {"response_token_ids": list(answer.tokens), "response_logprobs": logprobs}

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


def run_pipeline(pipeline: Pipeline, args: argparse.Namespace) -> int:
    """Sample all jobs of a command line on this rank.

    Returns:
        The exit code: 1 where all jobs are complete, on all ranks, and have no rows, else 0.

    Raises:
        ValueError: arguments that do not go together, or a resume with other settings.
        FileNotFoundError: no such prompt file or checkpoint.
        EngineError: the engine broke down; start again to resume.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    check_arguments(args)
    worker = engine_worker(find_process(), 1 if args.engine == "server" else args.tp)
    if worker is None:
        return 0
    if args.engine not in WITHOUT_GPUS:
        claim_devices(args.tp)
    if args.engine == "auto":
        args = argparse.Namespace(**{**vars(args), "engine": choose_engine(args.checkpoint)})
    jobs = plan_jobs(args, tile_folders=pipeline.tile_folders)
    engine = open_engine(args.engine, engine_options(args, pipeline.samples_per_request))
    try:
        done = [(job, run_job(pipeline, args, job, engine=engine, worker=worker)) for job in jobs]
    finally:
        engine.close()
    failed = [why_nothing(job, summary) for job, summary in done if summary is not None and not summary.rows]
    for reason in failed:
        logger.error("%s", reason)
    return int(len(failed) == len(jobs))


def run_job(
    pipeline: Pipeline, args: argparse.Namespace, job: Job, *, engine: Engine, worker: Process
) -> RunSummary | None:
    """Sample one job as far as this rank goes, and merge it when no other rank has work left; None where one has."""
    variant = f"{pipeline.name} {job.max_num}"
    prompts = PromptFile(job.prompts, start=args.sample_start_idx, limit=args.sample_max_num, variant=variant)
    logger.info("%s: %d of %d rows -> %s", job.prompts, len(prompts.keys), prompts.total, job.output)
    with SampleStore(
        job.output,
        keys=prompts.keys,
        num_samples=args.num_return_sequences,
        parameters=_parameters(pipeline, args, job),
        origin=_origin(args, job),
        worker=worker,
        overwrite=args.overwrite,
    ) as store:
        with logging_redirect_tqdm(), _progress_bar(job, store, worker) as bar:
            run = SamplingRun(args, job, prompts=prompts, store=store, engine=engine, bar=bar)
            pipeline.sample(run)
        logger.info("rank %d of %d, %s", worker.rank, worker.world_size, run.report())
        summary = store.finish()
    if summary is None:
        logger.info("%s: other ranks are still sampling; the last one merges", job.output)
    else:
        logger.info("%s is complete: %s", job.output, asdict(summary))
    return summary


def why_nothing(job: Job, summary: RunSummary) -> str:
    """Why a complete job has no rows."""
    counts = [f"{summary.rejected} of {summary.prompts} prompts rejected"] if summary.rejected else []
    counts += [f"{number} answers left out ({reason})" for reason, number in summary.skipped.items()]
    first = next(read_rejects(job.output), None)
    reason = f"; the first: {first['file']}:{first['line']}: {first['reason']}" if first else ""
    return f"{job.output}: no row was made of {job.prompts}: {', '.join(counts)}{reason}"


def _parameters(pipeline: Pipeline, args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """What decides the rows of a job; a resume must have the same."""
    return {
        "pipeline": pipeline.name,
        "checkpoint": args.checkpoint,
        "engine": args.engine,
        "sampling": asdict(sampling_settings(args)),
        "session_len": args.session_len,
        "seed": args.seed,
        "prompt_version": args.prompt_version,
        "prompt_style": args.prompt_style,
        "max_num": job.max_num if args.dynamic else None,
        **pipeline.parameters,
    }


def _origin(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """What the postprocess wants to know to find the images again."""
    root = None if args.image_root is None else str(args.image_root.absolute())
    return {"prompt_path": str(job.prompts.absolute()), "image_root": root}


def _progress_bar(job: Job, store: SampleStore, worker: Process) -> tqdm:
    """Answers made by this rank, with rate and time left; one line per rank on a terminal, rank 0 alone in a log."""
    on_terminal = sys.stderr.isatty()
    return track(
        total=sum(len(samples) for _, samples in store.pending()),
        desc=f"{job.output.name} rank {worker.rank}/{worker.world_size}",
        unit="answer",
        position=worker.rank if on_terminal else 0,
        disable=not on_terminal and worker.rank > 0,
    )
