"""Every command has mistakes in the tables beside this file."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_entry_is_left_out():
    sources = [path for room in ("internvl_chat", "tools", "data") for path in (ROOT / room).rglob("*.py")]
    entries = {path.stem for path in sources if "\n    enter(" in path.read_text(encoding="utf-8")}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(__file__).parent.glob("test_*.py")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert len(entries) > 25
    assert not entries - {alias.name for node in imports for alias in node.names}
