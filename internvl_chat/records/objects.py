"""Files of object stores and hubs, `s3://`, `gs://` and `hf://`: fetched once by fsspec, then read from a local cache.

Which stores there are is fsspec's matter: `s3://` needs s3fs, `gs://` gcsfs, `hf://` comes with huggingface_hub; they
take their credentials and endpoints from the environment. An object is fetched whole and gets its name in the cache
when it is complete, so that several processes may fetch it at once and none sees half of it.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import xxhash

from internvl_chat.records.durable import cache_home, replacing

SCHEMES = ("s3", "gs", "hf")
ATTEMPTS = 4
MOST_SUFFIX = 16  # characters of a name that are kept, for readers of the cache
FIRST_WAIT_S = 0.5  # doubled from one attempt to the next
# What stores raise besides OSError when they cannot be reached: module, class.
NETWORK_ERRORS = {
    "s3": ("botocore.exceptions", "BotoCoreError"),
    "gs": ("aiohttp", "ClientError"),
    "hf": ("huggingface_hub.errors", "HfHubHTTPError"),
}

logger = logging.getLogger(__name__)


class ObjectError(OSError):
    """An object could not be fetched; the message names it, the reason and the cure."""


def is_object(path: str) -> bool:
    """Whether a path names something of a store that is read from here."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme in SCHEMES


def objects_cache() -> Path:
    """Where objects are kept: `objects` below `cache_home()`."""
    return cache_home() / "objects"


def join_object(root: str, path: str) -> str:
    """The URL of `path` below the folder `root`.

    Raises:
        ValueError: the path leads out of the folder.
    """
    scheme, _, base = root.rstrip("/").partition("://")
    inside = posixpath.normpath(path)
    if inside in (".", "..") or inside.startswith(("/", "../")):
        raise ValueError(f"leads out of its root {root!r}; paths in rows must stay under the root")
    return f"{scheme}://{base}/{inside}"


def fetch(url: str, *, version: bool = False) -> str:
    """The path of a local copy, fetched unless the cache has it.

    Args:
        url: of an object.
        version: ask the store whether the object is still the one that was fetched; else what is in the cache counts.

    Raises:
        FileNotFoundError: there is no such object.
        ObjectError: the store cannot be reached after some attempts, or what reads it is not installed.
    """
    scheme, _, key = url.partition("://")
    name = f"{key} {_attempt(url, _store(url).ukey, key)}" if version else key
    digest = xxhash.xxh3_128_hexdigest(name.encode())
    suffix = quote(posixpath.splitext(key)[1][:MOST_SUFFIX], safe="")
    target = objects_cache() / scheme / digest[:2] / f"{digest}{suffix}"
    if not target.is_file():
        with replacing(target) as fresh:
            _attempt(url, _store(url).get_file, key, str(fresh))
    return str(target)


def _store(url: str) -> fsspec.AbstractFileSystem:
    """What reads the store; fsspec keeps one per process. ObjectError where it is not installed."""
    try:
        return fsspec.filesystem(url.partition("://")[0])
    except ImportError as error:
        raise ObjectError(f"{url}: {error}; pip install -r requirements-objects.txt") from error


def _attempt(url: str, call: Callable[..., Any], *args: str) -> Any:
    """What `call` returns; tried again, some times, where the store cannot be reached."""
    module, name = NETWORK_ERRORS[url.partition("://")[0]]
    unreachable = (OSError, getattr(import_module(module), name))
    for number in range(1, ATTEMPTS + 1):
        try:
            return call(*args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url}: no such object") from error
        except PermissionError as error:
            raise ObjectError(f"{url}: not allowed ({error}); set the credentials that the store reads") from error
        except unreachable as error:
            if number == ATTEMPTS:
                raise ObjectError(
                    f"{url}: not fetched in {ATTEMPTS} attempts ({error}); is the store there?"
                ) from error
            logger.warning("%s: attempt %d of %d failed (%s)", url, number, ATTEMPTS, error)
            time.sleep(FIRST_WAIT_S * 2 ** (number - 1))
    raise AssertionError("the last attempt returns or raises")
