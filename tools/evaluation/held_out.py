"""`--eval_prompts` of training: held-out questions that the policy in training answers, and what became of them.

    python -m internvl_chat.train_mpo ... --eval_prompts held_out_en_prompts.jsonl --eval_steps 20

A look asks a fixed sample of the file, judges the answers by the checks of the data pipelines, and compares question by
question with the first look. By default it takes the most likely answer: between two looks it changes only where the
policy has, so that it shows a fall of as many points by fewer answers than sampled ones, which cost as much each.
Besides, it asks how likely answers sampled at the first look are by now (`followed`), which draws nothing and costs one
forward pass. `falls` says what stops a run and what is a doubt; the log-probs only warn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import xxhash
from transformers import PreTrainedTokenizerBase

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import InternVLChatModel
from internvl_chat.run.held_out import Look
from internvl_chat.run.process import find_process, gather_objects
from tools.evaluation.accuracy import percent
from tools.evaluation.answering import Answered, judge
from tools.evaluation.falls import RUN_LEVEL, Change
from tools.evaluation.followed import FirstAnswer, Followed
from tools.evaluation.overlap import count_overlap
from tools.evaluation.policy import Interview
from tools.evaluation.questions import AskedQuestion, direct, read_questions, reasoned
from tools.evaluation.statistics import share_interval
from tools.reasoning_data_pipeline.answers.checker import Outcome
from tools.reasoning_data_pipeline.engines.protocol import Completion
from tools.reasoning_data_pipeline.prompts.wording import VERSIONS

logger = logging.getLogger(__name__)

SAMPLED = 2  # answers to a question at the first look whose log-probs are followed


class HeldOutQuestions:
    """Questions, and what the policy answered to them first; see `internvl_chat.run.held_out.HeldOut`."""

    def __init__(self, questions: Sequence[AskedQuestion], interview: Interview, *, samples: int, looks: int) -> None:
        """Take the questions, how they are asked, the answers to each (0: the most likely one), the looks of a run."""
        self.questions, self.interview, self.samples, self.looks = list(questions), interview, samples, looks
        self.shares: list[float] = []  # right answers to each question at the first look, 0 to 1
        self.first: list[list[FirstAnswer]] = []  # sampled then, to each question

    def look(self, model: InternVLChatModel, alive: Callable[[], object]) -> Look:
        """Ask; the questions are shared out over the ranks, and all of them hear of all answers."""
        begin, process = time.monotonic(), find_process()
        mine = range(process.rank, len(self.questions), process.world_size)
        asked = [self.questions[place] for place in mine]
        answered = judged(asked, self.interview.answer(model, asked, alive, samples=self.samples))
        shares = self._of_all(mine, [one.share for one in answered])
        if self.first:
            logps = self._of_all(mine, self._logps_of(model, asked, [self.first[place] for place in mine], alive))
        else:
            self.shares, self.first = shares, self._of_all(mine, self._sample(model, asked, alive))
            logps = [[one.logp for one in of_question] for of_question in self.first]
        return self._compare(shares, logps, time.monotonic() - begin)

    def _sample(
        self, model: InternVLChatModel, asked: Sequence[AskedQuestion], alive: Callable[[], object]
    ) -> list[list[FirstAnswer]]:
        """Answers whose log-probs are followed: drawn, for the most likely one can only become less likely."""
        found = self.interview.answer(model, asked, alive, samples=SAMPLED)
        answers = [
            [
                FirstAnswer(list(one.tokens or ()), outcome is Outcome.CORRECT, 0.0)
                for one, outcome in zip(*both, strict=True)
            ]
            for both in zip(found, (one.outcomes for one in judged(asked, found)), strict=True)
        ]
        logps = self._logps_of(model, asked, answers, alive)
        return [
            [replace(one, logp=logp) for one, logp in zip(*both, strict=True)]
            for both in zip(answers, logps, strict=True)
        ]

    def _logps_of(
        self,
        model: InternVLChatModel,
        asked: Sequence[AskedQuestion],
        answers: Sequence[Sequence[FirstAnswer]],
        alive: Callable[[], object],
    ) -> list[list[float]]:
        return self.interview.logps(model, asked, [[one.tokens for one in found] for found in answers], alive)

    def _of_all(self, mine: Sequence[int], values: Sequence[Any]) -> list[Any]:
        """One value per question, from those of all ranks; a collective."""
        parts = gather_objects(dict(zip(mine, values, strict=True)))
        found = {place: value for part in parts for place, value in part.items()}
        return [found[place] for place in range(len(self.questions))]

    def _compare(self, shares: list[float], logps: list[list[float]], seconds: float) -> Look:
        change = Change.of(self.shares, shares)
        low, high = share_interval(shares)
        figures = {
            "eval_accuracy": change.now,
            "eval_accuracy_low": low,
            "eval_accuracy_high": high,
            "eval_accuracy_change": change.difference,
            "eval_accuracy_change_low": change.interval.low,
            "eval_accuracy_change_high": change.interval.high,
            "eval_accuracy_p": change.p,
            "eval_accuracy_level": RUN_LEVEL / self.looks,
        }
        followed = Followed.of(self.first, logps)
        fall = change.fall(self.looks)
        doubts = () if fall else (change.doubt(self.looks), followed.warning() if followed else "")
        warning = "; ".join(filter(None, doubts))
        more = {} if followed is None else followed.figures()
        return Look(figures | more | {"eval_answers_seconds": seconds}, fall, warning)

    def state_dict(self) -> dict[str, Any]:
        """The first look, as JSON values; {} before it."""
        if not self.first:
            return {}
        answers = [[asdict(one) for one in of_question] for of_question in self.first]
        return {"keys": self._keys(), "shares": self.shares, "answers": answers}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take the first look of a checkpoint; False where that was of other questions, or there is none."""
        if not state or state["keys"] != self._keys():
            return False
        self.shares = list(state["shares"])
        self.first = [[FirstAnswer(**one) for one in of_question] for of_question in state["answers"]]
        return True

    def _keys(self) -> list[str]:
        """What tells these questions, and how many answers to them there are."""
        return [f"{question.key} x {self.samples}" for question in self.questions]


