"""What the sampling pipelines share: prompt files times tile limits, each a restartable run over one engine.

A pipeline is a function `sample(run)` that turns the run's tasks into requests and the engine's answers into rows:

    def sample(run: SamplingRun) -> None:
        def read(task: Task) -> Request: ...
        for answer in run.answers(run.checked(read)):
            run.keep(answer.key, answer.sample, {**run.task(answer.key).row, "response": answer.text})

    run_pipeline(Pipeline(sample, ...), args)

Ranks share the prompts by a hash of their key and never talk to each other (see store.py); tasks that lead no group of
--tp GPUs end at once (see gpu_groups.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from internvl_chat.run.process import Process, find_process
from tools.reasoning_data_pipeline.engines.gpus import engine_worker, group_devices, visible_devices
from tools.reasoning_data_pipeline.engines.opening import choose_engine, open_engine
from tools.reasoning_data_pipeline.engines.protocol import Engine
from tools.reasoning_data_pipeline.files.store import SampleStore
from tools.reasoning_data_pipeline.prompts.files import PromptFile
from tools.reasoning_data_pipeline.sampling.arguments import check_arguments, engine_options, sampling_settings
from tools.reasoning_data_pipeline.sampling.run import Job, SamplingRun

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between two lines of progress where the output is a file


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


def run_pipeline(pipeline: Pipeline, args: argparse.Namespace) -> None:
    """Sample all jobs of a command line on this rank.

    Raises:
        ValueError: arguments that do not go together, or a resume with other settings.
        FileNotFoundError: no such prompt file or checkpoint.
        EngineError: the engine broke down; start again to resume.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    check_arguments(args)
    worker = engine_worker(find_process(), args.tp)
    if worker is None:
        return
    if args.engine != "scripted":
        claim_devices(args.tp)
    if args.engine == "auto":
        args = argparse.Namespace(**{**vars(args), "engine": choose_engine()})
    jobs = plan_jobs(args, tile_folders=pipeline.tile_folders)
    engine = open_engine(args.engine, engine_options(args, pipeline.samples_per_request))
    try:
        for job in jobs:
            run_job(pipeline, args, job, engine=engine, worker=worker)
    finally:
        engine.close()


def claim_devices(tp: int) -> None:
    """Narrow CUDA_VISIBLE_DEVICES to the GPUs of this task's group; before anything touches a GPU."""
    import torch

    visible = visible_devices(os.environ, torch.cuda.device_count())
    devices = group_devices(visible, find_process().local_rank, tp)
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        logger.info("this engine runs on GPU %s of the %d that this task sees", ",".join(devices), len(visible))


def plan_jobs(args: argparse.Namespace, *, tile_folders: bool) -> list[Job]:
    """Every prompt file at every tile limit.

    Raises:
        ValueError: two outputs are the same: files of one name, or several tile limits without a folder for each.
    """
    folder = args.out_dir / (model_name(args.checkpoint) or args.engine)
    level = "max_tiles_{}" if tile_folders else ""
    inputs = product(args.prompt_path, args.max_num)
    jobs = [Job(path, limit, folder / level.format(limit) / path.name) for path, limit in inputs]
    if len({job.output for job in jobs}) < len(jobs):
        raise ValueError(
            f"--prompt-path {[str(path) for path in args.prompt_path]}, --max-num {args.max_num}: two of these would "
            "share an output; give every file a name of its own, and DropoutNTP one tile limit"
        )
    return jobs


def model_name(checkpoint: str) -> str:
    """The last two parts of a checkpoint's path, joined by `_`; "" without a checkpoint."""
    path = Path(checkpoint)
    return "_".join(name for name in (path.parent.name, path.name) if name not in ("", ".."))


def run_job(pipeline: Pipeline, args: argparse.Namespace, job: Job, *, engine: Engine, worker: Process) -> None:
    """Sample one job as far as this rank goes, and merge it when no other rank has work left."""
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
    return tqdm(
        total=sum(len(samples) for _, samples in store.pending()),
        desc=f"{job.output.name} rank {worker.rank}/{worker.world_size}",
        unit="answer",
        position=worker.rank if on_terminal else 0,
        disable=not on_terminal and worker.rank > 0,
        mininterval=0.5 if on_terminal else LOG_SECONDS,
    )
