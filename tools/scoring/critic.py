"""A critic and what it is shown: the answers to a question as steps, in one forward for all that differ.

python -m tools.scoring.critic work_dirs/prm    says in seconds whether it is there and can score steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from internvl_chat.data.images import load_image
from internvl_chat.model.critic_turns import MAX_STEPS, text_steps
from internvl_chat.records.durable import cache_home
from internvl_chat.run.entry import Parser, enter
from tools.reasoning_data_pipeline.answers.steps import ScoredStep


class StepJudge(Protocol):
    """Judges steps: `internvl_chat.critic.scoring.StepCritic`, or a scripted one."""

    def score(
        self, question: str, images: Sequence[Image.Image], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Probability, 0..1, that each step of each candidate is right."""
        ...


def check_critic(checkpoint: str) -> None:
    """Look at a critic before hours are spent on answers for it; errors as of `open_critic`, weights left aside."""
    from internvl_chat.checkpoint.names import local_checkpoint
    from internvl_chat.critic.scoring import step_tokenizer
    from internvl_chat.model import load_config

    source = local_checkpoint(checkpoint)
    step_tokenizer(source, load_config(source))


def critic_weights(checkpoint: str) -> str:
    """What scores are kept under: the critic's weights, whatever its folder is called and however often it is trained.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    from internvl_chat.checkpoint.names import local_checkpoint
    from internvl_chat.reference.identity import weights_digest

    return weights_digest(Path(local_checkpoint(checkpoint)), cache_home())


def open_critic(checkpoint: str, max_tiles: int) -> StepJudge:
    """A trained critic.

    Args:
        checkpoint: folder or hub name.
        max_tiles: tile limit of a question's pictures.

    Raises:
        FileNotFoundError, ValueError: it is not there, or nothing that scores steps.
    """
    from internvl_chat.critic.scoring import StepCritic  # with torch, which takes seconds

    return StepCritic.load(checkpoint, max_dynamic_patch=max_tiles)


@dataclass(frozen=True)
class AnswerScorer:
    """Scores the steps of answers.

    Attributes:
        critic: opened.
        max_steps: steps of an answer at most; neighbours are joined.
        batch_size: different answers to a question in one forward.
    """

    critic: StepJudge
    max_steps: int = MAX_STEPS
    batch_size: int = 32

    def score(self, question: str, image_paths: Sequence[str], responses: Sequence[str]) -> list[list[ScoredStep]]:
        """The scored steps of each response, [] of one without text; equal responses are shown once.

        Args:
            question: as it was asked, with one `<image>` per picture.
            image_paths: of its pictures.
            responses: answers to it.

        Raises:
            ImageError, RecordError: a picture or the question cannot be read.
        """
        candidates = {text: text_steps(text, self.max_steps) for text in responses}
        shown = [text for text, steps in candidates.items() if steps]
        images = [load_image(path) for path in image_paths] if shown else []
        scored: dict[str, list[ScoredStep]] = {}
        for start in range(0, len(shown), self.batch_size):
            texts = shown[start : start + self.batch_size]
            found = self.critic.score(question, images, [candidates[text] for text in texts])
            for text, scores in zip(texts, found, strict=True):
                steps = zip(candidates[text], scores, strict=True)
                scored[text] = [ScoredStep.by_critic(step, float(score)) for step, score in steps]
        return [scored.get(text, []) for text in responses]


def main(argv: Sequence[str] | None = None) -> None:
    """Check the critic that the command line names."""
    parser = Parser(description="Look at a critic before hours are spent on answers for it.")
    parser.add_argument("critic", help="checkpoint, folder or hub name")
    check_critic(parser.parse_args(argv).critic)


if __name__ == "__main__":
    enter(main)
