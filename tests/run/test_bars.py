"""Bars move on a terminal, and take a few plain lines in a log."""

import io
import sys

from tqdm import tqdm

from internvl_chat.run.bars import LOG_SECONDS, track


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_log_has_the_begin_and_the_end_of_a_short_work(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    bar = track(range(1000), desc="rows")
    assert list(bar) == list(range(1000)) and bar.mininterval == LOG_SECONDS
    sys.stderr.flush()
    written = sys.stderr.buffer.getvalue().decode()
    assert written.count("\r") == 2 and "1000/1000" in written and written.isascii()


def test_on_a_terminal_it_is_tqdm_s_own(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with track(total=9) as bar, tqdm(total=9) as theirs:
        assert (bar.mininterval, bar.ascii) == (theirs.mininterval, theirs.ascii) == (0.1, False)
