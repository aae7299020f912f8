"""The curves of a training run as a picture: loss and its parts, rewards, margin, how often the chosen answer wins.

    python tools/plot_curves.py --run work_dirs/mpo --out work_dirs/mpo/curves.png

Reads the log that every run leaves in trainer_state.json. Thin lines and points are its entries, thick ones their
average (exponential, divided by its weight sum); large dots are evaluations during training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, at_least, enter
from tools.curves.log import read_log
from tools.curves.panels import draw_curves, loss_panels


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output folder of a training, or a checkpoint in it")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--title", default="", help="above the plots; default: the run's folder")
    parser.add_argument("--window", type=at_least(1), help="log entries that an average spans; default: a tenth")
    return parser.parse_args(argv)


def plot_curves(args: argparse.Namespace) -> None:
    """Draw the curves of `args.run` to `args.out`; `args` as of `parse_arguments`.

    Raises:
        FileNotFoundError: the run left no log.
        ValueError: its log is empty, or the window is below 1.
    """
    entries = read_log(args.run)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_curves(entries, loss_panels(entries), title=args.title or str(args.run), window=args.window)
    figure.savefig(args.out, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors as of `plot_curves`."""
    plot_curves(parse_arguments(argv))


if __name__ == "__main__":
    enter(main)
