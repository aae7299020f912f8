"""Chat templates of the InternVL families, as data, with the one `render` that training and chat share.

All of them have the same shape, `<system>{sep}` and then `{role prefix}{text}{sep}` per turn; only the strings differ.
GPT-OSS also writes which channel an answer is for, and ends the last answer otherwise than earlier turns.
The system messages are those of the released models: a model asked under another one is another model.
"""

from dataclasses import dataclass
from typing import NamedTuple

_SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
_SYSTEM_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_SYSTEM_3_5_GPT_OSS = """
You are InternVL, a large language model trained by Shanghai AI Laboratory.
Knowledge cutoff: 2024-06
Current date: 2025-08-06

Reasoning: low

# Valid channels: final. Channel must be included for every message.
""".strip()
# InternVL3.5's thinking mode: this system message in place of the template's own, word for word.
THINKING_SYSTEM_MESSAGE = """
You are an AI assistant that rigorously follows this response protocol:

1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason \
through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.

2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the answer \
from the think section with a newline.

Ensure that the thinking process is thorough but remains focused on the query. The final answer should be standalone \
and not reference the thinking section.
""".strip()


class Segment(NamedTuple):
    """A piece of a rendered conversation; `supervised` says whether the model learns to write it."""

    text: str
    supervised: bool


@dataclass(frozen=True)
class Template:
    """Strings of one chat format.

    Attributes:
        name: as in `config.template`.
        system_prefix: opens the system turn.
        system_message: default text of the system turn.
        user_prefix: opens a user turn.
        assistant_prefix: opens an assistant turn.
        end_token: closes every turn; the assistant learns to write it, and generation stops at it.
        separator: what follows `end_token`; nobody learns to write it.
        answer_prefix: what the assistant writes in front of an answer and learns to write; an open turn ends with it.
        last_end_token: closes the last answer, in place of `end_token`, where a format tells the two apart.
    """

    name: str
    system_prefix: str
    system_message: str
    user_prefix: str
    assistant_prefix: str
    end_token: str
    separator: str = ""
    answer_prefix: str = ""
    last_end_token: str = ""

    @property
    def stop_token(self) -> str:
        """What ends the answer that is learned or generated."""
        return self.last_end_token or self.end_token

    def render(self, turns: list[tuple[str, str | None]], system_message: str | None = None) -> list[Segment]:
        """Return the conversation as segments whose texts, joined, are the whole prompt.

        An assistant turn becomes three segments: its prefix, the supervised answer with what it is written between, the
        separator.

        Args:
            turns: (role, text) with role "user" or "assistant". A last assistant turn with text None asks for an
                answer: only its prefix is rendered.
            system_message: replaces the template's own.

        Raises:
            ValueError: a role is unknown, or a text is missing elsewhere than in the last assistant turn.
        """
        system = self.system_message if system_message is None else system_message
        segments = [Segment(self.system_prefix + system + self.end_token + self.separator, False)]
        for index, (role, text) in enumerate(turns):
            is_last = index == len(turns) - 1
            _check_turn(index, role, text, is_last=is_last)
            segments += self._turn(role, text, is_last=is_last)
        return [segment for segment in segments if segment.text]

    def _turn(self, role: str, text: str | None, *, is_last: bool) -> list[Segment]:
        if role == "user":
            return [Segment(f"{self.user_prefix}{text}{self.end_token}{self.separator}", False)]
        if text is None:
            return [Segment(self.assistant_prefix + self.answer_prefix, False)]
        answer = self.answer_prefix + text + (self.stop_token if is_last else self.end_token)
        return [Segment(self.assistant_prefix, False), Segment(answer, True), Segment(self.separator, False)]

    def prompt(self, turns: list[tuple[str, str | None]], system_message: str | None = None) -> str:
        """Return `render` as one string; see there for the arguments."""
        return "".join(segment.text for segment in self.render(turns, system_message))


def _check_turn(index: int, role: str, text: str | None, *, is_last: bool) -> None:
    if role not in ("user", "assistant"):
        raise ValueError(f"turn {index} has role {role!r}; a role is 'user' or 'assistant'")
    if text is None and not (is_last and role == "assistant"):
        raise ValueError(f"turn {index} ({role}) has no text; only a last assistant turn may be open")


TEMPLATES = {
    "internvl2_5": Template(
        name="internvl2_5",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2_5,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
        separator="\n",
    ),
    "Hermes-2": Template(
        name="Hermes-2",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
    ),
    "internlm2-chat": Template(
        name="internlm2-chat",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
    ),
    "phi3-chat": Template(
        name="phi3-chat",
        system_prefix="<|system|>\n",
        system_message=_SYSTEM_2,
        user_prefix="<|user|>\n",
        assistant_prefix="<|assistant|>\n",
        end_token="<|end|>",
    ),
    "internvl3_5_gpt_oss": Template(
        name="internvl3_5_gpt_oss",
        system_prefix="<|start|>system<|message|>",
        system_message=_SYSTEM_3_5_GPT_OSS,
        user_prefix="<|start|>user<|message|>",
        assistant_prefix="<|start|>assistant",
        end_token="<|end|>",
        answer_prefix="<|channel|>final<|message|>",
        last_end_token="<|return|>",
    ),
}


def get_template(name: str | None) -> Template:
    """Return the template called `name`.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name is None or name not in TEMPLATES:
        raise ValueError(f"unknown chat template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
