"""Sample answers to prompts with known answers: the first half of the correctness pipeline.

    python -u tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py --checkpoint OpenGVLab/InternVL2_5-8B \\
        --prompt-path prompts.jsonl --out-dir sampled --num-return-sequences 32 --dynamic --max-num 12

Prompts are {"image", "question", "answer"}. Writes <out-dir>/<checkpoint>/max_tiles_<max-num>/<prompt file>, one row
per answer: the prompt's fields with `question` as asked, `question_orig`, `response` and `prompt_version`, with
--keep-logprobs also `response_token_ids` and `response_logprobs` (the model's own, in nats). Rows that cannot be used
stand in rejects.jsonl, in the .parts folder beside it. A killed run goes on where it stopped when it is
started again; under srun or torchrun the ranks share the prompts. The postprocess makes pairs of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from internvl_chat.run.entry import enter
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.prompts.files import Task
from tools.reasoning_data_pipeline.sampling.arguments import sampling_parser
from tools.reasoning_data_pipeline.sampling.pipeline import Pipeline, SamplingRun, run_pipeline


def sample(run: SamplingRun) -> None:
    """Ask every prompt and write every answer."""
    for answer in run.answers(run.checked(lambda task: read_request(run, task))):
        row = replace(run.asked(run.task(answer.key)), response=answer.text)
        run.keep(answer.key, answer.sample, {**row.to_row(), **run.drawn(answer)})


def read_request(run: SamplingRun, task: Task) -> Request:
    """The request for a prompt; RecordError when the row is no prompt or an image is not there."""
    asked = run.asked(task)
    return run.request(task, asked.question, asked.image)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where no row was made."""
    args = sampling_parser(__doc__, num_samples=32, version="en").parse_args(arguments)
    return run_pipeline(Pipeline("correctness", sample, True, args.num_return_sequences), args)


if __name__ == "__main__":
    enter(main)
