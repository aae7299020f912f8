"""Step scores of answers by a trained critic: all candidates of a question in one packed forward, its image once.

    critic = StepCritic.load("work_dirs/internvl2_5_8b_visualprm")
    critic.score("How many?", [image], [["There are 2 dogs.", "Answer: 2"], ["One.", "Answer: 1"]])
    [[0.98, 0.97], [0.41, 0.12]]

A score is p(`+`), softmax over `+` and `-` alone, where all earlier answers are `+`: the scores of the released
VisualPRM-8B, which takes a forward for each candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.critic.conversation import StepTokenizer
from internvl_chat.critic.packing import JudgedSample, collate_steps, judgement_logps, right_probability
from internvl_chat.data.images import Tiling, blank_tile, decode_rgb
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_config, load_model, load_tokenizer
from internvl_chat.model.critic_turns import step_turns
from internvl_chat.model.step_scoring import layout_of, system_message_of
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.records.rows import Source
from internvl_chat.records.step_targets import Marks


def step_tokenizer(source: Path, config: InternVLChatConfig) -> StepTokenizer:
    """The tokenizer of a critic's conversations.

    Args:
        source: folder of the checkpoint.
        config: of the checkpoint.

    Raises:
        FileNotFoundError, ValueError: as of `load_tokenizer`; the template or the layout is unknown, or `+` or `-` no
            single token.
    """
    tokenizer = load_tokenizer(source)
    try:
        rows = RowTokenizer(tokenizer, config.template, config.num_image_token)
        return StepTokenizer(rows, layout_of(config))
    except ValueError as error:
        raise ValueError(f"{source}: no critic of steps: {error}") from error


class StepCritic:
    """A critic that is ready to score."""

    def __init__(self, model: InternVLChatModel, tokenizer: StepTokenizer, tiling: Tiling, system: str | None) -> None:
        """Take the parts of a loaded critic; `system` is its system message, None for the template's own."""
        use_shared_prefix(model)
        self.model, self.tokenizer, self.tiling, self.system = model.eval(), tokenizer, tiling, system

    @classmethod
    def load(
        cls,
        path: str,
        *,
        max_dynamic_patch: int = 6,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> StepCritic:
        """Load a critic.

        Args:
            path: folder or hub name of a checkpoint, of either layout.
            max_dynamic_patch: most tiles of the images of a question; 6 is what the replication trained with.
            dtype: of the weights; bfloat16 on a GPU, float32 elsewhere.
            device: where it runs; a GPU where there is one.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is of another family or template, or `+` and `-` are no single tokens of its tokenizer.
        """
        source = local_checkpoint(str(path))
        config = load_config(source)
        tokenizer = step_tokenizer(source, config)
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32)
        model = load_model(source, config=config, dtype=dtype).to(where)
        tiling = Tiling(
            image_size=config.force_image_size or config.vision_config.image_size,
            max_num=max_dynamic_patch,
            dynamic=config.dynamic_image_size,
            use_thumbnail=config.use_thumbnail,
            pad2square=config.pad2square,
        )
        return cls(model, tokenizer, tiling, system_message_of(config))

    @torch.inference_mode()
    def score(
        self, question: str, images: Sequence[Image.Image], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """p(`+`) of every step of every candidate.

        Args:
            question: with one `<image>` per image, or with none, then they come first; without the gold answer.
            images: of the question, in order; may be empty.
            candidates: the steps of each answer, at least one each; their numbers may differ.

        Returns:
            Scores in 0..1, in the shape of `candidates`.

        Raises:
            ValueError: a candidate has no step or one without text, or the placeholders do not match the images.
        """
        if not candidates:
            return []
        samples = self._samples(question, images, candidates)
        batch = collate_steps(samples, self.tokenizer.rows.image.context, self.tokenizer.words)
        device = self.model.device
        moved = {name: value.to(device) for name, value in batch.items() if hasattr(value, "to")}
        scores = right_probability(judgement_logps(self.model, moved).double()).cpu()
        return [part.tolist() for part in scores.split([len(steps) for steps in candidates])]

    def _samples(
        self, question: str, images: Sequence[Image.Image], candidates: Sequence[Sequence[str]]
    ) -> list[JudgedSample]:
        """A conversation for each candidate, all with the same tiles."""
        grids = self.tiling.plan([image.size for image in images]) if images else []
        cut = [self.tiling.cut(decode_rgb(image), grid) for image, grid in zip(images, grids, strict=True)]
        tiles = torch.from_numpy(np.concatenate(cut) if cut else blank_tile(self.tiling.image_size))
        samples = []
        for number, steps in enumerate(candidates):
            if not steps:
                raise ValueError(f"candidate {number} has no step: leave it out, or give its text as one step")
            if blank := [place for place, step in enumerate(steps) if not step.strip()]:
                raise ValueError(f"step {blank[0]} of candidate {number} has no text: leave it out")
            marks = Marks.to_score(len(steps))
            tokens = self.tokenizer.tokenize(
                step_turns(question, steps),
                marks.words,
                num_images=len(images),
                where=Source("candidate", number),
                system_message=self.system,
            )
            samples.append(tokens.sample(tiles, [len(part) for part in cut], marks, row_id=f"candidate:{number}"))
        return samples
