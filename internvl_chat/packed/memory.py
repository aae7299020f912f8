"""What a packed row takes of memory from its forward pass to the end of its backward pass, by formulas.

The most is taken at one of six moments: when the log-probs are there, while the LM head's gradient is computed, and
while the backward pass goes through the last and the first layer of the language model and of the vision tower. On the
way gradients come and what the layers kept goes. Weights, optimizer and a reference model stand beside all of them.

`tests/test_step_memory.py` holds this against steps on tensors that have sizes only; whoever plans a run
(`tools.footprint`) and whoever decides what to compute again (`run.recomputation`) asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from internvl_chat.model import InternVLChatConfig
from internvl_chat.packed.logps import CHUNK_SIZE

SECOND_ANSWER = 1024  # tokens of the longest row's other answer; its prompt and first answer fill --max_seq_length
SEEN = 3  # keys over tokens of a row at most, gathered for a pair: its prompt once for itself and for each answer


def most_seen(pairs: int) -> int:
    """Keys over tokens of a row at most, where so many pairs share a prompt or an image.

    What they share is gathered once by itself, and by the question and both answers of each; a pair alone has no
    question beside its prompt.
    """
    return SEEN if pairs == 1 else 3 * pairs + 1


@dataclass(frozen=True)
class StepLoad:
    """Sizes of what one process computes at once.

    Attributes:
        tokens: N of the pack.
        tiles: T.
        labels: tokens with a label, at most N; None for all.
        keys: that attention gathers, all segments together; None for those of pairs, at most SEEN a token. Where many
            questions and answers follow one image, each of them gathers it.
    """

    tokens: int
    tiles: int
    labels: int | None = None
    keys: int | None = None

    @property
    def seen(self) -> float:
        """Gathered keys over tokens."""
        return max(float(SEEN), (self.keys or 0) / self.tokens)

    @property
    def chunk(self) -> int:
        """Positions whose logits are held at once."""
        return min(CHUNK_SIZE, self.tokens if self.labels is None else self.labels)


@dataclass(frozen=True)
class Weights:
    """The parameters of a model and how it computes with them.

    Attributes:
        vision: parameters of the vision tower.
        projector: of the projector.
        language: of the language model, embedding and LM head included.
        trained: how many of all are trained.
        stored: bytes of a stored weight, 2 or 4.
        half: 2-byte numbers in the forward pass; under autocast where weights are stored in 4.
        head: whether the LM head is trained.
    """

    vision: int
    projector: int
    language: int
    trained: int
    stored: int
    half: bool
    head: bool = True

    @property
    def autocast(self) -> bool:
        """Whether products run on copies of the weights in half precision."""
        return self.half and self.stored == 4

    @property
    def number(self) -> int:
        """Bytes of a number in products; in the residual stream it is that of the weights."""
        return 2 if self.half else 4

    def gradients(self, part: int) -> float:
        """Bytes of the gradients of so many of the parameters, trained ones being spread evenly."""
        return part * self.stored * self.trained / (self.vision + self.projector + self.language)


@dataclass(frozen=True)
class Moment:
    """Bytes at one moment of a step, weights, optimizer and reference apart."""

    gradients: float
    activations: float
    lm_head: float
    copies: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Tower:
    """A stack of layers on the tokens of a row; bytes.

    Attributes:
        layers: how many.
        entry: input of a layer.
        kept: what a layer keeps for its backward pass besides.
        passing: what comes and goes in that backward pass.
        copies: of a layer's weights, under autocast.
    """

    layers: int
    entry: float
    kept: float
    passing: float
    copies: float

    def held(self, recomputed: int) -> float:
        """Between the passes, when the first `recomputed` layers keep their inputs alone."""
        return self.entry * self.layers + self.kept * (self.layers - recomputed)

    def held_copies(self, recomputed: int) -> float:
        """Likewise of copies."""
        return self.copies * (self.layers - recomputed)

    def again(self, *, is_recomputed: bool) -> float:
        """What the backward pass of a layer takes beyond what was held."""
        return self.passing + (self.kept + self.copies if is_recomputed else 0.0)


def vision_tower(config: InternVLChatConfig, weights: Weights, tiles: int) -> Tower:
    """InternViT on T tiles. A layer keeps 9 times its width, 22 where queries are normalised, and its MLP's twice."""
    vision: Any = config.vision_config
    width, mlp = vision.hidden_size, vision.intermediate_size
    own, cast = (22 if weights.half else 15, 4) if vision.qk_normalization else (9, 1)
    patches = tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    kept = (own + cast * weights.autocast) * width + 2 * mlp
    layers = vision.num_hidden_layers
    return _tower(weights, layers, weights.vision / layers, (patches, width, kept, mlp))


def language_tower(config: InternVLChatConfig, weights: Weights, tokens: int, seen: float = SEEN) -> Tower:
    """The decoder on N tokens, each with `seen` keys. Queries count for their own width, keys and values for theirs.

    A gated MLP keeps 4 times its width. In float32 segments run in groups, which repeat keys and values.
    """
    language: Any = config.llm_config
    width, mlp = language.hidden_size, mlp_width(language)
    head = getattr(language, "head_dim", None) or width // language.num_attention_heads
    queries, keys = language.num_attention_heads * head, language.num_key_value_heads * head
    kept = (8 if weights.half else 5) * width + 4 * mlp
    kept += 2 * (queries + seen * keys) if weights.half else (3 + 2 * seen) * queries
    kept += 3 * width * weights.autocast
    if language.model_type.startswith("qwen3"):  # which normalises queries and keys
        kept += 3 * (queries + keys)
    layers = language.num_hidden_layers
    parameters = (weights.language - 2 * language.vocab_size * width) / layers
    return _tower(weights, layers, parameters, (tokens, width, kept, 2 * mlp))


