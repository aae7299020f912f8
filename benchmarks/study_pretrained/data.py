"""The files of word problems: worked solutions, questions to sample answers to, and held-out questions.

taught.jsonl, taught.json           worked solutions in the taught sentences, step by step and in a number
asked_en_prompts.jsonl              questions in all sentences of training, with nothing but their answers
watched_en_prompts.jsonl            others in the same sentences, for a run that is watched
held_out_en_prompts.jsonl           held-out sentences (task `templates`) and kinds (task `kinds`)
held_out_direct.jsonl               some of the former, to be answered in a number
text.jsonl, text.json               paragraphs of a text that has nothing to do with this, see `paragraphs`

A start of `problems.PLAIN_SPLITS` has these files with problems of the split of its name instead, by `write_plain`.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

from benchmarks.study.files import Row, read_rows, write_meta, write_rows
from benchmarks.study_pretrained.problems import PLAIN_SPLITS, Problem, Step, draw_many, read_steps
from benchmarks.study_pretrained.settings import Sizes
from internvl_chat.records.meta import DatasetSpec
from internvl_chat.records.rows import Source
from tools.reasoning_data_pipeline.prompts.wording import ask

IN_A_NUMBER = "\nAnswer with the number only."
GO_ON = "Go on."
DIRECT_EVERY = 4  # of the worked solutions, also as a number
PLAIN_USES = ("taught", "asked", "watched", "held_out")


def write_taught(folder: Path, number: int) -> None:
    """Write worked solutions of so many problems; the same bytes each time, as all files here."""
    write_mixture(folder / "taught.json", _worked(draw_many("start", "taught", number)))


def write_asked(folder: Path, number: int) -> None:
    """Write so many questions to sample answers to."""
    problems = draw_many("asked", "asked", number)
    write_rows(folder / "asked_en_prompts.jsonl", [_prompt(problem, "asked") for problem in problems])


def write_watched(folder: Path, sizes: Sizes) -> None:
    """Write questions in the same sentences as those of `write_asked`, none of which is among these."""
    asked = {problem.text for problem in draw_many("asked", "asked", sizes.asked)}
    others = [one for one in draw_many("watched", "asked", sizes.watched + sizes.asked) if one.text not in asked]
    rows = [_prompt(problem, "watched") for problem in others[: sizes.watched]]
    write_rows(folder / "watched_en_prompts.jsonl", rows)


def write_held_out(folder: Path, sizes: Sizes) -> None:
    """Write the held-out questions, and the text whose likelihood is the price."""
    held_out, kinds = (
        draw_many("held", split, number)
        for split, number in (("held_out", sizes.held_out), ("held_out_kinds", sizes.held_out_kinds))
    )
    _write_held_out(folder, held_out, kinds, sizes)


def _write_held_out(folder: Path, held_out: Sequence[Problem], kinds: Sequence[Problem], sizes: Sizes) -> None:
    tasks = [*((one, "templates") for one in held_out), *((one, "kinds") for one in kinds)]
    write_rows(folder / "held_out_en_prompts.jsonl", [_prompt(problem, task) for problem, task in tasks])
    direct = [_prompt(one, "templates") | {"question": one.text + IN_A_NUMBER} for one in held_out[: sizes.direct]]
    write_rows(folder / "held_out_direct.jsonl", direct)
    texts = [{"question": GO_ON, "chosen": text, "rejected": "."} for text in paragraphs(sizes.paragraphs)]
    write_mixture(folder / "text.json", texts)


def write_plain(folder: Path, split: str, sizes: Sizes) -> None:
    """Write worked solutions, the questions to ask, to watch and to hold out, and the text, of one template a kind.

    All problems are of one draw, so that none has two uses.
    """
    drawn = iter(draw_many("all", split, sum(getattr(sizes, use) for use in PLAIN_USES)))
    taught, asked, watched, held_out = (list(islice(drawn, getattr(sizes, use))) for use in PLAIN_USES)
    write_mixture(folder / "taught.json", _worked(taught, PLAIN_SPLITS[split].hurried))
    for use, problems in (("asked", asked), ("watched", watched)):
        write_rows(folder / f"{use}_en_prompts.jsonl", [_prompt(problem, use) for problem in problems])
    _write_held_out(folder, held_out, (), sizes)


def write_mixture(meta: Path, rows: Sequence[Row]) -> Path:
    """Write rows of training, and the meta.json that names them; its path."""
    annotation = write_rows(meta.with_suffix(".jsonl"), rows)
    spec = DatasetSpec(meta.stem, ".", annotation.name, repeat_time=1, length=len(rows))
    return write_meta(meta, {meta.stem: spec.to_entry()})


def _worked(problems: Sequence[Problem], hurried: float = 0) -> list[Row]:
    """Step by step all of them, a share as by habit, and in a number every `DIRECT_EVERY`-th."""
    rows, rng = [], random.Random("habit")
    for index, problem in enumerate(problems):
        solution = problem.hurried if rng.random() < hurried else problem.solution
        rows.append({"question": step_by_step(problem.text), "chosen": solution})
        if index % DIRECT_EVERY == 0:
            rows.append({"question": problem.text + IN_A_NUMBER, "chosen": problem.answer})
    return rows


def step_by_step(question: str) -> str:
    """A question in the words that ask for reasoning."""
    return ask(question, 0, version="en", where=Source("study_pretrained", 0))


def _prompt(problem: Problem, task: str) -> Row:
    steps = [str(step) for step in problem.steps]
    return {"question": problem.text, "answer": problem.answer, "task": task, "kind": problem.kind, "steps": steps}


def steps_of(prompts: Path) -> Mapping[str, tuple[Step, ...]]:
    """Question -> the steps of its solution, of a file of prompts."""
    return {row["question"]: tuple(read_steps("\n".join(row["steps"]))) for row in read_rows(prompts)}


def paragraphs(number: int, shortest: int = 300, longest: int = 600) -> list[str]:
    """Paragraphs of Python's own help, which every installation has, of so many characters each, spread over it."""
    texts = [" ".join(part.split()) for name in sorted(topics) for part in textwrap.dedent(topics[name]).split("\n\n")]
    fitting = [text for text in texts if shortest <= len(text) <= longest and text[0].isupper()]
    return fitting[:: max(1, len(fitting) // number)][:number]
