"""One server over HTTP: JSON in, JSON out, each request within a deadline; what can go wrong by what follows from it.

The key of a server that wants one comes from the environment ($SERVER_API_KEY). Proxies and .netrc of the environment
are not used, and redirects not followed: prompts, images and key go to the server that was named.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

CONNECT_SECONDS = 10.0
MOST_BYTES = 256 * 2**20  # of an answer
SHOWN = 300  # characters of a server's message


class ServerError(Exception):
    """A request that a server did not answer; the text names the server."""


class RefusedError(ServerError):
    """The server will not answer this request, and no other will: the request is at fault (400, 413, 422)."""


class MisconfiguredError(ServerError):
    """The server answers no request of this kind: wrong key, model or path (401, 403, 404, 405)."""


class BusyError(ServerError):
    """The server has too much to do (429, 503); `seconds` it asks to be left alone, 0 where it does not say."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class BrokenError(ServerError):
    """The server failed on this request: an error of its own, an answer that breaks off or makes no sense, too slow."""


class UnreachableError(ServerError):
    """There is no connection to the server: the request did not arrive."""


class Server:
    """A server, by its URL."""

    def __init__(self, url: str, key: str = "", deadline: float = 1800.0) -> None:
        """Take a URL with or without /v1 at its end, a key, and the seconds that a request may take.

        Raises:
            ValueError: it is no http(s) URL of a host.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"--server {url!r} is no URL such as http://node7:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.deadline = deadline
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._of_thread = threading.local()

    def __str__(self) -> str:
        return self.url

    def get(self, path: str) -> dict[str, Any]:
        """The JSON of GET /v1/`path`; raises a `ServerError`."""
        return self._ask("GET", path, None, CONNECT_SECONDS)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of POST /v1/`path`; raises a `ServerError`."""
        return self._ask("POST", path, body, self.deadline)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, deadline: float) -> dict[str, Any]:
        end = time.monotonic() + deadline
        try:
            response = self._session.request(
                method,
                f"{self.url}/v1/{path}",
                json=body,
                timeout=(min(CONNECT_SECONDS, deadline), deadline),
                stream=True,
                allow_redirects=False,
            )
            with response:
                content = self._content(response, end)
        except (requests.exceptions.ConnectTimeout, requests.exceptions.InvalidSchema) as error:
            raise UnreachableError(f"{self}: {error}") from error
        except requests.exceptions.ConnectionError as error:
            if _is_refused(error):
                raise UnreachableError(f"{self}: no connection") from error
            raise BrokenError(f"{self}: the connection broke off ({type(error).__name__})") from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise BrokenError(f"{self}: {type(error).__name__}: {error}") from error
        return self._json(response, content)

    @property
    def _session(self) -> requests.Session:
        """One per thread: connections are kept open."""
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = session = requests.Session()
            session.trust_env = False
            session.headers.update(self._headers)
        return self._of_thread.session

    def _content(self, response: requests.Response, end: float) -> bytes:
        """The whole body; BrokenError when it is too large, or drips in beyond the deadline."""
        content = bytearray()
        while chunk := response.raw.read1(2**16, decode_content=True):  # what is there, without waiting for more
            content += chunk
            if len(content) > MOST_BYTES or time.monotonic() > end:
                raise BrokenError(f"{self}: {len(content)} bytes within {self.deadline:g} s, and no end")
        return bytes(content)

    def _json(self, response: requests.Response, content: bytes) -> dict[str, Any]:
        status = response.status_code
        said = content.decode(errors="replace")[:SHOWN]
        if status in (429, 503):
            raise BusyError(f"{self}: status {status}", _seconds(response.headers.get("Retry-After", "")))
        if status in (401, 403, 404, 405):
            raise MisconfiguredError(f"{self}: status {status}: {said}")
        if 400 <= status < 500 and status != 408:
            raise RefusedError(f"{self}: status {status}: {_message(content) or said}")
        if status != 200:
            raise BrokenError(f"{self}: status {status}: {said}")
        try:
            found = json.loads(content)
        except ValueError as error:
            raise BrokenError(f"{self}: an answer that is no JSON: {said}") from error
        if not isinstance(found, dict):
            raise BrokenError(f"{self}: an answer that is no JSON object: {said}")
        return found


def _is_refused(error: BaseException) -> bool:
    """Whether a connection was never made, somewhere in the chain of causes that urllib3 wraps."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError | OSError) and "Failed to establish" in str(error):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _message(content: bytes) -> str:
    """What an OpenAI-like error says; "" where it is none."""
    try:
        found = json.loads(content)
        return str(found["error"]["message"])[:SHOWN]
    except (ValueError, KeyError, TypeError):
        return ""


def _seconds(header: str) -> float:
    """Retry-After in seconds, 0 to 60; 0 where it is a date, or nothing."""
    try:
        return min(60.0, max(0.0, float(header)))
    except ValueError:
        return 0.0