def _tower(weights: Weights, layers: int, parameters: float, sizes: tuple[int, int, float, float]) -> Tower:
    tokens, width, kept, passing = sizes
    of_numbers = tokens * weights.number
    stream = tokens * width * weights.stored  # an input, an output or the gradient of one
    copies = 2 * parameters * weights.autocast
    return Tower(layers, stream, of_numbers * kept, of_numbers * passing + 2 * stream, copies)


def mlp_width(config: Any) -> int:
    """Width of the MLPs that a token passes in a layer: all of one, or the chosen experts'."""
    if getattr(config, "num_experts", 0):
        return config.num_experts_per_tok * expert_width(config)
    return config.intermediate_size


def expert_width(config: Any) -> int:
    """Width of the MLP of one expert, which GPT-OSS names as others name that of a dense model."""
    return getattr(config, "moe_intermediate_size", config.intermediate_size)


@dataclass(frozen=True)
class StepMemory:
    """Memory of the steps of one model.

    Attributes:
        config: of the model.
        weights: its parameters.
        gradients: bytes that stand through the whole step, as with gradient accumulation or an engine's buffers; None
            where gradients come with the backward pass.
        waiting: the inputs of recomputed layers wait in the memory of the host.
    """

    config: InternVLChatConfig
    weights: Weights
    gradients: float | None = None
    waiting: bool = False

    @property
    def layers(self) -> int:
        """Of both towers: in this order, the forward pass's, they are computed again."""
        parts: Any = (self.config.vision_config, self.config.llm_config)
        return sum(part.num_hidden_layers for part in parts)

    def peak(self, load: StepLoad, recomputed: int) -> Moment:
        """The moment that takes most, when the first `recomputed` of the layers are computed again."""
        return max(self._moments(load, recomputed), key=lambda moment: moment.total)

    def fewest_recomputed(self, load: StepLoad, free: float) -> int:
        """How many layers have to be computed again for a row to fit into `free` bytes; all of them where none does."""
        enough = (number for number in range(self.layers) if self.peak(load, number).total <= free)
        return next(enough, self.layers)

    def _moments(self, load: StepLoad, recomputed: int) -> Iterator[Moment]:
        weights = self.weights
        vision = vision_tower(self.config, weights, load.tiles)
        language = language_tower(self.config, weights, load.tokens, load.seen)
        of_vision = min(recomputed, vision.layers)
        of_language = recomputed - of_vision
        held = [
            0.0 if self.waiting else tower.held(number)
            for tower, number in ((vision, of_vision), (language, of_language))
        ]
        copies = [vision.held_copies(of_vision), language.held_copies(of_language)]
        forward, backward = self._lm_head(load)
        edges = 2 * vision.entry + self._projector(load)  # patch embeddings among them
        whole = sum(held) + edges + 4 * language.entry  # with embeddings and final norm
        yield self._moment(0, whole, forward, 2.0 * weights.trained * weights.autocast)
        yield self._moment(0, whole, backward, sum(copies))
        last = whole + language.again(is_recomputed=of_language == language.layers)
        yield self._moment(self._head_parameters(), last, 0.0, sum(copies))
        first = held[0] + edges + language.entry + language.kept + language.passing
        grown = weights.language - self._head_parameters()  # the gradient of the embedding comes behind it
        yield self._moment(grown, first, 0.0, copies[0] + language.copies)
        grown = weights.language + weights.projector
        last = held[0] + edges + vision.again(is_recomputed=of_vision == vision.layers)
        yield self._moment(grown, last, 0.0, copies[0])
        first = edges + vision.entry + vision.kept + vision.passing
        yield self._moment(grown + weights.vision, first, 0.0, vision.copies)

    def _projector(self, load: StepLoad) -> float:
        """Bytes that the projector keeps: four patches in a row, normalised, and twice the language model's width."""
        vision, language = self.config.vision_config, self.config.llm_config
        wide = vision.hidden_size * int(1 / self.config.downsample_ratio) ** 2
        stored, number = self.weights.stored, self.weights.number
        return (
            load.tiles
            * self.config.num_image_token
            * (wide * (2 * stored + number) + 3 * language.hidden_size * number)
        )

    def _moment(self, parameters: int, activations: float, lm_head: float, copies: float) -> Moment:
        """Bytes while gradients of so many parameters are there."""
        gradients = self.weights.gradients(parameters) if self.gradients is None else self.gradients
        return Moment(gradients, activations, lm_head, copies)

    def _head_parameters(self) -> int:
        language: Any = self.config.llm_config
        return language.vocab_size * language.hidden_size if self.weights.head else 0

    def _lm_head(self, load: StepLoad) -> tuple[float, float]:
        """Bytes of the LM head on one chunk, forward and backward, without the gradient itself."""
        language: Any = self.config.llm_config
        number, parameters = self.weights.number, language.vocab_size * language.hidden_size
        logits, stored = load.chunk * language.vocab_size, self.weights.stored
        copy = 2.0 * parameters * self.weights.autocast
        computed = logits * (6 if self.weights.half else 4)
        if not self.weights.head:
            return copy + 8 * logits, copy + computed
        summed = 4 if load.chunk == CHUNK_SIZE else number  # bytes of a number in the sum over chunks
        cast = stored * parameters if summed != stored else 0
        last = max(computed, number * (logits + parameters), cast)
        return copy + 8 * logits, copy + summed * parameters + last
