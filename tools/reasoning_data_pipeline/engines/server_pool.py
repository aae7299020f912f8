"""Several servers: the least busy is asked, one that died again when it is back; the run ends when none is left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.reasoning_data_pipeline.engines.server_check import Manner, UnfitServerError
from tools.reasoning_data_pipeline.engines.server_client import Server, ServerError

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0  # between two looks at servers that are gone
SHORTEST_REST = 0.5  # seconds for a server that has too much to do


class NoServerLeftError(Exception):
    """All servers are gone, and none came back in time."""


@dataclass
class PooledServer:
    """A server in the pool.

    Attributes:
        server: itself.
        manner: how it is asked; None while it is gone.
        samples: it is working on.
        rests_until: it is left alone, on the monotonic clock.
        is_unfit: it came back as another one, and is not asked any more.
    """

    server: Server
    manner: Manner | None
    samples: int = 0
    rests_until: float = 0.0
    is_unfit: bool = False


class ServerPool:
    """The servers of a run; safe to use from many threads."""

    def __init__(
        self, places: list[PooledServer], check: Callable[[Server], Manner], *, in_flight: int, patience: float
    ) -> None:
        """Take checked servers, and how one that comes back is checked."""
        self._places, self._check = places, check
        self._in_flight, self._patience = in_flight, patience
        self._changed = threading.Condition()
        self._alone_since: float | None = None
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="servers that are gone", daemon=True)
        self._watcher.start()

    @property
    def capacity(self) -> int:
        """Samples that all servers work on at once."""
        return self._in_flight * len(self._places)

    def take(self, samples: int) -> PooledServer:
        """The least busy server, which now works on so many samples more; waits while all are busy, resting or gone.

        Raises:
            NoServerLeftError: no server was there for as long as patience lasts, or the pool is closed.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                ready = [p for p in self._there() if p.rests_until <= now and self._has_room(p, samples)]
                if ready:
                    place = min(ready, key=lambda place: place.samples)
                    place.samples += samples
                    return place
                self._check_patience(now)
                self._changed.wait(SHORTEST_REST / 2)

    def _there(self) -> list[PooledServer]:
        return [place for place in self._places if place.manner is not None]

    def _has_room(self, place: PooledServer, samples: int) -> bool:
        return place.samples == 0 or place.samples + samples <= self._in_flight

    def _check_patience(self, now: float) -> None:
        if self._closed.is_set():
            raise NoServerLeftError("the engine was closed")
        if self._there():
            self._alone_since = None
            return
        self._alone_since = self._alone_since or now
        hopeless = all(place.is_unfit for place in self._places)
        if hopeless or now - self._alone_since > self._patience:
            names = ", ".join(str(place.server) for place in self._places)
            raise NoServerLeftError(f"no server is left of {names}, waited {now - self._alone_since:.0f} s for one")

    def give(self, place: PooledServer, samples: int) -> None:
        """A server is done with so many samples."""
        with self._changed:
            place.samples -= samples
            self._changed.notify_all()

    def rest(self, place: PooledServer, seconds: float) -> None:
        """Leave a busy server alone for a while."""
        with self._changed:
            place.rests_until = time.monotonic() + max(seconds, SHORTEST_REST)

    def lose(self, place: PooledServer, reason: object) -> None:
        """A server is gone until it answers again."""
        with self._changed:
            if place.manner is not None:
                place.manner = None
                logger.warning("%s is gone (%s); %d left", place.server, reason, len(self._there()))
            self._changed.notify_all()

    def suspect(self, place: PooledServer, reason: object) -> None:
        """A server failed on a request: it is gone unless it answers a simple question."""
        try:
            place.server.get("models")
        except ServerError:
            self.lose(place, reason)

    def recheck(self, place: PooledServer) -> bool:
        """Whether a server still reads as training does; it is gone for good where not."""
        return self._renew(place)

    def _renew(self, place: PooledServer) -> bool:
        try:
            manner = self._check(place.server)
        except ServerError as error:
            self.lose(place, error)
            return False
        except UnfitServerError as error:
            logger.error("%s is not asked any more: %s", place.server, error)
            with self._changed:
                place.is_unfit, place.manner = True, None
                self._changed.notify_all()
            return False
        with self._changed:
            place.manner = manner
            self._changed.notify_all()
        return True

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            for place in self._places:
                if place.manner is None and not place.is_unfit and self._renew(place):
                    logger.info("%s is back", place.server)

    def close(self) -> None:
        """Stop waiting and watching."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
