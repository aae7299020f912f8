"""Draws docs/images/fast_path.svg: a pair as two rows and as one packed row, and who sees whom in the packed one.

python docs/draw_fast_path.py

The right picture is read off the layout that training uses, for a prompt of 8 tokens with answers of 4 and 6.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from internvl_chat.packed.layout import SharedPrefixLayout
from internvl_chat.packed.packing import TokenizedPair, pack_pairs

OUT = Path(__file__).parent / "images" / "fast_path.svg"
PROMPT, CHOSEN, REJECTED = 8, 4, 6  # tokens in the right picture
COLOURS = {
    "prompt": "#7fb3d5",
    "image": "#7fb3d5",
    "question": "#a9cce3",
    "last": "#1f618d",
    "chosen": "#7dcea0",
    "rejected": "#f1948a",
}
PADDING = "#e5e5e5"


def draw_row(axes: Axes, y: float, parts: list[tuple[str, float]], *, caption: str) -> None:
    """One row of labelled blocks (what, width) with its caption on the left."""
    left = 0.0
    for name, width in parts:
        axes.add_patch(Rectangle((left, y), width, 0.8, facecolor=COLOURS.get(name, PADDING), edgecolor="white"))
        if width > 2:
            axes.text(left + width / 2, y + 0.4, name, ha="center", va="center", fontsize=8)
        left += width
    axes.text(-0.5, y + 0.4, caption, ha="right", va="center", fontsize=8)


def draw_rows(axes: Axes) -> None:
    """The same pair in both forms, not to scale."""
    prompt = [("image", 18.0), ("question", 3.0)]
    axes.text(0, 8.1, "as two rows: each for the policy, again for the reference", fontsize=9, weight="bold")
    draw_row(axes, 7.0, [*prompt, ("chosen", 2.5), ("", 1.5)], caption="row 1")
    draw_row(axes, 6.0, [*prompt, ("rejected", 4.0)], caption="row 2")
    axes.text(0, 5.4, "2 x 2 vision tower runs, 4 prompts, padding, logits everywhere", fontsize=8)
    axes.text(0, 3.6, "packed: once for the policy, the reference from its cache", fontsize=9, weight="bold")
    draw_row(axes, 2.5, [*prompt, ("last", 0.4), ("chosen", 2.5), ("last", 0.4), ("rejected", 4.0)], caption="row")
    ends = (0.0, 21.0, 23.9, 28.3)
    for (start, end), text in zip(pairwise(ends), ("0 ... P-2", "P-1 ...", "P-1 ..."), strict=True):
        axes.annotate("", (end - 0.1, 2.2), (start + 0.1, 2.2), arrowprops={"arrowstyle": "<->", "linewidth": 0.7})
        axes.text((start + end) / 2, 1.6, text, ha="center", fontsize=8)
    axes.text(-0.5, 1.6, "position ids", ha="right", fontsize=8)
    axes.text(
        0,
        0.6,
        "1 vision tower run, 1 prompt, no padding, logits at answer tokens, in chunks; dark: the prompt's last token",
        fontsize=8,
    )
    axes.set(xlim=(-6, 29), ylim=(0, 8.8))
    axes.axis("off")


def seen_keys(layout: SharedPrefixLayout, num_tokens: int) -> np.ndarray:
    """(N, N) bool: which keys each position of the packed row sees, from the groups that attention runs."""
    seen = np.zeros((num_tokens, num_tokens), bool)
    for group in layout.groups:
        queries, keys = group.queries.reshape(group.size, -1), group.keys.reshape(group.size, -1)
        causal = np.tri(queries.shape[1], keys.shape[1], dtype=bool)
        for index in range(group.size):
            mask = causal if group.mask is None else group.mask[index, 0].numpy()
            for row in group.real[group.real // queries.shape[1] == index] % queries.shape[1]:
                seen[queries[index, row], keys[index, mask[row]]] = True
    return seen


def draw_attention(axes: Axes) -> None:
    """Queries down, keys across; prefix in blue, each branch in the colour of its answer."""
    answers = (np.arange(CHOSEN), np.arange(REJECTED))
    packed = pack_pairs([TokenizedPair(np.arange(PROMPT), answers, b"prompt")])
    num_tokens = packed.input_ids.numel()
    part = ["prompt"] * (PROMPT - 1) + ["chosen"] * CHOSEN + ["rejected"] * REJECTED
    for query, key in zip(*np.nonzero(seen_keys(packed.layout, num_tokens)), strict=True):
        axes.add_patch(Rectangle((key, query), 0.94, 0.94, facecolor=COLOURS[part[query]]))
    axes.set_xticks(np.arange(num_tokens) + 0.5, packed.position_ids[0].tolist(), fontsize=7)
    axes.set_yticks(np.arange(num_tokens) + 0.5, part, fontsize=7)
    axes.set(xlim=(0, num_tokens), ylim=(num_tokens, 0), aspect="equal", xlabel="keys, by position id")
    axes.set_title("Who sees whom", fontsize=9, weight="bold")


def main(out: Path = OUT) -> None:
    """Draw both pictures side by side."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    draw_rows(left)
    draw_attention(right)
    out.parent.mkdir(exist_ok=True)
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
