"""meta.json of judged conversations to training samples, as `internvl_chat.data.dataset` does it with pairs.

Every conversation of a run is under one system message, which the critic will be asked under later: that of
`--system_prompt`, or of the first row that can be read. A row with another one is skipped, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from internvl_chat.critic.conversation import JudgedTokens, StepTokenizer
from internvl_chat.critic.packing import JudgedSample
from internvl_chat.data.dataset import MixtureDataset, PlannedRow, RowTexts
from internvl_chat.data.mixture import MixedDataset, Place
from internvl_chat.model.critic_turns import RIGHT, STEPS_HEAD, TURNS, step_turns
from internvl_chat.records.judged import JudgedRow, check_system
from internvl_chat.records.rows import RecordError, Source, parse_row
from internvl_chat.records.step_targets import Marks, StepTargets
from internvl_chat.run.process import gather_objects

FIRST_ROWS = 100  # of a data set, in which one is looked for that can be read


class JudgedDataset(MixtureDataset):
    """The judged conversations of a mixture; `dataset[place]` is a `JudgedSample` or a `SkippedRow`.

    Attributes:
        targets: what is learned of a step.
        as_asked: whether all earlier judgements are `+`, as in scoring, or those of the row.
        steps: tokenizer of conversations.
        said: the system message; None for the template's own.
        asked_of_rows: the system message that every row has to have, "" for none; None where any will do.
    """

    def __init__(
        self,
        meta_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        targets: StepTargets,
        as_asked: bool = True,
        layout: str = TURNS,
        system_message: str | None = None,
        **options: Any,
    ) -> None:
        """Open the mixture.

        Args:
            meta_path: meta.json of the mixture.
            tokenizer: of the checkpoint.
            targets: what is learned of a step.
            as_asked: let all earlier judgements be `+`. With those of the row a critic can learn to repeat the last
                one in place of looking at the step, and scoring then tells it `+` everywhere.
            layout: how steps are laid out, one of `LAYOUTS`. The message of the rows speaks of turns: `answer` has that
                of the template, as the answer itself had.
            system_message: in place of that of the rows.
            options: as `MixtureDataset` takes them.

        Raises:
            FileNotFoundError, ValueError: as of `MixtureDataset`; `+` or `-` is no single token.
        """
        super().__init__(meta_path, tokenizer, system_message=system_message, **options)
        self.targets, self.as_asked, self.steps = targets, as_asked, StepTokenizer(self.rows, layout)
        follows_rows = system_message is None and layout == TURNS
        self.asked_of_rows = first_system(self.mixture.datasets) if follows_rows else None
        self.said = (self.asked_of_rows or None) if follows_rows else system_message

    @property
    def system_message(self) -> str:
        """The text of the system turn."""
        return self.rows.template.system_message if self.said is None else self.said

    @property
    def way_of_asking(self) -> dict[str, str]:
        """What a checkpoint tells those who score with it (`config.critic`)."""
        return {"system_message": self.system_message, "layout": self.steps.layout}

    def plan_row(self, data: MixedDataset, row: int) -> PlannedRow:
        """As in `MixtureDataset`, of a conversation."""
        return self._plan(data, row)[0]

    def _plan(self, data: MixedDataset, row: int) -> tuple[PlannedRow, JudgedTokens, Marks]:
        """A conversation up to the last step that has a loss; RecordError or ImageError where it cannot be used."""
        where = Source(data.rows.path, data.rows.line_number(row))
        judged = JudgedRow.from_row(parse_row(data.rows[row][0], *where), where)
        check_system(judged, self.asked_of_rows, where)
        marks = self.targets.marks(judged, where)
        kept = max(1, marks.last_measured)
        turns, marks = judged.steps[:kept], marks.first(kept)
        self.rows.check_length(turns, where, self.max_seq_length)
        shown = (RIGHT,) * kept if self.as_asked else marks.words
        tokens = self.steps.tokenize(turns, shown, num_images=len(judged.image), where=where, system_message=self.said)
        return self.with_images(tokens.text, judged.image, data, where), tokens, marks

    def _sample(self, found: Place, row_id: str) -> JudgedSample:  # type: ignore[override]
        planned, tokens, marks = self._plan(found.data, found.row)
        tiles, tile_counts = self._cut_images(planned, found)
        return tokens.sample(torch.from_numpy(tiles), tile_counts, marks, row_id)

    def texts_of(self, row: Mapping[str, Any], where: Source) -> RowTexts:
        """As in `MixtureDataset`: the question, and the steps that follow it."""
        judged = JudgedRow.from_row(row, where)
        question, _, first = judged.steps[0].rpartition(STEPS_HEAD)
        return RowTexts(judged.image, False, question, (first, *judged.steps[1:]))

    def frame(self) -> int:
        """As in `MixtureDataset`, with the system message of the conversations."""
        turns, where = step_turns("", ["a"]), Source("template", 0)
        return self.steps.tokenize(turns, [], num_images=0, where=where, system_message=self.said).text.length(0)

    def count_steps(self, rank: int = 0, world_size: int = 1) -> dict[str, np.ndarray]:
        """Right, wrong and unmeasured steps of an epoch, and rows of which nothing is measured: (4,) by data set.

        Ranks share the reading and tell each other; a collective. Rows that cannot be used do not count.
        """
        counts = {}
        for data in self.mixture.datasets:
            own = self._counts_of(data, range(rank, len(data.rows), world_size))
            counts[data.spec.name] = np.sum(gather_objects(own), axis=0)
        return counts

    def _counts_of(self, data: MixedDataset, rows: range) -> np.ndarray:
        times = np.bincount(data.order % len(data.rows), minlength=len(data.rows))
        counts = np.zeros(4, np.int64)
        for row in rows:
            line, number = data.rows[row]
            where = Source(data.rows.path, number)
            try:
                marks = self.targets.marks(JudgedRow.from_row(parse_row(line, *where), where), where)
            except RecordError:
                continue
            counts += times[row] * np.array(marks.counts())
        data.rows.forget_pages()
        return counts


def first_system(datasets: Sequence[MixedDataset]) -> str | None:
    """The system message of the first row that can be read, "" where it has none.

    None where none can be read of the first rows of each data set, as in a mixture of pairs.
    """
    for data in datasets:
        for row in range(min(len(data.rows), FIRST_ROWS)):
            line, number = data.rows[row]
            where = Source(data.rows.path, number)
            try:
                return JudgedRow.from_row(parse_row(line, *where), where).system or ""
            except RecordError:
                continue
    return None
