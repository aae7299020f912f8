"""Flags that say which rows are read and how: those of training, and of the tools that look at its data. No torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from internvl_chat.data.images import Tiling
from internvl_chat.data.video import FrameLimits
from internvl_chat.model.constants import NORMALIZATIONS
from internvl_chat.model.conversation import THINKING_SYSTEM_MESSAGE

if TYPE_CHECKING:
    from internvl_chat.model import InternVLChatConfig

logger = logging.getLogger(__name__)


def described(default: Any, sentence: str) -> Any:
    """A dataclass field whose sentence `--help` prints."""
    return field(default=default, metadata={"help": sentence})


@dataclass
class DataArguments:
    """Which rows, and how pictures and conversations become tokens."""

    meta_path: str = described("", "meta.json of the training mixture.")
    eval_meta_path: str | None = described(None, "meta.json of pairs to evaluate on during training.")
    conv_style: str = described("internvl2_5", "Chat template.")
    system_prompt: str | None = described(
        None, "System message in place of the template's own; `thinking` for that of InternVL3.5's thinking mode."
    )
    max_seq_length: int = described(8192, "Most tokens of prompt and one answer; tiles are planned to fit.")
    force_image_size: int = described(448, "Side of a tile in pixels.")
    down_sample_ratio: float = described(0.5, "Pixel shuffle ratio; 0.5 makes one token of four patches.")
    pad2square: bool = described(False, "Without --dynamic_image_size: pad pictures to squares instead of squeezing.")
    dynamic_image_size: bool = described(True, "Cut a picture into up to --max_dynamic_patch tiles.")
    fast_resize: bool = described(
        False,
        "Resize pictures by torch on bytes: twice the tiles of a core; levels differ by 1 or 2 of 255.",
    )
    use_thumbnail: bool = described(True, "Add the whole picture as a last tile when there are several.")
    min_dynamic_patch: int = described(1, "Fewest tiles of a picture.")
    max_dynamic_patch: int = described(12, "Most tiles of a row's pictures together; meta.json may say otherwise.")
    min_num_frame: int = described(8, "Fewest frames of a video, one tile each, unless it has fewer.")
    max_num_frame: int = described(32, "Most frames of a video; as many are taken as fit --max_seq_length.")
    normalize_type: str = described("imagenet", "Pixel normalisation: imagenet, clip or siglip.")
    follow_symlinks: bool = described(
        False, "Also read images that are symlinks of single files out of their root, as in the cache of a hub."
    )
    use_data_resampling: bool = described(False, "Accepted; the original never used it. Set repeat_time instead.")

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a missing meta file, or a value out of its range.
        """
        if not self.meta_path:
            raise ValueError("--meta_path is empty: name a meta.json, see data/README.md")
        if not 1 <= self.min_dynamic_patch <= self.max_dynamic_patch:
            limits = f"--min_dynamic_patch {self.min_dynamic_patch} --max_dynamic_patch {self.max_dynamic_patch}"
            raise ValueError(f"{limits}: must be 1 <= min <= max")
        if not 1 <= self.min_num_frame <= self.max_num_frame:
            limits = f"--min_num_frame {self.min_num_frame} --max_num_frame {self.max_num_frame}"
            raise ValueError(f"{limits}: must be 1 <= min <= max")
        if self.normalize_type not in NORMALIZATIONS:
            raise ValueError(f"--normalize_type {self.normalize_type} is unknown: take one of {sorted(NORMALIZATIONS)}")
        if self.use_data_resampling:
            logger.warning("--use_data_resampling has no effect: the mixture follows repeat_time of %s", self.meta_path)

    @property
    def system_message(self) -> str | None:
        """Text of the system turn, None for the template's own."""
        return THINKING_SYSTEM_MESSAGE if self.system_prompt == "thinking" else self.system_prompt

    def configure(self, config: InternVLChatConfig) -> None:
        """Write what these flags say about pictures and template into a checkpoint's configuration.

        Raises:
            ValueError: a tile is no whole number of the patches that make a token.
        """
        vision: Any = config.vision_config
        side = round(vision.patch_size / self.down_sample_ratio)
        if self.force_image_size < 1 or self.force_image_size % side:
            raise ValueError(
                f"--force_image_size {self.force_image_size} must be a multiple of {side} pixels: patches of "
                f"{vision.patch_size} that --down_sample_ratio {self.down_sample_ratio} joins"
            )
        config.template = self.conv_style
        config.downsample_ratio = self.down_sample_ratio
        config.force_image_size = self.force_image_size
        config.dynamic_image_size = self.dynamic_image_size
        config.use_thumbnail = self.use_thumbnail
        config.pad2square = self.pad2square
        config.min_dynamic_patch = self.min_dynamic_patch
        config.max_dynamic_patch = self.max_dynamic_patch

    def frame_limits(self) -> FrameLimits:
        """How many frames of a video are taken."""
        return FrameLimits(self.min_num_frame, self.max_num_frame)

    def tiling(self) -> Tiling:
        """How pictures become tiles."""
        return Tiling(
            image_size=self.force_image_size,
            min_num=self.min_dynamic_patch,
            max_num=self.max_dynamic_patch,
            dynamic=self.dynamic_image_size,
            use_thumbnail=self.use_thumbnail,
            pad2square=self.pad2square,
            fast=self.fast_resize,
        )
