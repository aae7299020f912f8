"""InternVL as published: the network of `modeling_internvl.py`, and asking it.

`chat`, `batch_chat` and `generate` have the signatures known from the hub. `chat` is a batch of one. A critic also
scores steps and sorts answers, see `step_scoring.py`.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from .configuration_internvl_chat import InternVLChatConfig
from .constants import IMAGE_PLACEHOLDER, IMG_CONTEXT_TOKEN, IMG_END_TOKEN, IMG_START_TOKEN
from .conversation import Part, Template, TextEncoder, expand_placeholders, get_template
from .modeling_internvl import InternVLNetwork
from .step_scoring import generate_steps_with_soft_score, select_best_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

History = list[tuple[str, str]]  # (question, answer), oldest first

_HOLE = "\0"  # stands in no template


def _opened(history: History | None, question: str) -> History:
    """Return the conversation with a question whose answer is to come."""
    return [*(history or []), (question, "")]


def _with_placeholder(conversation: History) -> History:
    """Return the conversation with an `<image>` in front of its first question, if it is the only one and has none."""
    [(question, answer), *later] = conversation
    if later or IMAGE_PLACEHOLDER in question:
        return conversation
    return [(f"{IMAGE_PLACEHOLDER}\n{question}", answer)]


class InternVLChatModel(InternVLNetwork):
    """The whole model.

    Attributes:
        system_message: replaces that of the chat template when not None; that of a critic is under
            which it was trained.
    """

    def __init__(self, config: InternVLChatConfig) -> None:
        super().__init__(config)
        get_template(config.template)  # an unknown one is known now, not at the first question
        self.system_message: str | None = config.critic["system_message"] if config.critic else None

    generate_steps_with_soft_score = generate_steps_with_soft_score
    select_best_response = select_best_response

    @property
    def conv_template(self) -> Template:
        """The chat template that the configuration names."""
        return get_template(self.config.template)

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
            ValueError: there are no `input_ids`, or as of `embed`.
        """
        if input_ids is None:
            raise ValueError(f"generate needs input_ids, got {input_ids}")
        if visual_features is None and pixel_values is not None:
            visual_features = self.extract_feature(pixel_values)
        settings = deepcopy(generation_config or self.generation_config)
        model_kwargs = settings.update(**generate_kwargs)
        if getattr(self.config.llm_config, "output_router_logits", False):
            # Left in config.json by a training; they are for a loss, whose mask does not fit the steps of generation.
            model_kwargs.setdefault("output_router_logits", False)
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
        if num_patches_list is None and pixel_values is not None:
            num_patches_list = [len(pixel_values)]
        images = self.image_strings(tokenizer, pixel_values, num_patches_list, **image_tokens)
        opened = [_opened(history, question)]
        [conversation] = self._answered(tokenizer, pixel_values, opened, images, generation_config)
        question, answer = conversation[-1]
        if verbose:
            print(question, answer, sep="\n")  # noqa: T201 -- asked for
        return (answer, conversation) if return_history else answer

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
        images = self.image_strings(tokenizer, pixel_values, num_patches_list, **image_tokens)
        histories = history or [None] * len(questions)
        opened = [_opened(turns, question) for turns, question in zip(histories, questions, strict=True)]
        conversations = self._answered(tokenizer, pixel_values, opened, images, generation_config)
        if verbose:
            print(*("\n".join(turns[-1]) for turns in conversations), sep="\n")  # noqa: T201 -- asked for
        answers = [turns[-1][1] for turns in conversations]
        return (answers, conversations) if return_history else answers

    def image_strings(
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
        side = self.config.force_image_size or self.config.vision_config.image_size
        if pixel_values is not None and pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values {tuple(pixel_values.shape)} must be tiles (tiles, 3, {side}, {side})")
        tiles = 0 if pixel_values is None else len(pixel_values)
        num_patches_list = num_patches_list or []
        if sum(num_patches_list) != tiles:
            raise ValueError(f"num_patches_list {num_patches_list} does not sum up to the {tiles} tiles given")
        self.img_context_token_id = tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN)
        return [
            IMG_START_TOKEN + IMG_CONTEXT_TOKEN * (self.num_image_token * patches) + IMG_END_TOKEN
            for patches in num_patches_list
        ]

    def _answered(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pixel_values: torch.Tensor | None,
        conversations: list[History],
        images: list[str],
        generation_config: dict,
    ) -> list[History]:
        """Return the conversations with their last answer, empty before, filled in."""
        if pixel_values is not None:
            conversations = [_with_placeholder(turns) for turns in conversations]
        encoder = TextEncoder(tokenizer)
        prompts = [encoder.beginning() + encoder.encode(self._prompt(turns, images)) for turns in conversations]
        if images:
            raise ValueError(f"{len(images)} images more than {IMAGE_PLACEHOLDER} placeholders: write one per image")
        end_token = self.conv_template.stop_token
        settings = {
            "eos_token_id": tokenizer.convert_tokens_to_ids(end_token),
            "pad_token_id": tokenizer.pad_token_id,
            **generation_config,
        }
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt", verbose=False)
        inputs = inputs.to(self.device)
        tiles = None if pixel_values is None else pixel_values.to(self.device)
        output = self.generate(tiles, inputs["input_ids"], inputs["attention_mask"], **settings)
        answers = [encoder.decode(ids).split(end_token)[0].strip() for ids in output.tolist()]
        answers = answers[:: len(answers) // len(conversations)]  # the first of num_return_sequences
        return [[*turns[:-1], (turns[-1][0], answer)] for turns, answer in zip(conversations, answers, strict=True)]

    def _prompt(self, conversation: History, images: list[str]) -> list[Part]:
        """Return the conversation up to its last answer, the images that it needs taken off `images`.

        The template is rendered around holes. Special tokens are read as such in it, not in what fills the holes.
        """
        turns: list[tuple[str, str | None]] = []
        texts = [
            [Part(self.conv_template.system_message if self.system_message is None else self.system_message, False)]
        ]
        for question, answer in conversation:
            turns += [("user", _HOLE), ("assistant", _HOLE)]
            texts += [expand_placeholders(question, images), [Part(answer, False)]]
        turns[-1] = ("assistant", None)
        first, *frame = self.conv_template.prompt(turns, _HOLE).split(_HOLE)
        parts = [Part(first, True)]
        for text, after in zip(texts[:-1], frame, strict=True):
            parts += [*text, Part(after, True)]
        return parts
