"""Tiles that were cut last."""

import numpy as np

from internvl_chat.data.recent import RecentTiles


def test_what_was_asked_for_last_stays_within_the_bytes():
    recent, made = RecentTiles(most_bytes=20), []

    def get(key, size=8):
        def make():
            made.append(key)
            return np.zeros(size, np.uint8)

        return recent.get(key, make)

    first = get("a")
    get("b")
    assert get("a") is first
    get("c")  # b leaves
    get("a")
    get("b")  # c leaves
    assert made == ["a", "b", "c", "b"] and recent.kept_bytes == 16
    get("larger than all", 21)
    assert recent.kept_bytes == 0 and len(get("larger than all", 21)) == 21
