"""Scores of the steps of an answer by a critic, and answers sorted by them: what VLMEvalKit's Best-of-N calls.

One forward per answer: `+` stands in the place of every mark, and the position in front of each says how likely `+` is
against `-` (VisualPRM, arXiv 2503.10291); a critic of the layout `answer` says so at the end of each step. The picture
is looked at once for all answers. The two functions without an underscore that take a model are methods of
`InternVLChatModel`, so that a saved critic brings them along: `reward_model_path` of VLMEvalKit's InternVL wrapper may
name its folder.

    best, *others = critic.select_best_response(tokenizer, question, responses, pixel_values)
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .configuration_internvl_chat import InternVLChatConfig
from .constants import IMAGE_PLACEHOLDER
from .conversation import Part, Template, TextEncoder, expand_placeholders
from .critic_turns import (
    ANSWER,
    CRITIC_SYSTEM_MESSAGE,
    LAYOUTS,
    MARKS,
    MAX_STEPS,
    RELEASED_CRITIC,
    TURNS,
    answer_pieces,
    step_turns,
    text_steps,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .modeling_internvl_chat import InternVLChatModel

NO_TEXT = float("-inf")  # the score of an answer that has no step to judge
VERSIONS = ("soft", "soft_v2", "hard", "orm_soft")


class JudgedSteps(NamedTuple):
    """Steps as a critic reads them: token `ids`, and `positions` of the tokens at which each is judged."""

    ids: list[int]
    positions: list[int]


def judged_steps(
    encoder: TextEncoder, template: Template, system_message: str, turns: Sequence[Sequence[Part]]
) -> JudgedSteps:
    """Tokenize a critic's conversation, every mark a `+`; a mark is tokenized apart, as an answer in training.

    Raises:
        ValueError: the tokenizer writes a mark in several tokens.
    """
    opening, closing = _around_answers(template)
    right, _ = mark_ids(encoder, template)
    ids = _system_turn(encoder, template, system_message)
    positions: list[int] = []
    for number, turn in enumerate(turns):
        before = [closing] if number else []
        ids += encoder.encode([*before, Part(template.user_prefix, True), *turn, closing, opening])
        positions.append(len(ids) - 1)
        ids.append(right)
    return JudgedSteps(ids[:-1], positions)  # nothing is asked of the last mark


def judged_answer(
    encoder: TextEncoder, template: Template, system_message: str, turns: Sequence[Sequence[Part]]
) -> JudgedSteps:
    """Tokenize the first of `turns` as a question and the others as pieces of the answer to it, each judged at its end.

    A piece is tokenized apart, so that a step has the same tokens whatever follows it.
    """
    question, *pieces = turns
    opening, closing = _around_answers(template)
    ids = _system_turn(encoder, template, system_message)
    ids += encoder.encode([Part(template.user_prefix, True), *question, closing, opening])
    positions: list[int] = []
    for piece in pieces:
        ids += encoder.encode(piece)
        positions.append(len(ids) - 1)
    return JudgedSteps(ids, positions)


def _around_answers(template: Template) -> tuple[Part, Part]:
    """What opens the assistant's turn, and what closes a turn."""
    opening = Part(template.assistant_prefix + template.answer_prefix, True)
    return opening, Part(template.end_token + template.separator, True)


def _system_turn(encoder: TextEncoder, template: Template, system_message: str) -> list[int]:
    _, closing = _around_answers(template)
    return [*encoder.beginning(), *encoder.encode([Part(template.system_prefix + system_message, True), closing])]


def mark_ids(encoder: TextEncoder, template: Template) -> tuple[int, int]:
    """Ids of `+` and `-` as answers in a template.

    Raises:
        ValueError: the tokenizer writes one of them in several tokens: no critic of this format has such a one.
    """
    opening, closing = _around_answers(template)
    ask, closed = encoder.encode([opening]), encoder.encode([closing])
    found = []
    for mark in MARKS:
        ids = encoder.encode([opening, Part(mark, False), closing])
        if ids != [*ask, *ids[len(ask) : len(ask) + 1], *closed]:
            raise ValueError(
                f"the tokenizer makes {ids[len(ask) : len(ids) - len(closed)]} of the judgement {mark!r} in template "
                f"{template.name}: a critic needs it to be a single token; take a checkpoint of InternVL"
            )
        found.append(ids[len(ask)])
    right, wrong = found
    return right, wrong


def generate_steps_with_soft_score(
    model: "InternVLChatModel",
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    response: str,
    pixel_values: torch.Tensor | None,
    num_patches_list: list[int] | None = None,
    max_steps: int | None = None,
    *,
    orm: bool = False,
) -> list[dict[str, Any]]:
    """Score the steps of one answer.

    Args:
        model: the critic.
        tokenizer: of the checkpoint.
        question: with one `<image>` per image, or with none: images then come first.
        response: the answer, steps apart by blank lines.
        pixel_values: (T, 3, H, W) tiles of all images, in order; None without images.
        num_patches_list: tiles of each image; all tiles are one image when absent.
        max_steps: as of `split_steps`.
        orm: judge the whole answer as one step.

    Returns:
        {"step": its text, "score": p(`+`) in 0..1} of each step; [] of a response without text.

    Raises:
        ValueError: images, tiles and placeholders do not agree, or a mark has no token.
    """
    [steps] = _steps_of([response], max_steps, orm=orm)
    [scores] = _score_steps(model, tokenizer, question, [steps], pixel_values, num_patches_list)
    return [{"step": step, "score": score} for step, score in zip(steps, scores, strict=True)]