def judged(questions: Sequence[AskedQuestion], answers: Sequence[Sequence[Completion]]) -> list[Answered]:
    """The answers to each question with what they are worth."""
    return list(judge(questions, ([one.text.strip() for one in found] for found in answers)))


def choose(questions: Sequence[AskedQuestion], number: int) -> list[AskedQuestion]:
    """A sample of the questions, in their order: those with the lowest hashes, so the same in every run."""
    lowest = sorted(range(len(questions)), key=lambda place: xxhash.xxh3_64_intdigest(questions[place].key.encode()))
    return [questions[place] for place in sorted(lowest[:number])]


def open_held_out(
    flags: tuple[ModelArguments, DataArguments, MPOConfig],
    tokenizer: PreTrainedTokenizerBase,
    dataset: MixtureDataset | None,
    looks: int,
) -> HeldOutQuestions:
    """What `--eval_prompts` names, ready to be asked; before a model is loaded.

    Args:
        flags: of the training.
        tokenizer: of its checkpoint.
        dataset: that is trained on, for a warning where it has the same questions; None for none.
        looks: of the whole run, >= 1.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it has no rows, or a flag is out of its range.
        RecordError: a row is not usable, such as one without an answer; an evaluation leaves none out.
    """
    _, data, args = flags
    path = Path(str(args.eval_prompts))
    if not path.is_file():
        raise FileNotFoundError(f"--eval_prompts {path}: no such file; name a JSONL file of questions with answers")
    if args.eval_prompt_version not in (*VERSIONS, "direct"):
        known = ", ".join((*VERSIONS, "direct"))
        raise ValueError(f"--eval_prompt_version {args.eval_prompt_version} is unknown: take one of {known}")
    words = direct if args.eval_prompt_version == "direct" else reasoned(args.eval_prompt_version)
    root = Path(args.eval_image_root) if args.eval_image_root else None
    questions = list(read_questions([path], words, root, follow_symlinks=data.follow_symlinks))
    chosen = choose(questions, args.eval_questions)
    if args.process_index == 0:
        logger.info("--eval_prompts %s: %d of %d questions are asked at each look", path, len(chosen), len(questions))
        _warn_of_overlap(path, chosen, dataset)
    interview = Interview(tokenizer, data, args.eval_max_new_tokens, args.per_device_eval_batch_size)
    return HeldOutQuestions(chosen, interview, samples=args.eval_samples, looks=looks)


def _warn_of_overlap(path: Path, questions: Sequence[AskedQuestion], dataset: MixtureDataset | None) -> None:
    """Say how many of the questions are trained on."""
    found = count_overlap(questions, dataset.mixture.datasets) if dataset else 0
    if found:
        logger.warning(
            "--eval_prompts %s: %d of the %d questions asked (%s %%) are also trained on, so that they are not held "
            "out; tools/evaluation/split.py makes files that share none",
            *(path, found, len(questions), percent(found / len(questions))),
        )
