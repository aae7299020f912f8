"""Sample answers to prompts with known answers: the first half of the correctness pipeline.

    python -u tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py --checkpoint OpenGVLab/InternVL2_5-8B \\
        --prompt-path prompts.jsonl --out-dir sampled --num-return-sequences 32 --dynamic --max-num 12

Prompts are {"image", "question", "answer"}. Writes <out-dir>/<checkpoint>/max_tiles_<max-num>/<prompt file>, one row
per answer: the prompt's fields with `question` as asked, `question_orig`, `response` and `prompt_version`. Rows that
cannot be used stand in rejects.jsonl, in the .parts folder beside it. A killed run goes on where it stopped when it is
started again; under srun or torchrun the ranks share the prompts. The postprocess makes pairs of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from internvl_chat.records import Prompt, SampledResponse
from tools.reasoning_data_pipeline.engines import Request
from tools.reasoning_data_pipeline.prompt_files import Task
from tools.reasoning_data_pipeline.sampling import Pipeline, run_pipeline
from tools.reasoning_data_pipeline.sampling_arguments import sampling_parser
from tools.reasoning_data_pipeline.sampling_run import SamplingRun


def sample(run: SamplingRun) -> None:
    """Ask every prompt."""

    def read(task: Task) -> Request:
        prompt = Prompt.from_row(task.row, task.where)
        return run.request(task, run.ask(task, prompt.question, len(prompt.image)), prompt.image)

    for answer in run.answers(run.checked(read)):
        run.keep(answer.key, answer.sample, response_row(run, run.task(answer.key), answer.text))


def response_row(run: SamplingRun, task: Task, response: str) -> dict[str, Any]:
    """The output row of one answer."""
    prompt = Prompt.from_row(task.row, task.where)
    return SampledResponse(
        image=prompt.image,
        question=run.ask(task, prompt.question, len(prompt.image)),
        question_orig=prompt.question,
        answer=prompt.answer,
        response=response,
        prompt_version=run.version,
        extra={key: value for key, value in prompt.extra.items() if key not in SampledResponse.KEYS},
        image_form=prompt.image_form,
    ).to_row()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = sampling_parser(__doc__, num_samples=32, version="en").parse_args(arguments)
    run_pipeline(Pipeline("correctness", sample, True, args.num_return_sequences), args)


if __name__ == "__main__":
    main()