def select_best_response(
    model: "InternVLChatModel",
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    response_list: Sequence[str],
    pixel_values: torch.Tensor | None,
    num_patches_list: list[int] | None = None,
    max_steps: int | None = MAX_STEPS,
    version: str = "soft",
    *,
    gather_func: Callable[[list[float]], float] = fmean,
    return_scores: bool = False,
) -> list[str] | list[tuple[str, float]]:
    """Sort the answers to a question, the best first; of equal ones the earlier first, those without text last.

    Args:
        response_list: the answers.
        version: "soft" (or "soft_v2") takes p(`+`) of each step, "hard" 1 where `+` is the likelier mark and else 0,
            "orm_soft" p(`+`) of the whole answer as one step.
        gather_func: from the scores of an answer's steps to its own; their mean.
        return_scores: return (answer, score) pairs; an answer without text has -inf.

    The other arguments and the errors are those of `generate_steps_with_soft_score`; ValueError also for another
    `version`.
    """
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}; known: {', '.join(VERSIONS)}")
    steps = _steps_of(response_list, max_steps, orm=version == "orm_soft")
    scores = _score_steps(model, tokenizer, question, steps, pixel_values, num_patches_list)
    if version == "hard":
        scores = [[float(score > 0.5) for score in found] for found in scores]
    gathered = [
        (response, gather_func(found) if found else NO_TEXT)
        for response, found in zip(response_list, scores, strict=True)
    ]
    best_first = sorted(gathered, key=lambda found: found[1], reverse=True)
    return best_first if return_scores else [response for response, _ in best_first]


def _steps_of(responses: Sequence[str], max_steps: int | None, *, orm: bool) -> list[list[str]]:
    return [text_steps(response, 1 if orm else max_steps) for response in responses]


@torch.inference_mode()
def _score_steps(
    model: "InternVLChatModel",
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    answers: Sequence[Sequence[str]],
    pixel_values: torch.Tensor | None,
    num_patches_list: list[int] | None,
) -> list[list[float]]:
    """Return p(`+`) of each step of each answer; the tiles run through the vision model once."""
    if num_patches_list is None and pixel_values is not None:
        num_patches_list = [len(pixel_values)]
    images = model.image_strings(tokenizer, pixel_values, num_patches_list)
    question = _with_placeholders(question, len(images))
    encoder, layout = TextEncoder(tokenizer), layout_of(model.config)
    read_steps = {TURNS: judged_steps, ANSWER: judged_answer}[layout]
    marks = mark_ids(encoder, model.conv_template)
    said = system_message_of(model.config) if model.system_message is None else model.system_message
    system = model.conv_template.system_message if said is None else said
    features = None if pixel_values is None else model.extract_feature(pixel_values.to(model.device))
    scores: list[list[float]] = []
    for steps in answers:
        if not steps:
            scores.append([])
            continue
        read = read_steps(encoder, model.conv_template, system, _turns_of(layout, question, images, steps))
        scores.append(_probabilities(model, read, features, marks))
    return scores


def _turns_of(layout: str, question: str, images: Sequence[str], steps: Sequence[str]) -> list[list[Part]]:
    """The parts of each turn, or of the question and each piece of the answer; in a step `<image>` is text."""
    if layout == ANSWER:
        pieces = answer_pieces(steps)
        return [expand_placeholders(question, list(images)), *([Part(piece, False)] for piece in pieces)]
    first, *later = step_turns(question, steps)
    asked = first.removesuffix(steps[0])
    opening = [*expand_placeholders(asked, list(images)), Part(steps[0], False)]
    return [opening, *([Part(turn, False)] for turn in later)]


def system_message_of(config: InternVLChatConfig) -> str | None:
    """The system message under which a checkpoint judges; None for its template's own.

    It is the one that it was trained with. The released VisualPRM-8B judges under its template's own, a chat model that
    was never trained to judge is told what to do.
    """
    if config.critic:
        return str(config.critic["system_message"])
    return None if RELEASED_CRITIC in (config.architectures or []) else CRITIC_SYSTEM_MESSAGE


def layout_of(config: InternVLChatConfig) -> str:
    """How a checkpoint is shown steps, one of `LAYOUTS`: as it was trained, or as VisualPRM is.

    Raises:
        ValueError: in a way that this version does not know.
    """
    layout = (config.critic or {}).get("layout", TURNS)
    if layout not in LAYOUTS:
        raise ValueError(f"this critic judges steps in the layout {layout!r}; known: {', '.join(LAYOUTS)}")
    return str(layout)


def _with_placeholders(question: str, images: int) -> str:
    """Return the question with one `<image>` per image; ValueError where it has some, but not as many."""
    placed = question.count(IMAGE_PLACEHOLDER)
    if placed not in (0, images):
        raise ValueError(
            f"{placed} {IMAGE_PLACEHOLDER} in the question for {images} images: write one per image, or none"
        )
    return question if placed else f"{IMAGE_PLACEHOLDER}\n" * images + question


def _probabilities(
    model: "InternVLChatModel", read: JudgedSteps, features: torch.Tensor | None, marks: tuple[int, int]
) -> list[float]:
    """Return the first mark's share of the probability of both at each position; no other logits are formed."""
    embeds = model.insert_features(torch.tensor([read.ids], device=model.device), features)
    hidden = model.language_model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[0, read.positions])[:, list(marks)]  # (steps, 2)
    return logits.float().softmax(-1)[:, 0].tolist()
