"""The conversation in which a critic judges steps, and how it becomes token ids: the one home of its layout.

    system     CRITIC_SYSTEM_MESSAGE
    user       ### Question:\\n{question}\\n\\n### Solution Process:\\n{step 1}
    assistant  +            or -
    user       {step 2}
    assistant  ...

or, in the layout `answer`, question and answer as a model gave it, judged at the last token of each step:

    system     the template's own message
    user       {question}
    assistant  {step 1}\\n\\n{step 2} ..

A judgement is a single token, read off the position before it. Scoring puts `+` into the earlier answers, as the
released VisualPRM-8B does (`generate_steps_with_soft_score_v2` of its code), and so does training unless told not to.
An image stands in front of the question, inside the first turn, where that code puts it. Ids are those of the whole
conversation in the checkpoint's template, encoded in one go, as its training code did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from internvl_chat.critic.packing import JudgedSample
from internvl_chat.data.tokenization import RowTokenizer, TokenizedRow, place_images
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.model.conversation import Part
from internvl_chat.model.critic_turns import ANSWER, MARKS, QUESTION_HEAD, STEPS_HEAD, TURNS, answer_pieces
from internvl_chat.model.step_scoring import mark_ids
from internvl_chat.records.rows import RecordError, Source
from internvl_chat.records.step_targets import Marks


@dataclass(frozen=True)
class JudgedTokens:
    """A conversation up to its last judgement, whose tile counts are not known yet.

    Attributes:
        text: its ids; there are no answers apart from them.
        from_end: for each judgement, how many ids there are from the one that predicts it to the end, the last one 1.
    """

    text: TokenizedRow
    from_end: tuple[int, ...]

    def sample(self, tiles: Tensor, tile_counts: Sequence[int], marks: Marks, row_id: str) -> JudgedSample:
        """The sample of a conversation.

        Args:
            tiles: (T, 3, S, S) uint8 of its images, a blank one where it has none.
            tile_counts: tiles of each image.
            marks: of its steps.
            row_id: "<data set>:<line>".
        """
        ids = torch.tensor(self.text.prompt_ids(tile_counts))
        measured = torch.tensor(marks.measured)
        return {
            "ids": ids,
            "judged": (len(ids) - torch.tensor(self.from_end))[measured],
            "right": torch.tensor(marks.right)[measured],
            "targets": torch.tensor(marks.targets)[measured],
            "pixel_values": tiles,
            "image_flags": torch.full((len(tiles),), int(bool(tile_counts)), dtype=torch.int64),
            "row_id": row_id,
        }


class StepTokenizer:
    """Tokenizes judged conversations in one chat template.

    Attributes:
        layout: one of `LAYOUTS`.
        words: ids of `+` and `-`.
    """

    def __init__(self, rows: RowTokenizer, layout: str = TURNS) -> None:
        """Take the tokenizer of a checkpoint with its template, and how steps are laid out.

        Raises:
            ValueError: `+` or `-` is not a single token there.
        """
        self.rows, self.layout = rows, layout
        part = rows.template
        self._user, self._close = Part(part.user_prefix, True), Part(part.end_token + part.separator, True)
        self._assistant = Part(part.assistant_prefix + part.answer_prefix, True)
        self._ask = rows.encoder.encode([self._assistant])
        self._closed = rows.encoder.encode([self._close])
        self.words = mark_ids(rows.encoder, part)

    def tokenize(
        self,
        turns: Sequence[str],
        words: Sequence[str],
        *,
        num_images: int,
        where: Source,
        system_message: str | None = None,
    ) -> JudgedTokens:
        """Tokenize a conversation.

        Args:
            turns: texts of the user, the question with one `<image>` per image, or with none; see `place_question`.
            words: `+` or `-` behind each of them but the last, whose answer is open; a longer list is cut. The layout
                `answer` shows none of them.
            num_images: images of the conversation.
            where: for the error.
            system_message: in place of the template's own.

        Raises:
            RecordError: the placeholders do not match the images, or, in the layout `answer`, the first turn does not
                say where its step begins.
        """
        first, *later = turns
        (before, *pieces), step = place_question(first, num_images, where)
        if self.layout == ANSWER:
            before, shown = before.removeprefix(QUESTION_HEAD), ""
            tail, ends = self._answer([_first_step(step, where), *later])
        else:
            shown = step
            tail, ends = self._later_turns(later, words)
        groups = [[self._user, Part(before, False)], *([Part(piece, False)] for piece in pieces)]
        groups[-1] += [Part(shown, False), self._close]
        head, *others = map(self.rows.encoder.encode, groups)
        ids = [self.rows.opening(system_message) + head, *others]
        ids[-1] += tail
        row = TokenizedRow(tuple(ids), ([],), [], self.rows.image)
        return JudgedTokens(row, tuple(len(tail) - end + 1 for end in ends))

    def _later_turns(self, later: Sequence[str], words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids behind the first turn up to the last judgement, and how many there are up to each of them."""
        ids, ends = list(self._ask), [len(self._ask)]
        for text, word in zip(later, words[: len(later)], strict=True):
            turn = self.rows.encoder.encode([self._user, Part(text, False), self._close])
            ids += [self.words[MARKS.index(word)], *self._closed, *turn, *self._ask]
            ends.append(len(ids))
        return ids, ends

    def _answer(self, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of an answer, and how many there are up to the end of each of its steps."""
        ids, ends = list(self._ask), []
        for piece in answer_pieces(steps):
            ids += self.rows.encoder.encode_text(piece)
            ends.append(len(ids))
        return ids, ends


def _first_step(told: str, where: Source) -> str:
    """The step in what follows a question; RecordError where its heading is missing."""
    if not told:
        reason = f"the first turn lacks {STEPS_HEAD.strip()!r}: nobody can tell question and answer apart"
        raise RecordError(*where, reason, "missing_field")
    return told.removeprefix(STEPS_HEAD)


def place_question(turn: str, num_images: int, where: Source) -> tuple[list[str], str]:
    """The first turn cut where images go, and what follows its question, in which `<image>` is text.

    A question without `<image>` gets one per image in front, a line each, behind its heading where it has one.
    RecordError when it has some, but not as many as there are images.
    """
    question, steps_head, step = turn.partition(STEPS_HEAD)
    heading = QUESTION_HEAD if question.startswith(QUESTION_HEAD) else ""
    (placed,) = place_images([question.removeprefix(heading)], num_images, where)
    return (heading + placed).split(IMAGE_PLACEHOLDER), steps_head + step
