"""Asking an InternVL model: `chat`, `batch_chat` and `generate`, with the signatures known from the hub."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from .constants import IMAGE_PLACEHOLDER, IMG_CONTEXT_TOKEN, IMG_END_TOKEN, IMG_START_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

History = list[tuple[str, str]]  # (question, answer), oldest first


def expand_placeholders(text: str, images: list[str]) -> str:
    """Replace the image placeholders of `text` in order, taking their replacements from the front of `images`.

    Raises:
        ValueError: there are more placeholders than images.
    """
    parts = text.split(IMAGE_PLACEHOLDER)
    if len(parts) - 1 > len(images):
        raise ValueError(
            f"{len(parts) - 1} {IMAGE_PLACEHOLDER} placeholders but {len(images)} images left; "
            f"num_patches_list must name the tiles of every image: {text!r}"
        )
    taken = [images.pop(0) for _ in parts[1:]]
    return parts[0] + "".join(image + part for image, part in zip(taken, parts[1:], strict=True))


class ChatMixin:
    """Generation for `InternVLChatModel`, which brings `embed`, `conv_template` and the language model."""

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        **generate_kwargs: object,
    ) -> torch.Tensor:
        """Continue prompts.

        Args:
            pixel_values: (T, 3, H, W) tiles of all rows, in the order of their tokens; None without images.
            input_ids: (B, S), padded on the left.
            attention_mask: (B, S), 0 for padding.
            visual_features: (T, P, D) from `extract_feature`, instead of `pixel_values`.
            generation_config: replaces the model's own.
            generate_kwargs: settings that differ from it, and whatever else transformers' `generate` takes.

        Returns:
            (B, new tokens) ids, without the prompt.

        Raises:
            ValueError: as of `embed`.
        """
        if visual_features is None and pixel_values is not None:
            visual_features = self.extract_feature(pixel_values)
        settings = deepcopy(generation_config or self.generation_config)
        model_kwargs = settings.update(**generate_kwargs)
        return self.language_model.generate(
            inputs_embeds=self.insert_features(input_ids, visual_features),
            attention_mask=attention_mask,
            generation_config=settings,
            **model_kwargs,
        )

    def chat(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pixel_values: torch.Tensor | None,
        question: str,
        generation_config: dict,
        history: History | None = None,
        return_history: bool = False,
        num_patches_list: list[int] | None = None,
        *,
        verbose: bool = False,
        **image_tokens: str,
    ) -> str | tuple[str, History]:
        """Answer one question, which may continue a conversation.

        Args:
            tokenizer: of the checkpoint.
            pixel_values: (T, 3, H, W) tiles of all images of the conversation, in order; None without images.
            question: with one `<image>` per image; the first question gets one in front if it has none.
            generation_config: keywords of `GenerationMixin.generate`, such as `max_new_tokens` and `do_sample`.
            history: earlier questions and answers; `pixel_values` then holds their images too.
            return_history: return the conversation with this answer, ready for the next question.
            num_patches_list: tiles of each image; all tiles are one image when absent.
            verbose: print prompt and answer.
            image_tokens: IMG_START_TOKEN, IMG_END_TOKEN and IMG_CONTEXT_TOKEN, if not the usual.

        Returns:
            The answer, with `return_history` also the conversation.

        Raises:
            ValueError: images, tiles and placeholders do not agree.
        """
        if num_patches_list is None:
            num_patches_list = [] if pixel_values is None else [len(pixel_values)]
        answers, histories = self.batch_chat(
            tokenizer,
            pixel_values,
            [question],
            generation_config,
            num_patches_list,
            history=[history],
            return_history=True,
            verbose=verbose,
            **image_tokens,
        )
        return (answers[0], histories[0]) if return_history else answers[0]

    @torch.no_grad()
    def batch_chat(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pixel_values: torch.Tensor | None,
        questions: list[str],
        generation_config: dict,
        num_patches_list: list[int] | None = None,
        history: list[History | None] | None = None,
        return_history: bool = False,
        *,
        verbose: bool = False,
        **image_tokens: str,
    ) -> list[str] | tuple[list[str], list[History]]:
        """Answer several questions in one batch, padded on the left.

        Args:
            questions: one per conversation; each gets an `<image>` in front if it has none and there are images.
            num_patches_list: tiles of each image, over all conversations in order.
            history: one conversation so far, or None, per question.

        The other arguments, the results and the errors are those of `chat`, a list per question instead of one.
        """
        histories = [list(turns or []) for turns in (history or [None] * len(questions))]
        if pixel_values is not None:
            questions = [
                question if turns or IMAGE_PLACEHOLDER in question else f"{IMAGE_PLACEHOLDER}\n{question}"
                for question, turns in zip(questions, histories, strict=True)
            ]
        conversations = [[*turns, (question, None)] for question, turns in zip(questions, histories, strict=True)]
        images = self._image_strings(tokenizer, pixel_values, num_patches_list, **image_tokens)
        prompts = [self._prompt(turns, images) for turns in conversations]
        if images:
            raise ValueError(f"{len(images)} images more than {IMAGE_PLACEHOLDER} placeholders in {questions!r}")
        answers = self._answer(tokenizer, pixel_values, prompts, generation_config)
        for turns, question, answer in zip(histories, questions, answers, strict=False):
            turns.append((question, answer))
            if verbose:
                print(question, answer, sep="\n")  # noqa: T201 -- asked for
        return (answers, histories) if return_history else answers

    def _image_strings(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pixel_values: torch.Tensor | None,
        num_patches_list: list[int] | None,
        *,
        IMG_START_TOKEN: str = IMG_START_TOKEN,
        IMG_END_TOKEN: str = IMG_END_TOKEN,
        IMG_CONTEXT_TOKEN: str = IMG_CONTEXT_TOKEN,
    ) -> list[str]:
        """Return what stands in the prompt for each image, and learn the id of the context token."""
        tiles = 0 if pixel_values is None else len(pixel_values)
        num_patches_list = num_patches_list or []
        if sum(num_patches_list) != tiles:
            raise ValueError(f"num_patches_list {num_patches_list} does not sum up to the {tiles} tiles given")
        self.img_context_token_id = tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN)
        return [
            IMG_START_TOKEN + IMG_CONTEXT_TOKEN * (self.num_image_token * patches) + IMG_END_TOKEN
            for patches in num_patches_list
        ]

    def _prompt(self, conversation: list[tuple[str, str | None]], images: list[str]) -> str:
        turns = []
        for question, answer in conversation:
            turns.append(("user", expand_placeholders(question, images)))
            turns.append(("assistant", answer))
        return self.conv_template.prompt(turns, self.system_message)

    def _answer(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pixel_values: torch.Tensor | None,
        prompts: list[str],
        generation_config: dict,
    ) -> list[str]:
        end_token = self.conv_template.end_token
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(self.device)
        output = self.generate(
            pixel_values=None if pixel_values is None else pixel_values.to(self.device),
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            **{
                "eos_token_id": tokenizer.convert_tokens_to_ids(end_token),
                "pad_token_id": tokenizer.pad_token_id,
                **generation_config,
            },
        )
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        return [text.split(end_token)[0].strip() for text in texts]
