"""meta.json to training samples: every row read, checked, tokenized and cut into tiles, or skipped with a reason.

    dataset = MixtureDataset("meta.json", tokenizer, template="internvl2_5", num_image_token=256)
    dataset[0]  # {"prompt_ids": ..., "answers": ..., "row_id": "chartqa:17", ...} or SkippedRow(...)

A row that cannot be used is never replaced by another: it comes out as a `SkippedRow`, which the collator passes on.
Tiles are planned before images are decoded, so that prompt and longest answer fit `max_seq_length`; nothing is cut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from internvl_chat.data.images import (
    Grid,
    ImageError,
    Tiling,
    blank_tile,
    decode_rgb,
    degrade_jpeg,
    open_image,
    resolve_image,
)
from internvl_chat.data.mixture import BYTES_PER_TOKEN, MixedDataset, Mixture, Place
from internvl_chat.data.tokenization import RowTokenizer, TokenizedRow
from internvl_chat.data.video import FrameLimits, Video, open_video, read_frames
from internvl_chat.records.durable import stamp
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.records.samples import Sample, SkippedRow, prompt_key

KEPT_BYTES = 64 << 20  # of tiles, in each worker: 8 images of 13 tiles of 448 pixels


class _Located:
    """Around the reading of a row: an error that nobody foresaw leaves with a note of where the row stands."""

    def __init__(self, where: Source) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.add_note(f"while reading row {self.where.file}:{self.where.line}")


@dataclass(frozen=True)
class PlannedRow:
    """A row before its images are decoded.

    Attributes:
        text: the tokenized row, its answers chosen, then rejected where the row has one.
        grids: of tiles, one per image or frame.
        images: opened; none of a row with a video.
        video: whose frames are the images, as many as there are grids; None elsewhere.
    """

    text: TokenizedRow
    grids: list[Grid]
    images: list[Image.Image]
    video: Video | None = None

    def pictures(self) -> Iterator[Image.Image]:
        """The images or frames, decoded to RGB one by one; ImageError where one is broken."""
        return map(decode_rgb, self.images) if self.video is None else read_frames(self.video, len(self.grids))


class RowTexts(NamedTuple):
    """What a row consists of: its `images`, whether it has a `video`, and its texts."""

    images: tuple[str, ...]
    video: bool
    prompt: str
    answers: tuple[str, ...]


class RecentTiles:
    """Tiles by what they were made of, for the pairs that come next and show the same image.

    Pairs of one prompt meet in a batch where training or the filling of a cache groups them. Each worker of a loader
    keeps its own; those that were not asked for longest leave first.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        """Keep so many bytes of pixels at most."""
        self.most_bytes, self.kept_bytes = most_bytes, 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The tiles under a key, made where they are not kept. Nobody may change them."""
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        tiles = make()
        self._tiles[key] = tiles
        self.kept_bytes += tiles.nbytes
        while self.kept_bytes > self.most_bytes:
            _, oldest = self._tiles.popitem(last=False)
            self.kept_bytes -= oldest.nbytes
        return tiles


class MixtureDataset(Dataset):
    """The samples of a mixture, one epoch, in the order of `Mixture`.

    `dataset[place]` is a `Sample`, with one answer without `with_rejected`, or a `SkippedRow`.
    """

    def __init__(
        self,
        meta_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str,
        num_image_token: int,
        system_message: str | None = None,
        image_size: int = 448,
        max_seq_length: int = 8192,
        min_dynamic_patch: int = 1,
        max_dynamic_patch: int = 12,
        dynamic_image_size: bool = True,
        use_thumbnail: bool = True,
        pad2square: bool = False,
        fast_resize: bool = False,
        min_num_frame: int = 8,
        max_num_frame: int = 32,
        with_rejected: bool = True,
        allow_file_symlinks: bool = False,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        """Open the mixture; rows are read when asked for.

        Args:
            meta_path: meta.json of the mixture.
            tokenizer: of the checkpoint.
            template: name of the chat template.
            num_image_token: tokens of one tile.
            system_message: in place of the template's own.
            image_size: side of a tile in pixels.
            max_seq_length: most tokens of a prompt and one answer.
            min_dynamic_patch: fewest tiles of an image, thumbnail not counted.
            max_dynamic_patch: most tiles of a row, thumbnails not counted, its images share them; meta.json overrides.
            dynamic_image_size: False gives one tile per image.
            use_thumbnail: add the whole image where it has several tiles.
            pad2square: with dynamic_image_size False: pad images to squares instead of squeezing them.
            fast_resize: resize by torch on bytes, see `resize_fast`.
            min_num_frame: fewest frames of a video, one tile each.
            max_num_frame: most frames of a video.
            with_rejected: rows must have a rejected answer; False for supervised fine-tuning, which leaves it out.
            allow_file_symlinks: see `resolve_image`.
            seed: of a fractional repeat_time's sample and of data_augment.
            cache_dir: of the line indexes; see `internvl_chat.records.jsonl`.

        Raises:
            FileNotFoundError, ValueError: meta.json, a path in it, or the template is not usable.
        """
        self.rows = RowTokenizer(tokenizer, template, num_image_token, system_message)
        self.mixture = Mixture.from_meta(meta_path, seed=seed, cache_dir=cache_dir)
        self.tiling = Tiling(
            *(image_size, min_dynamic_patch, max_dynamic_patch, dynamic_image_size, use_thumbnail, pad2square),
            fast=fast_resize,
        )
        self.recent = RecentTiles()
        self.frames = FrameLimits(min_num_frame, max_num_frame)
        self.max_seq_length = max_seq_length
        self.with_rejected = with_rejected
        self.allow_file_symlinks = allow_file_symlinks
        self.seed = seed

    def __len__(self) -> int:
        return len(self.mixture)

    def lengths(self) -> np.ndarray:
        """A rough length of each sample in tokens of text, (len(self),) int64: to put rows of like length together."""
        return self.mixture.row_bytes().astype(np.int64) // BYTES_PER_TOKEN

    def __getitem__(self, place: int) -> Sample | SkippedRow:
        found = self.mixture.locate(place)
        where = Source(found.data.rows.path, found.data.rows.line_number(found.row))
        row_id = f"{found.data.spec.name}:{where.line}"
        try:
            with _Located(where):
                return self._sample(found, row_id)
        except RecordError as error:
            return SkippedRow(error.file, error.line, row_id, error.reason, error.fault)
        except ImageError as error:
            return SkippedRow(where.file, where.line, row_id, str(error), error.fault)

    def plan_row(self, data: MixedDataset, row: int) -> PlannedRow:
        """Row `row` of a data set, read, checked and planned; RecordError or ImageError where it cannot be used."""
        where = Source(data.rows.path, data.rows.line_number(row))
        line, _ = data.rows[row]
        pair = PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=not self.with_rejected)
        answers = [pair.chosen]
        if self.with_rejected and pair.rejected is not None:
            answers.append(pair.rejected)
        self.rows.check_length([pair.conversation, *answers], where, self.max_seq_length)
        if pair.video is not None:
            path = resolve_image(data.root, pair.video.path, allow_file_symlinks=self.allow_file_symlinks)
            video = open_video(path, pair.video.clip)
            texts = (pair.question, answers)
            text_with = partial(self.rows.tokenize_video, *texts, where=where, history=pair.history)
            text, number = plan_frames(
                text_with, len(video.frames), self.frames, where, max_seq_length=self.max_seq_length
            )
            return PlannedRow(text, [(1, 1)] * number, [], video)
        text = self.rows.tokenize(pair.question, answers, len(pair.image), where, pair.history)
        return self.with_images(text, pair.image, data, where)

    def with_images(self, text: TokenizedRow, images: Sequence[str], data: MixedDataset, where: Source) -> PlannedRow:
        """A tokenized row with its images opened and their tiles planned; ImageError, RecordError as of `plan_row`."""
        paths = [resolve_image(data.root, path, allow_file_symlinks=self.allow_file_symlinks) for path in images]
        opened = [open_image(path) for path in paths]
        sizes, limit = [image.size for image in opened], data.spec.max_dynamic_patch
        grids = plan_tiles(self.tiling, text, sizes, where, max_num=limit, max_seq_length=self.max_seq_length)
        return PlannedRow(text, grids, opened)

    def texts_of(self, row: Mapping[str, Any], where: Source) -> RowTexts:
        """The texts of a parsed row; RecordError where it cannot be used."""
        pair = PreferencePair.from_row(row, where, allow_no_rejected=True)
        return RowTexts(pair.image, pair.video is not None, pair.conversation, (pair.chosen, pair.rejected or ""))

    def frame(self) -> int:
        """Tokens that the chat template puts around a prompt."""
        return self.rows.tokenize("a", ["a"], 0, Source("template", 0)).length(0)

    def _sample(self, found: Place, row_id: str) -> Sample:
        """The sample of a row; RecordError or ImageError where it cannot be used."""
        planned = self.plan_row(found.data, found.row)
        tiles, tile_counts = self._cut_images(planned, found)
        prompt = np.array(planned.text.prompt_ids(tile_counts), np.int64)
        return {
            "prompt_ids": torch.from_numpy(prompt),
            "answers": tuple(map(torch.tensor, planned.text.answers)),
            "separator": torch.tensor(planned.text.separator, dtype=torch.int64),
            "pixel_values": torch.from_numpy(tiles),
            "image_flags": torch.full((len(tiles),), int(bool(planned.grids)), dtype=torch.int64),
            "prompt_key": prompt_key(prompt, tiles),
            "row_id": row_id,
        }

    def _cut_images(self, planned: PlannedRow, found: Place) -> tuple[np.ndarray, list[int]]:
        """The tiles (T, 3, S, S) of a row's images, how many each has; one blank tile and [] where there are none."""
        if not planned.grids:
            return blank_tile(self.tiling.image_size), []
        if planned.video is None and not found.data.spec.data_augment:
            tiles = [self._recent_tiles(*opened) for opened in zip(planned.images, planned.grids, strict=True)]
        else:
            rng = np.random.default_rng([self.seed, found.data.number, found.row, found.copy])
            tiles = []
            for rgb, grid in zip(planned.pictures(), planned.grids, strict=True):
                tiles.append(self.tiling.cut(degrade_jpeg(rgb, rng) if found.data.spec.data_augment else rgb, grid))
        return np.concatenate(tiles), [len(part) for part in tiles]

    def _recent_tiles(self, image: Image.Image, grid: Grid) -> np.ndarray:
        """The tiles of an opened image, made anew unless the very file was cut like this a moment ago."""
        path = image.filename  # type: ignore[attr-defined]  # of every image that was opened by its path
        try:
            key = (path, *stamp(path), grid)
        except OSError:  # removed since it was opened, which does not keep it from being read
            return self.tiling.cut(decode_rgb(image), grid)
        return self.recent.get(key, lambda: self.tiling.cut(decode_rgb(image), grid))


