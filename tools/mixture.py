"""Look at a mixture, and change it: how many pairs of which kind an epoch draws, what that costs, by which recipe.

    python tools/mixture.py MMPR-v1.1/meta.json                                               shows it
    python tools/mixture.py MMPR-v1.1/meta.json --recipe data/recipes/mmpr_v1.1_400k.json --out mixture.json
    python tools/mixture.py MMPR-v1.1/meta.json own/meta.json --set "own_*=1" "*=rows:400000" --out mixture.json
    python tools/mixture.py mixture.json --model_name_or_path ckpt/InternVL2_5-8B --gpus 64   hours too

Several meta.json files are one mixture: own rows on top. `--set PATTERN=..` changes repeat_time by pattern over the
names (0.5, rows:40000, share:0.1, 0 to leave out), the first that fits counts; with --recipe they come before its
rules. --out writes a meta.json with paths relative to itself, which validate and the launchers take.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from internvl_chat.data.images import Tiling
from internvl_chat.data.mixture import MixedDataset, repeated_count
from internvl_chat.records.durable import json_text, write_atomically
from internvl_chat.records.objects import is_object
from internvl_chat.run.entry import Parser, at_least, enter
from tools.mixtures.measure import MixturePart, by_kind, measure, open_all
from tools.mixtures.recipes import Rule, parse_setting, read_recipe, repeat_times


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("meta_path", type=Path, nargs="+", help="meta.json files of one mixture")
    add("--recipe", type=Path, help="a file as in data/recipes")
    add("--set", nargs="+", default=[], metavar="PATTERN=AMOUNT", help="0.5 | rows:40000 | share:0.1 | 0")
    add("--out", type=Path, help="meta.json to write")
    add("--batch_size", type=at_least(1), default=256, help="pairs of a step (default: %(default)s, the launchers')")
    add(
        "--sample",
        type=at_least(1),
        default=64,
        help="rows of each set to estimate tokens from (default: %(default)s)",
    )
    add(
        "--max_dynamic_patch",
        type=at_least(1),
        default=12,
        help="tiles where meta.json has no limit (default: %(default)s)",
    )
    add("--model_name_or_path", help="checkpoint, for hours: a folder, or the name of a published one")
    add("--gpus", type=at_least(1), default=64, help="for hours (default: %(default)s)")
    add("--tflops", type=float, default=400.0, help="that a GPU reaches; an assumption (default: %(default)s)")
    return parser.parse_args(argv)


def mix(data_sets: dict[str, MixedDataset], rules: Sequence[Rule]) -> list[MixturePart]:
    """The parts of a mixture: as their files say, or by rules.

    Raises:
        ValueError: a rule fits no data set, or asks for too much.
    """
    rows = {name: len(data.rows) for name, data in data_sets.items()}
    times = repeat_times(rules, rows) if rules else {name: data.spec.repeat_time for name, data in data_sets.items()}
    parts = []
    for name, repeat in times.items():
        spec = replace(data_sets[name].spec, repeat_time=repeat)
        parts.append(MixturePart(spec, rows[name], repeated_count(rows[name], repeat)))
    return parts


def write_mixture(path: Path, parts: Sequence[MixturePart], data_sets: dict[str, MixedDataset]) -> None:
    """Write a meta.json whose paths are relative to itself; parts that draw nothing are left out."""
    entries = {}
    for part in parts:
        data = data_sets[part.spec.name]
        annotation = part.spec.annotation if is_object(part.spec.annotation) else _relative(data.rows.path, path)
        root = data.root if is_object(data.root) else _relative(data.root, path)
        if part.drawn:
            entry = replace(part.spec, root=root, annotation=annotation, length=part.rows)
            entries[part.spec.name] = entry.to_entry()
    if not entries:
        raise ValueError("no row is left: every data set is left out, or draws nothing")
    write_atomically(path, [json_text(entries)])


def _relative(target: str, meta_path: Path) -> str:
    return os.path.relpath(os.path.realpath(target), os.path.realpath(meta_path.parent))


def table(parts: Sequence[MixturePart], batch_size: int) -> list[str]:
    """The mixture as lines: data sets, kinds, sums."""
    pairs, tokens = sum(part.drawn for part in parts), sum(part.tokens for part in parts)
    width = min(60, max(len(part.spec.name) for part in parts))
    lines = [
        f"{'data set':<{width}}  {'kind':<11} {'rows':>9} {'repeat':>8} {'drawn':>9} {'share':>6} {'tokens':>7} share"
    ]
    for part in sorted(parts, key=lambda part: part.drawn, reverse=True):
        name = part.spec.name if len(part.spec.name) <= width else f"{part.spec.name[: width - 2]}.."
        lines.append(
            f"{name:<{width}}  {part.kind:<11} {part.rows:>9,} {part.spec.repeat_time:>8.4g} {part.drawn:>9,} "
            f"{_percent(part.drawn, pairs)} {part.sampled.tokens:>7,.0f} {_percent(part.tokens, tokens)}"
        )
    for kind, (drawn, used) in by_kind(parts).items():
        blank = f"{'all of ' + kind:<{width}}  {'':<11} {'':>9} {'':>8}"
        lines.append(f"{blank} {drawn:>9,} {_percent(drawn, pairs)} {'':>7} {_percent(used, tokens)}")
    unreadable = sum(part.sampled.unreadable for part in parts)
    steps = -(-pairs // batch_size)
    lines.append(
        f"{pairs:,} pairs of {sum(part.rows for part in parts):,} rows, about {tokens / 1e6:,.1f} M tokens an epoch "
        f"({tokens / max(pairs, 1):,.0f} a pair, by a sample); {steps:,} steps of {batch_size}"
    )
    if unreadable:
        lines.append(f"{unreadable} rows of the sample could not be read: python tools/validate.py says which and why")
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:>5.1f}%"


def show(parts: Sequence[MixturePart], args: argparse.Namespace) -> None:
    """Print the mixture, and hours where a checkpoint is named."""
    print("\n".join(table(parts, args.batch_size)))
    pairs = sum(part.drawn for part in parts)
    if args.model_name_or_path and pairs:
        from tools.mixtures.hours import training_hours  # loads torch, which nothing else here needs

        tokens = sum(part.tokens for part in parts) / pairs
        tiles = sum(part.drawn * part.sampled.tiles for part in parts) / pairs
        hours = training_hours(args.model_name_or_path, tokens, tiles, pairs, gpus=args.gpus, tflops=args.tflops)
        reached = f"{args.gpus} GPUs at {args.tflops:g} TFLOP/s each"
        print(f"about {hours:,.1f} h on {reached}: estimated from FLOPs, not measured")


def main(argv: Sequence[str] | None = None) -> None:
    """Show or change a mixture.

    Raises:
        FileNotFoundError, ValueError: a file is not there or not usable, a rule fits no data set, or no row is left.
    """
    args = parse_arguments(argv)
    data_sets = open_all(args.meta_path)
    rules = [*map(parse_setting, args.set), *(read_recipe(args.recipe) if args.recipe else [])]
    parts = mix(data_sets, [*rules, *_as_they_are(data_sets, rules, args.recipe)])
    tiling = Tiling(max_num=args.max_dynamic_patch)
    parts = [replace(part, sampled=measure(data_sets[part.spec.name], args.sample, tiling)) for part in parts]
    show(parts, args)
    if left_out := [name for name in data_sets if name not in {part.spec.name for part in parts if part.drawn}]:
        print(f"left out: {', '.join(left_out)}")
    if args.out:
        write_mixture(args.out, parts, data_sets)
        print(f"written: {args.out}")


def _as_they_are(data_sets: dict[str, MixedDataset], rules: Sequence[Rule], recipe: Path | None) -> list[Rule]:
    """Without a recipe, data sets that no --set fits stay as their meta.json has them."""
    if recipe or not rules:
        return []
    untouched = [data.spec for name, data in data_sets.items() if not any(rule.fits(name) for rule in rules)]
    return [parse_setting(f"{spec.name}={spec.repeat_time}") for spec in untouched]


if __name__ == "__main__":
    enter(main)
