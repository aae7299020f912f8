"""The layouts of preference data that are known: a name, the fields by which it is told, and how its rows are read.

The first layout whose fields a file has is the file's. A layout more is a line in LAYOUTS. Sources: documentation of
TRL ("Dataset formats"), LLaMA-Factory (data/README.md), ms-swift ("Custom dataset") and OpenAI ("Direct preference
optimization"); the cards of openbmb/RLAIF-V-Dataset, HuggingFaceH4/rlaif-v_formatted and ultrafeedback_binarized.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from internvl_chat.records.rows import shown
from tools.importing.exchanges import Exchange, exchange, refuse_more
from tools.importing.messages import NotAPairError, read_messages

Read = Callable[[Mapping[str, Any]], Exchange]


@dataclass(frozen=True)
class Layout:
    """A way to write pairs.

    Attributes:
        name: whose it is, for messages.
        fields: by which it is told; they become fields of our row and are not kept beside it.
        read: a row to what was said. Raises NotAPairError.
        also: further fields that `read` takes, which a file may lack.
    """

    name: str
    fields: tuple[str, ...]
    read: Read
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.fields)})"


def _prompted(row: Mapping[str, Any], prompt: str, chosen: str = "chosen", rejected: str = "rejected") -> Exchange:
    """The prompt, as a text or messages, under a field of its own, the answers under two others.

    Where chosen and rejected are whole conversations, they say what was asked; a prompt of other words stays beside.
    """
    before = read_messages(row, prompt)
    said = exchange(before, read_messages(row, chosen, "assistant"), read_messages(row, rejected, "assistant"))
    is_in = {message.text for message in before} <= {message.text for message in said.before}
    return said if is_in else said._replace(unused=(prompt,))


def _implicit(row: Mapping[str, Any]) -> Exchange:
    chosen, rejected = read_messages(row, "chosen", "assistant"), read_messages(row, "rejected", "assistant")
    if chosen[0].speaker == "assistant":
        raise NotAPairError("there is no prompt: chosen does not begin with a question, as a list of messages would")
    return exchange([], chosen, rejected)


def _instructed(row: Mapping[str, Any]) -> Exchange:
    """Instruction and input are one question, a line each."""
    words = [row.get("instruction") or "", row.get("input") or ""]
    if not all(isinstance(text, str) for text in words):
        raise NotAPairError(f"'instruction' and 'input' must be texts, not {shown(words)}")
    said = _prompted({**row, "instruction": "\n".join(filter(None, words))}, "instruction")
    return said._replace(unused=("instruction", "input") if said.unused else ())


def _rejected_response(row: Mapping[str, Any]) -> Exchange:
    messages = read_messages(row, "messages")
    return exchange(messages[:-1], messages[-1:], read_messages(row, "rejected_response", "assistant"))


def _rejected_messages(row: Mapping[str, Any]) -> Exchange:
    return exchange([], read_messages(row, "messages"), read_messages(row, "rejected_messages"))


def _outputs(row: Mapping[str, Any]) -> Exchange:
    """`input` has the messages, and settings: tools, and whether they may be called side by side."""
    asked = row.get("input")
    if not isinstance(asked, Mapping):
        raise NotAPairError(f"field 'input' must hold {{messages}}, not {shown(asked)}")
    refuse_more(asked, [name for name in asked if name not in ("messages", "parallel_tool_calls")])
    return _prompted({**row, "input": asked.get("messages") or []}, "input", "preferred_output", "non_preferred_output")


OURS = Layout("MMPR and RLAIF-V", ("question", "chosen", "rejected"), partial(_prompted, prompt="question"))
LAYOUTS = (
    OURS,
    Layout("ms-swift", ("messages", "rejected_response"), _rejected_response),
    Layout("ms-swift", ("messages", "rejected_messages"), _rejected_messages),
    Layout(
        "ms-swift",
        ("query", "response", "rejected_response"),
        partial(_prompted, prompt="query", chosen="response", rejected="rejected_response"),
    ),
    Layout("OpenAI", ("input", "preferred_output", "non_preferred_output"), _outputs),
    Layout(
        "LLaMA-Factory, ShareGPT", ("conversations", "chosen", "rejected"), partial(_prompted, prompt="conversations")
    ),
    Layout("LLaMA-Factory, Alpaca", ("instruction", "chosen", "rejected"), _instructed, also=("input",)),
    Layout("TRL", ("prompt", "chosen", "rejected"), partial(_prompted, prompt="prompt")),
    Layout("LLaMA-Factory, OpenAI", ("messages", "chosen", "rejected"), partial(_prompted, prompt="messages")),
    Layout("TRL, implicit prompt", ("chosen", "rejected"), _implicit),
)


def layout_of(fields: Collection[str], where: str) -> Layout:
    """The layout of a file with these fields.

    Raises:
        ValueError: none is; the text names file and row by `where`, the fields found, and the layouts known.
    """
    for layout in LAYOUTS:
        if set(layout.fields) <= set(fields):
            return layout
    known = "; ".join(map(str, LAYOUTS))
    raise ValueError(f"{where}: no known layout: the fields are {', '.join(sorted(fields)) or 'none'}; known: {known}")
