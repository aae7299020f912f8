"""The tiles that were cut last, for the pairs that come next and show the same image.

Pairs of one prompt, and questions on one image, meet in a batch where training or the filling of a cache groups them;
a loader's worker then decodes and resizes their image once. One such store belongs to each worker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

KEPT_BYTES = 64 << 20  # of a worker: 8 images of 13 tiles of 448 pixels


class RecentTiles:
    """Tiles by what they were made of; those that were not asked for longest leave first."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        """Keep so many bytes of pixels at most."""
        self.most_bytes, self.kept_bytes = most_bytes, 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The tiles under a key, made where they are not kept. Nobody may change them."""
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        tiles = make()
        self._tiles[key] = tiles
        self.kept_bytes += tiles.nbytes
        while self.kept_bytes > self.most_bytes:
            _, oldest = self._tiles.popitem(last=False)
            self.kept_bytes -= oldest.nbytes
        return tiles
