"""A policy in training as a respondent: its answers by the embedded engine, its log-probs by the packed forward pass.

Nothing is loaded or copied: the engine takes the very model, which attends as any other meanwhile. Answers are drawn
by the engine's own numbers, so that the generators of training stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from internvl_chat.data.arguments import DataArguments
from internvl_chat.data.images import blank_tile
from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.attention import ordinary_attention
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import collate_packed
from internvl_chat.records.samples import prompt_key
from tools.evaluation.answering import completions, request_of
from tools.evaluation.questions import AskedQuestion
from tools.reasoning_data_pipeline.engines.inputs import PromptEncoder
from tools.reasoning_data_pipeline.engines.protocol import Completion, EngineOptions, SamplingSettings
from tools.reasoning_data_pipeline.engines.transformers_engine import TransformersEngine

ROWS = 64  # answers in the making at once


@dataclass(frozen=True)
class Interview:
    """How a policy is asked.

    Attributes:
        tokenizer: of its checkpoint.
        data: flags of the training, which say how pictures and texts become tokens.
        max_new_tokens: of an answer.
        batch_size: answers of one packed forward pass.
        seed: of sampled answers, the same at every look: what changes between two looks is the policy alone.
    """

    tokenizer: PreTrainedTokenizerBase
    data: DataArguments
    max_new_tokens: int = 1024
    batch_size: int = 8
    seed: int = 0

    @contextmanager
    def engine(self, model: InternVLChatModel, temperature: float = 0.0) -> Iterator[TransformersEngine]:
        """The embedded engine on a model, with tiles and texts as in training."""
        sampling = SamplingSettings(temperature, top_k=0, max_new_tokens=self.max_new_tokens)
        longest = self.data.max_seq_length + self.max_new_tokens
        options = EngineOptions(sampling=sampling, max_rows=ROWS, session_len=longest, num_workers=2)
        encoder = PromptEncoder(self.tokenizer, model.config, self.data.system_message)
        engine = TransformersEngine(model, encoder, options)
        engine.reader.tiling = self.data.tiling()
        try:
            yield engine
        finally:
            engine.close()

    def answer(
        self,
        model: InternVLChatModel,
        questions: Sequence[AskedQuestion],
        alive: Callable[[], object],
        *,
        samples: int = 0,
    ) -> list[list[Completion]]:
        """The answers of a model to each question: the most likely one, or so many at temperature 1.

        Raises:
            ValueError: it cannot answer one, such as a question whose picture is broken.
        """
        number = max(1, samples)
        answers: list[dict[int, Completion]] = [{} for _ in questions]
        with self.engine(model, float(samples > 0)) as engine, ordinary_attention(model):
            how = {"samples": number, "seed": self.seed, "max_tiles": self.data.max_dynamic_patch}
            for place, completion in completions(engine, questions, **how):
                answers[place][completion.sample] = completion
                alive()
        return [[found[sample] for sample in range(number)] for found in answers]

    @torch.no_grad()
    def logps(
        self,
        model: InternVLChatModel,
        questions: Sequence[AskedQuestion],
        answers: Sequence[Sequence[Sequence[int]]],
        alive: Callable[[], object],
    ) -> list[list[float]]:
        """Log-probs in nats of given answers, as token ids, to each question."""
        with self.engine(model) as engine:
            told: list[float] = []
            batch: list[dict[str, Any]] = []
            for sample in self._samples(engine, questions, answers):
                batch.append(sample)
                if len(batch) == self.batch_size:
                    told += _logps(model, batch)
                    batch = []
                    alive()
            told += _logps(model, batch)
        rest = iter(told)
        return [[next(rest) for _ in of_question] for of_question in answers]

    def _samples(
        self, engine: TransformersEngine, questions: Sequence[AskedQuestion], answers: Sequence[Sequence[Sequence[int]]]
    ) -> Iterator[dict[str, Any]]:
        """Prompt and answer of each answer, as `collate_packed` takes them."""
        for question, of_question in zip(questions, answers, strict=True):
            request = request_of(question, question.key, samples=1, seed=0, max_tiles=self.data.max_dynamic_patch)
            read = engine.reader.read(request)
            cut = engine.reader.cut(read)
            tiles = torch.from_numpy(blank_tile(self.data.force_image_size)) if cut is None else cut
            ids = np.array(read.ids, np.int64)
            for tokens in of_question:
                yield {
                    "prompt_ids": torch.from_numpy(ids),
                    "answers": (torch.tensor(tokens),),
                    "pixel_values": tiles,
                    "image_flags": torch.full((len(tiles),), int(cut is not None), dtype=torch.int64),
                    "prompt_key": prompt_key(ids, tiles.numpy()),
                }


def _logps(model: InternVLChatModel, samples: Sequence[dict[str, Any]]) -> list[float]:
    """The log-prob of the answer of each sample; equal ones run once."""
    if not samples:
        return []
    batch = collate_packed(samples, image_token_id=model.img_context_token_id)
    moved = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
    [places] = moved["packed"].pair_answers
    return answer_logps(model, moved)[places].tolist()
