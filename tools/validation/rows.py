"""One row, checked as training will check it, and for what training would not notice.

The checks that decide whether a row trains are the library's own functions, in the order of cost. Only tokenization is
spared where it cannot change the verdict: a text has at most twice as many tokens as UTF-8 bytes, so that a row whose
bytes fit, fits. That is one row in ten or a hundred, and a thousand tokenized rows a second would be the bottleneck.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import partial

import xxhash

from internvl_chat.critic.conversation import StepTokenizer
from internvl_chat.data.dataset import plan_frames, plan_tiles
from internvl_chat.data.groups import picture_of
from internvl_chat.data.images import Grid, ImageError, Tiling, count_tiles
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.data.tokenization import (
    RowTokenizer,
    TokenizedRow,
    check_answers,
    image_marks,
    place_frames,
    place_images,
)
from internvl_chat.data.video import FrameLimits
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.model.critic_turns import RIGHT, STEPS_HEAD
from internvl_chat.records.judged import JudgedRow, check_system, is_judged
from internvl_chat.records.rows import PreferencePair, RecordError, Source, own_keys, parse_row
from tools.validation.pictures import CheckedPicture, PictureReader
from tools.validation.texts import squeezed, suspicious_texts


@dataclass
class RowFacts:
    """What was found out about a row.

    Attributes:
        line: its line in the file, from 1.
        faults: (name, detail) of what is wrong with it.
        usable: whether training can use it; the figures below are 0 or None where it cannot.
        prompt, pair, mirror: 64-bit hashes of images and question; with both answers; with the answers exchanged.
        image: 64-bit hash of what pairs grouped by image share, see `data.groups`; 0 of a row without pictures.
        chosen, rejected: characters of the answers.
        tiles: of its images as trained, thumbnails counted.
        tokens: of its prompt and longest answer; None where they were not counted.
    """

    line: int
    faults: list[tuple[str, str]] = field(default_factory=list)
    usable: bool = False
    prompt: int = 0
    pair: int = 0
    mirror: int = 0
    image: int = 0
    chosen: int = 0
    rejected: int = 0
    tiles: int = 0
    tokens: int | None = None


class RowChecker:
    """Checks rows one by one; it can be shared with worker processes."""

    def __init__(
        self,
        tiling: Tiling,
        rows: RowTokenizer | None,
        *,
        max_seq_length: int,
        frames: FrameLimits,
        decode: bool = True,
        allow_no_rejected: bool = False,
        system_message: str | None = None,
        follow_symlinks: bool = False,
    ) -> None:
        """Take what training would use.

        Args:
            tiling: how images become tiles.
            rows: of the checkpoint; None leaves out what needs a tokenizer.
            max_seq_length: most tokens of prompt and one answer.
            frames: how many frames of a video are taken.
            decode: decode images whole, or read their headers only.
            allow_no_rejected: rows may lack a rejected answer, for supervised fine-tuning.
            system_message: that all conversations of judged steps are under; None where any will do.
            follow_symlinks: see `resolve_image`.
        """
        self.tiling, self.rows, self.system_message = tiling, rows, system_message
        self.max_seq_length, self.frames = max_seq_length, frames
        self.allow_no_rejected = allow_no_rejected
        self.pictures = PictureReader(decode=decode, follow_symlinks=follow_symlinks)
        # The template around a row of two tokens.
        self.judged = None if rows is None else StepTokenizer(rows)
        self._frame = 0 if rows is None else rows.tokenize("a", ["a"], 0, Source("template", 0)).length(0)

    def check(self, line: bytes, where: Source, data: MixedDataset, *, count_tokens: bool = False) -> RowFacts:
        """Check a line of a data set; `count_tokens` even if nothing depends on it."""
        facts = RowFacts(where.line)
        try:
            self._check(facts, line, where, data, count_tokens)
        except RecordError as error:
            facts.faults.append((error.fault, error.reason))
        except ImageError as error:
            facts.faults.append((error.fault, str(error)))
        return facts

    def _check(self, facts: RowFacts, line: bytes, where: Source, data: MixedDataset, count_tokens: bool) -> None:
        row = parse_row(line, *where)
        if is_judged(row):
            self._check_judged(facts, JudgedRow.from_row(row, where), where, data)
            return
        pair = PreferencePair.from_row(row, where, allow_no_rejected=self.allow_no_rejected)
        if pair.image or pair.video:
            facts.image = xxhash.xxh3_64_intdigest(picture_of(own_keys(row, where)))
        answers = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        check_answers(answers, answers, where)
        if self.rows is not None:
            self.rows.check_length([pair.conversation, *answers], where, self.max_seq_length)
        if pair.video is not None:
            self._check_video(facts, pair, answers, where, data)
            return
        place_images(asked(pair), len(pair.image), where)
        pictures = [self.pictures.read(data.root, path) for path in pair.image]
        sizes = [picture.size for picture in pictures]
        facts.tiles = self._count(self.tiling.plan(sizes, max_num=data.spec.max_dynamic_patch))
        if self.rows is not None and (count_tokens or self._needs_tokens(pair, answers, facts.tiles)):
            text = self.rows.tokenize(pair.question, answers, len(sizes), where, pair.history)
            self._fit(facts, text, sizes, where, data)
        facts.faults += [oddity for picture in pictures for oddity in picture.oddities]
        facts.faults += suspicious_texts(pair, data.spec.name)
        _measure(facts, pair, pictures)

    def _check_judged(self, facts: RowFacts, row: JudgedRow, where: Source, data: MixedDataset) -> None:
        """Check a conversation of judged steps."""
        check_system(row, self.system_message, where)
        question = row.steps[0].partition(STEPS_HEAD)[0]
        place_images([question], len(row.image), where)
        pictures = [self.pictures.read(data.root, path) for path in row.image]
        sizes = [picture.size for picture in pictures]
        facts.tiles = self._count(self.tiling.plan(sizes, max_num=data.spec.max_dynamic_patch))
        if self.rows is not None and self.judged is not None:
            self.rows.check_length(row.steps, where, self.max_seq_length)
            words = [word or RIGHT for word in row.judgements]
            tokens = self.judged.tokenize(
                row.steps, words, num_images=len(sizes), where=where, system_message=row.system
            )
            self._fit(facts, tokens.text, sizes, where, data)
        facts.faults += [oddity for picture in pictures for oddity in picture.oddities]
        if marks := image_marks([question]):
            facts.faults.append(("image_mark", f"the question holds {', '.join(marks)}"))
        prompt = [*(picture.identity for picture in pictures), " ".join(question.split())]
        said = [*prompt, *row.steps, *row.judgements]
        facts.prompt, facts.pair, facts.mirror = map(_hash, (prompt, said, [*said, "no such row"]))
        facts.image = _hash(prompt[:-1]) if pictures else 0
        facts.chosen, facts.usable = sum(map(len, row.steps)), True

    def _fit(
        self, facts: RowFacts, text: TokenizedRow, sizes: list[tuple[int, int]], where: Source, data: MixedDataset
    ) -> None:
        """Plan the tiles of a tokenized row such that it fits."""
        limit = data.spec.max_dynamic_patch
        grids = plan_tiles(self.tiling, text, sizes, where, max_num=limit, max_seq_length=self.max_seq_length)
        wanted, facts.tiles = facts.tiles, self._count(grids)
        facts.tokens = text.length(facts.tiles)
        if facts.tiles < wanted:
            facts.faults.append(("fewer_tiles", f"{facts.tiles} of {wanted} tiles fit {self.max_seq_length}"))

    def _check_video(
        self, facts: RowFacts, pair: PreferencePair, answers: list[str], where: Source, data: MixedDataset
    ) -> None:
        """Check a row with a video; its frames are one tile each."""
        assert pair.video is not None
        film = self.pictures.read_video(data.root, *pair.video, self.frames.most)
        wanted = facts.tiles = min(self.frames.most, film.num_frames)
        place_frames(asked(pair), wanted, where)
        if self.rows is not None:
            text_with = partial(self.rows.tokenize_video, pair.question, answers, where=where, history=pair.history)
            text, facts.tiles = plan_frames(
                text_with, film.num_frames, self.frames, where, max_seq_length=self.max_seq_length
            )
            facts.tokens = text.length(facts.tiles)
            if facts.tiles < wanted:
                facts.faults.append(("fewer_tiles", f"{facts.tiles} of {wanted} frames fit {self.max_seq_length}"))
        facts.faults += [*film.oddities, *suspicious_texts(pair, data.spec.name)]
        _measure(facts, pair, [CheckedPicture(film.size, film.identity, ())])

    def _count(self, grids: list[Grid]) -> int:
        return sum(count_tiles(grid, self.tiling.use_thumbnail) for grid in grids)

    def _needs_tokens(self, pair: PreferencePair, answers: list[str], tiles: int) -> bool:
        """Whether only its tokens tell if a row fits, or if its answers are empty or the same."""
        assert self.rows is not None
        most = (1 + len(pair.history)) * self._frame + most_tokens(pair.conversation) + max(map(most_tokens, answers))
        most += tiles * self.rows.image.per_tile + (2 + 2) * len(pair.image)  # its ends, and a line per placeholder
        compared = {squeezed(answer) for answer in answers}
        return most > self.max_seq_length or len(compared) < len(answers) or "" in compared


def asked(pair: PreferencePair) -> list[str]:
    """The questions of a row, the judged one last."""
    return [*(turn.question for turn in pair.history), pair.question]


def most_tokens(text: str) -> int:
    """An upper bound of the tokens of a text: a byte each, and as many marks of a word's start, however normalised."""
    if text.isascii():
        return 2 * len(text)
    return 2 * max(len(form.encode()) for form in (text, unicodedata.normalize("NFKC", text)))


def _measure(facts: RowFacts, pair: PreferencePair, pictures: list[CheckedPicture]) -> None:
    """Fill in the hashes and lengths of a usable row."""
    question = " ".join(pair.conversation.replace(IMAGE_PLACEHOLDER, " ").split())
    prompt = [*(picture.identity for picture in pictures), question]
    chosen, rejected = pair.chosen, pair.rejected or ""
    facts.prompt, facts.pair, facts.mirror = map(
        _hash, (prompt, [*prompt, chosen, rejected], [*prompt, rejected, chosen])
    )
    facts.chosen, facts.rejected = len(chosen), len(rejected)
    facts.usable = True


def _hash(texts: list[str]) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(texts).encode())
