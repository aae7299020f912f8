"""docs/troubleshooting.md quotes messages of the code, docs/commands.md its commands: both are held to it."""

import ast
import re
from pathlib import Path

import pytest

from tools.mpo import WORDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
MESSAGES = [
    " ".join(found.split())
    for block in re.findall(r"\*\*(.+?)\*\*", PAGE, re.S)
    for found in re.findall(r"`([^`]+)`", block)
]
# Of torch, of a shell, and of Python.
THEIRS = {
    "CUDA out of memory",
    "sh: 0: cannot open shell/..: No such file",
    "can't open file '../internvl_chat/tools/..'",
}
GAP = "\0"  # where a value is put in


def said_by(node):
    """What an expression says, with GAP for what it does not know; None where it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(said_by(part) or GAP for part in node.values)
    if isinstance(node, ast.BinOp):
        return (said_by(node.left) or GAP) + (said_by(node.right) or GAP)
    return None


@pytest.fixture(scope="module")
def texts():
    """All texts of the code: of Python by its syntax, of the shell by its lines."""
    found = []
    for room in ("internvl_chat", "tools"):
        for path in (ROOT / room).rglob("*.py"):
            found += [text for node in ast.walk(ast.parse(path.read_text())) if (text := said_by(node))]
    for path in (ROOT / "shell").glob("*.sh"):
        joined = re.sub(r'" \\\n\s*"', " ", path.read_text())
        found += [re.sub(r"\$\{?\w+(:-[^}]*)?\}?", GAP, line) for line in joined.splitlines()]
    return found


@pytest.mark.parametrize("message", sorted(set(MESSAGES) - THEIRS))
def test_a_quoted_message_is_in_the_code(message, texts):
    """Its pieces stand in one text, in this order; `..` is anything."""
    pieces = [piece for piece in re.split(r"\.\.", message) if re.search(r"\w", piece)]
    pattern = re.compile(".*?".join(re.escape(piece.strip()) for piece in pieces), re.S)
    assert pieces and any(pattern.search(" ".join(text.split())) for text in texts)


def test_there_are_messages_of_every_stage():
    assert len(MESSAGES) > 30


def test_the_commands_are_those_of_mpo():
    table = re.findall(r"^\| `mpo ([\w-]+)` \| (.+?) \| `([\w.]+)` \|$", (ROOT / "docs/commands.md").read_text(), re.M)
    assert {word: (module, sentence) for word, sentence, module in table} == WORDS