def plan_frames(
    text_with: Callable[[int], TokenizedRow], available: int, limits: FrameLimits, where: Source, *, max_seq_length: int
) -> tuple[TokenizedRow, int]:
    """The tokenized row of a video, and its number of frames: as many as fit, of one tile each.

    Args:
        text_with: the row tokenized with so many frames.
        available: frames of the video.
        limits: of the number of frames.
        where: for the error.
        max_seq_length: most tokens of prompt and one answer.

    Raises:
        RecordError: the fewest frames do not fit.
    """
    number, fewest = min(limits.most, available), min(limits.fewest, available)
    while True:
        text = text_with(number)
        length = text.length(number)
        if length <= max_seq_length:
            return text, number
        if number == fewest:
            need = f"{length} tokens with {number} frames"
            raise RecordError(*where, f"needs at least {need}, max_seq_length is {max_seq_length}", "too_long")
        most_of_a_frame = length // number  # the text counted in, so that no frame too many is left out
        number = max(fewest, number - max(1, (length - max_seq_length) // most_of_a_frame))


def plan_tiles(
    tiling: Tiling,
    text: TokenizedRow,
    sizes: Sequence[tuple[int, int]],
    where: Source,
    *,
    max_num: int | None,
    max_seq_length: int,
) -> list[Grid]:
    """The grid of each image of a row such that its prompt and longest answer fit.

    Args:
        tiling: of the mixture.
        text: the tokenized row.
        sizes: (width, height) of its images.
        where: for the error.
        max_num: most tiles of the row, by meta.json; None for the tiling's own.
        max_seq_length: most tokens of prompt and one answer.

    Raises:
        RecordError: it does not fit even with one tile per image.
    """
    room = (max_seq_length - text.length(0)) // text.image.per_tile
    if room < len(sizes):
        need = f"{text.length(len(sizes))} tokens with {len(sizes)} tiles"
        raise RecordError(*where, f"needs at least {need}, max_seq_length is {max_seq_length}", "too_long")
    return tiling.plan(sizes, max_num=max_num, most_tiles=room)
