"""What a critic (a process reward model) says of sampled answers: a score for each step, and one for the answer.

    python tools/score_steps.py --critic work_dirs/prm --data-dir sampled --save-dir scored

Reads every *.jsonl below --data-dir: what the sampling pipelines write, or rows {"image", "question", "response"} or
{"image", "question", "responses": [...]}. The question is shown as it stands in the row, the answer as its steps: split
at blank lines, neighbours joined so that at most --max-steps remain. Neighbouring rows of one question are scored
together, in one forward. Writes files of the same names below --save-dir, a row for each answer with

    steps_with_score   [{step, score}], the probability that the answer is right up to this step
    score              of the answer, by --score-by; `mpo rewards` makes pairs of it, and `mpo steps --mc-threshold 0.5`
                       of the steps

A run that was stopped goes on when it starts again; ranks share the questions. Rows that cannot be read stand in
<name>.parts/rejects.jsonl, answers without text are counted in summary.json beside it.
"""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from internvl_chat.critic.answers import HOW
from internvl_chat.model.critic_turns import MAX_STEPS
from internvl_chat.run.entry import Parser, at_least, enter
from internvl_chat.run.process import find_process
from tools.reasoning_data_pipeline.engines.gpus import claim_devices
from tools.reasoning_data_pipeline.pairs.grouping import find_datasets
from tools.reasoning_data_pipeline.prompts.files import add_symlink_flag
from tools.scoring.critic import AnswerScorer, open_critic
from tools.scoring.run import ScoredFile, score_file

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--critic", required=True, help="checkpoint of a critic, folder or hub name")
    add("--data-dir", type=Path, required=True, help="folder of *.jsonl to read, such as --out-dir of a sampling run")
    add("--save-dir", type=Path, required=True, help="folder to write, files as below --data-dir")
    add("--score-by", choices=tuple(HOW), default="mean", help="score of an answer by its steps (default: %(default)s)")
    add(
        "--max-steps",
        type=at_least(1),
        default=MAX_STEPS,
        help="join an answer's steps to so many; default %(default)s",
    )
    add("--max-num", type=at_least(1), default=6, help="tile limit of a question's pictures (default: %(default)s)")
    add("--batch-size", type=at_least(1), default=32, help="answers to a question in one forward; default 32")
    add("--image-root", type=Path, help="folder of the images, if not that of the sampling run or of the file")
    add_symlink_flag(parser)
    add("--overwrite", action="store_true", help="throw away what an earlier launch wrote")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Score this rank's share of all files; the exit code is 1 where all are complete and have no row.

    Raises:
        ValueError: nothing to read, or a resume with other settings.
        FileNotFoundError: no such folder or critic.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    args = build_parser().parse_args(arguments)
    jobs, worker = find_files(args.data_dir, args.save_dir), find_process()

    @functools.cache
    def open_scorer() -> AnswerScorer:
        claim_devices(1)
        return AnswerScorer(open_critic(args.critic, args.max_num), args.max_steps, args.batch_size)

    done = [(job, score_file(job, args, open_scorer, worker)) for job in jobs]
    for job, summary in done:
        told = asdict(summary) if summary else "other ranks are still at work; the last one merges"
        logger.info("%s: %s", job.output, told)
    return int(all(summary is not None and not summary.rows for _, summary in done))


def find_files(data_dir: Path, save_dir: Path) -> list[ScoredFile]:
    """The files of answers below a folder, and where each goes.

    Raises:
        FileNotFoundError: there is no such folder, or it has none.
        ValueError: they would be written over what is read.
    """
    if data_dir.resolve() == save_dir.resolve():
        raise ValueError(f"--save-dir {save_dir} is --data-dir: scored rows go to a folder of their own")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"--data-dir {data_dir}: no such folder")
    paths = sorted(path for data in find_datasets(data_dir, save_dir) for path in data.files)
    if not paths:
        raise FileNotFoundError(f"no *.jsonl below --data-dir {data_dir}: has the run that writes them finished?")
    return [ScoredFile(path, save_dir / path.relative_to(data_dir)) for path in paths]


if __name__ == "__main__":
    enter(main)
