"""What must not leave with a checkpoint: tokens and keys, values of secret environment variables, absolute paths.

Known forms of tokens are recognised anywhere, values of fields with a telling name whatever they look like, and the
values that this very environment holds under such names. An absolute path tells of the machine: its last part stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token

WITHHELD = "[withheld]"
LEAST_SECRET = 8  # characters of an environment variable that is looked for
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|secret|auth)_?key|apikey|auth)s?$",
    re.IGNORECASE,
)
_TOKENIZER_NAME = re.compile(  # fields of tokenizers and of sampling
    r"(?:bos|eos|unk|pad|sep|cls|mask|image|img|video|audio|new|num|special|additional|context|start|end|prompt|max)_tokens?$"
)
_TOKENS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w\-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w\-]{30,}|xox[abposr]-[\w\-]{10,}"
    r"|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{5,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*-----|\Z)"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)
_ASSIGNED = re.compile(
    r"(?P<name>\b[\w\-]*(?:token|secret|passw(?:or)?d|api_?key|access_?key)\b[\"']?\s*[=:]\s*|\bbearer\s+)"
    r"(?P<value>[\"']?[\w\-+/.~]{12,}[\"']?)",
    re.IGNORECASE,
)
_PATH = re.compile(
    r"(?<![\w.:/~<>\-])(?:~?/(?:[^\s/\"'`,;:()<>|]+/)+|[A-Za-z]:\\(?:[^\s\\\"']+\\)+)([^\s/\\\"'`,;:()<>|]*)"
)


def is_secret_name(name: str) -> bool:
    """Whether a field, a flag or an environment variable of this name holds a secret: hub_token, not max_new_tokens."""
    return _SECRET_NAME.search(name) is not None and not _TOKENIZER_NAME.search(name)


def environment_secrets() -> list[str]:
    """Values of secret environment variables and the hub's own token, the longest first."""
    found = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= LEAST_SECRET}
    token = get_token()
    return sorted(found | ({token} if token else set()), key=len, reverse=True)


def without_secrets(text: str) -> str:
    """A text with every secret replaced by WITHHELD."""
    for secret in environment_secrets():
        text = text.replace(secret, WITHHELD)
    text = _TOKENS.sub(WITHHELD, text)
    return _ASSIGNED.sub(lambda match: match["name"] + WITHHELD, text)


def holds_secret(text: str) -> bool:
    """Whether a text that cannot be changed holds a secret of a known form, or of this environment."""
    return any(secret in text for secret in environment_secrets()) or _TOKENS.search(text) is not None


def without_paths(text: str) -> str:
    """A text with absolute paths cut to their last part: /data/ckpt/InternVL2_5-8B becomes InternVL2_5-8B."""
    return _PATH.sub(lambda match: match[1] or match[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2], text)


def scrub(value: Any, name: str = "") -> Any:
    """JSON values without secrets and absolute paths; fields with a telling name lose their value."""
    if isinstance(value, Mapping):
        return {scrub_text(str(key)): scrub(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(inner, name) for inner in value]
    if isinstance(value, str):
        return WITHHELD if value and is_secret_name(name) else scrub_text(value)
    return value


def scrub_text(text: str) -> str:
    """A text without secrets and absolute paths."""
    return without_paths(without_secrets(text))
