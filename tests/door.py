"""A command as its user sees it: its `main` behind the door of all commands, in this process."""

import sys
from unittest.mock import patch

from internvl_chat.run.entry import enter


def end_of(main, *words, program="a_tool.py"):
    """Exit code of a command with these words; what it says goes where it always goes."""
    with patch.object(sys, "argv", [program, *map(str, words)]):
        try:
            enter(main)
        except SystemExit as ended:
            return ended.code or 0
    return 0
