"""Sizes and folders of the study, and the chat template that it registers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from internvl_chat.model.conversation import TEMPLATES

TEMPLATE = "study"


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        taught: worked solutions that a start is taught on.
        asked: questions that a start samples answers to.
        samples: answers to each.
        pairs_per_question: most of them.
        held_out, held_out_kinds: questions of held-out sentences, and of held-out kinds.
        direct: of the former, also asked for the number alone.
        watched: questions of a run that is watched.
        drawn: sampled answers to each held-out question.
        paragraphs: of the general text.
    """

    taught: int = 800
    asked: int = 200
    samples: int = 8
    pairs_per_question: int = 4
    held_out: int = 200
    held_out_kinds: int = 50
    direct: int = 100
    watched: int = 200
    drawn: int = 1
    paragraphs: int = 20


@dataclass(frozen=True)
class Study:
    """One study: where its stages stand, which model it starts from, how large it is."""

    work: Path
    model: Path
    sizes: Sizes = Sizes()


def register_template() -> None:
    """Make InternVL2.5's chat template without its system message known: that is 90 tokens of Chinese to this model.

    They would be two thirds of a prompt. Checkpoints of the study name this template, so they load only where it is
    registered.
    """
    TEMPLATES[TEMPLATE] = replace(TEMPLATES["internvl2_5"], name=TEMPLATE, system_message="")
