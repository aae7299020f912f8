"""The command line that the sampling pipelines share, and the jobs that it asks for."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from internvl_chat.run.entry import Parser
from tools.reasoning_data_pipeline.engines.opening import ENGINES
from tools.reasoning_data_pipeline.engines.protocol import LMDEPLOY_BACKENDS, EngineOptions, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_arguments import add_servers, server_options
from tools.reasoning_data_pipeline.prompts.files import add_symlink_flag
from tools.reasoning_data_pipeline.prompts.wording import STYLES, VERSIONS

MIN_ROWS = 16  # answers: fewer at once take as long, as every step reads all weights


def tile_limits(text: str) -> list[int]:
    """`12` or `1,6,12,18,24` as a list of distinct numbers >= 1."""
    limits = [int(part) for part in text.split(",")]
    if min(limits) < 1 or len(set(limits)) < len(limits):
        raise argparse.ArgumentTypeError(f"tile limits must be distinct numbers from 1 on, not {text!r}")
    return limits


def sampling_parser(description: str | None, *, num_samples: int, version: str | None) -> argparse.ArgumentParser:
    """A parser with the shared flags.

    Args:
        description: the first paragraph of a module's docstring, or all of it.
        num_samples: default of --num-return-sequences.
        version: default of --prompt-version; None asks questions as they are.
    """
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_prompts(parser, version)
    _add_images(parser)
    _add_sampling(parser, num_samples)
    _add_engine(parser)
    add_servers(parser)
    return parser


def _add_prompts(parser: argparse.ArgumentParser, version: str | None) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument("--prompt-path", type=Path, nargs="+", required=True, help="one or more JSONL files")
    group.add_argument("--out-dir", type=Path, default=Path("sampled_outputs"))
    group.add_argument("--sample-start-idx", type=int, default=0, help="index of the first row, from 0")
    group.add_argument("--sample-max-num", type=int, help="rows to take: every floor(total / N)-th; default all")
    group.add_argument(
        "--prompt-version", choices=VERSIONS, default=version, help=f"default {version or 'the question as it is'}"
    )
    group.add_argument("--prompt-style", choices=STYLES, default="plain", help="how the model is asked to reason")
    group.add_argument("--overwrite", action="store_true", help="throw away what an earlier launch wrote")


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument("--dynamic", action="store_true", help="cut images into tiles; else one tile each")
    group.add_argument(
        "--max-num", type=tile_limits, default=[6], help="tile limit; a list such as 1,6,12,18,24 samples at each"
    )
    group.add_argument("--image-root", type=Path, help="folder of the images; paths may not lead out of it")
    add_symlink_flag(group)


def _add_sampling(parser: argparse.ArgumentParser, num_samples: int) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--num-return-sequences", type=int, default=num_samples, help=f"per prompt; default {num_samples}"
    )
    group.add_argument("--temperature", type=float, default=1.0)
    group.add_argument("--top-k", type=int, default=50, help="0 keeps all tokens")
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--max-new-tokens", type=int, default=4096)
    group.add_argument("--seed", type=int, default=0, help="of the run; with prompt and index it decides each sample")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--checkpoint", default="", help="folder or hub name")
    group.add_argument("--engine", choices=ENGINES, default="auto")
    group.add_argument(
        "--tp", type=int, default=int(os.environ.get("TP") or 1), help="GPUs per engine; default $TP or 1"
    )
    group.add_argument(
        "--batch-size", type=int, default=1, help="prompts of which the transformers engine decodes at once"
    )
    group.add_argument("--num-workers", type=int, default=8, help="threads that read images ahead")
    group.add_argument("--session-len", type=int, default=16384, help="tokens of prompt and answer")
    group.add_argument("--vit-batch-size", type=int, default=8, help="tiles through the vision tower at once")
    group.add_argument(
        "--cache-max-entry-count",
        type=float,
        default=0.8,
        help="share of free GPU memory for lmdeploy's cache, or of all for vLLM",
    )
    group.add_argument("--lmdeploy-backend", choices=LMDEPLOY_BACKENDS, default="auto")
    group.add_argument(
        "--keep-logprobs", action="store_true", help="write the tokens of the answers and their log-probs beside them"
    )
    group.add_argument("--scripted-delay", type=float, default=0.0, help="seconds per answer of the scripted engine")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for values that do not go together."""
    if not args.checkpoint and args.engine != "scripted":
        raise ValueError(f"--checkpoint is missing; --engine {args.engine} needs one")
    if len(args.max_num) > 1 and not args.dynamic:
        raise ValueError(f"--max-num {args.max_num} needs --dynamic: without it every image is one tile")
    if args.num_return_sequences < 1 or args.batch_size < 1:
        raise ValueError(
            f"--num-return-sequences {args.num_return_sequences} and --batch-size {args.batch_size} must be at least 1"
        )
    server_options(args)


def sampling_settings(args: argparse.Namespace) -> SamplingSettings:
    """How tokens are drawn."""
    return SamplingSettings(args.temperature, args.top_k, args.top_p, args.max_new_tokens)


def engine_options(args: argparse.Namespace, samples_per_request: int) -> EngineOptions:
    """What the engine is opened with."""
    return EngineOptions(
        checkpoint=args.checkpoint,
        sampling=sampling_settings(args),
        max_rows=max(MIN_ROWS, args.batch_size * samples_per_request),
        tp=args.tp,
        session_len=args.session_len,
        vit_batch_size=args.vit_batch_size,
        num_workers=args.num_workers,
        cache_max_entry_count=args.cache_max_entry_count,
        lmdeploy_backend=args.lmdeploy_backend,
        scripted_delay=args.scripted_delay,
        logprobs=args.keep_logprobs,
        server=server_options(args),
    )


@dataclass(frozen=True)
class Job:
    """One prompt file at one tile limit: where it is read, where its answers go."""

    prompts: Path
    max_num: int
    output: Path


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
