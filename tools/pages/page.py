"""What the HTML pages of the tools share: the base template, texts with their differences marked, embedded pictures.

Every page is one file without a single external request, so it can be mailed or opened behind a firewall.
"""

from __future__ import annotations

import base64
import re
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import jinja2

TOKEN = re.compile(r"\s+|[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]|\w+|[^\w\s]")
MAX_COMPARED = 4_000_000  # words of one text times words of the other

Segments = list[tuple[str, bool]]
"""(text, whether the other text lacks it)."""


def render(template: Path, **content: Any) -> str:
    """A page of a template, which may extend `base.html` beside this file.

    Every text is escaped, a name that is missing is an error.
    """
    loader = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template.name).render(**content)


def data_uri(content: bytes, kind: str) -> str:
    """A picture file of a kind such as `png`, as a URI that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def mark_differences(first: str, second: str) -> tuple[Segments, Segments]:
    """Split two texts into (text, differs) segments by words, or characters of scripts without spaces.

    Very long texts are one segment each.
    """
    one, two = TOKEN.findall(first), TOKEN.findall(second)
    if len(one) * len(two) > MAX_COMPARED:  # finding what they share takes the product of their lengths
        return [(first, first != second)], [(second, first != second)]
    left: Segments = []
    right: Segments = []
    for kind, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        left += [("".join(one[a:b]), kind != "equal")] if b > a else []
        right += [("".join(two[c:d]), kind != "equal")] if d > c else []
    return left, right
