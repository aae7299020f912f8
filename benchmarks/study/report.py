"""The study's figures as tables and plots, beside the ordering of the paper (arXiv 2411.10442).

    python -m benchmarks.study.report                       from benchmarks/results/study.json and study_extended.json
    python -m benchmarks.study.report study_five_tasks      the first two tables, from another result

Prints the tables that docs/study.md shows and writes docs/images/study.png (accuracies) and
docs/images/reading_curves.png (what training logs of arms that win and of arms that lose look like).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.machine import RESULTS
from benchmarks.study.arms import ARMS
from benchmarks.study.statistics import LEVEL, differences, mean_interval

PICTURES = Path(__file__).parents[2] / "docs" / "images"
COLUMNS = {
    "cot": "step by step, %",
    "cot_sampled": "sampled",
    "right_steps": "every step right, %",
    "direct": "direct, %",
    "hallucinated": "sees what is not there, %",
    "words": "words",
    "kl": "KL to base",
    "margins": "margin",
    "pairs_per_second": "pairs/s",
}
EXTENDED = ("cot", "cot_sampled", "right_steps", "direct", "words", "kl")
CURVES = {
    "nll_loss": "NLL of chosen (nats per token)",
    "rewards/chosen": "reward of chosen",
    "rewards/rejected": "reward of rejected",
    "rewards/margins": "margin of rewards",
}
CURVE_ARMS = ("mpo", "dpo", "dpo+", "bco", "sft")

Figures = Mapping[str, Any]
Summary = Mapping[str, Mapping[str, Any]]


class Claim(NamedTuple):
    """What the paper says: `arm` is above `other` in `measure`."""

    text: str
    arm: str
    other: str
    measure: str = "cot"


CLAIMS = (
    Claim("MPO is above its base", "mpo", "base"),
    Claim("MPO is above SFT on the chosen answers", "mpo", "sft"),
    Claim("the same, answers sampled at temperature 1", "mpo", "sft", "cot_sampled"),
    Claim("MPO is above DPO", "mpo", "dpo"),
    Claim("MPO is above BCO", "mpo", "bco"),
    Claim("MPO is above DPO+", "mpo", "dpo+"),
    Claim("DPO+ is above DPO", "dpo+", "dpo"),
    Claim("SFT is above the base", "sft", "base"),
    Claim("DPO alone falls below the base", "base", "dpo"),
    Claim("step by step minus direct rises with MPO", "mpo", "base", "cot_minus_direct"),
)


def title_of(arm: str) -> str:
    """Name of an arm in tables."""
    return ARMS[arm].title if arm in ARMS else arm


def tables(figures: Figures, extended: Figures) -> list[list[str]]:
    """All tables, each as lines of Markdown, from the figures of the core and of the extended arms."""
    return [measures_table(figures["summary"]), claims_table(figures), extended_table(extended)]


def measures_table(summary: Summary) -> list[str]:
    """Means of all measures per arm, best step-by-step accuracy first, that with its interval."""
    order = _best_first(summary)
    rows = [[title_of(arm), *(shown(summary[arm].get(name), name == "cot") for name in COLUMNS)] for arm in order]
    return as_table(["", *COLUMNS.values()], rows)


def extended_table(figures: Figures) -> list[str]:
    """Means of all arms, each against MPO on the same seeds."""
    summary, rows = figures["summary"], []
    for arm in _best_first(summary):
        means = [shown(summary[arm].get(name), False) for name in EXTENDED]
        against = ["", ""] if arm == "mpo" else _against(figures["runs"], arm, "mpo")
        rows.append([title_of(arm), str(summary[arm]["seeds"]), *means, *against])
    return as_table(["", "seeds", *(COLUMNS[name] for name in EXTENDED), "points above MPO", "the same, sampled"], rows)


def _best_first(summary: Summary) -> list[str]:
    return sorted(summary, key=lambda arm: -summary[arm]["cot"]["mean"])


def _against(runs: Mapping[str, Figures], arm: str, other: str) -> list[str]:
    """How far an arm is above another, greedy and sampled; empty where no seed has both."""
    found = [differences(runs, arm, other, measure) for measure in ("cot", "cot_sampled")]
    return [shown(mean_interval(values), True, "{:+.1f}") if values else "" for values in found]


def claims_table(figures: Figures) -> list[str]:
    """The paper's claims with our figures, and whether they hold here with 95 % confidence."""
    rows = []
    for claim in CLAIMS:
        values = differences(figures["runs"], claim.arm, claim.other, claim.measure)
        if values:
            found = mean_interval(values)
            verdict = verdict_of(found["interval"])
            rows.append([claim.text, shown(found, True, "{:+.1f}"), verdict, tested(figures["runs"], claim)])
    return as_table(["the paper's claim", "points, seed by seed", "here", "seeds that show it alone"], rows)


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def shown(found: Mapping[str, Any] | None, with_interval: bool, form: str = "") -> str:
    """A mean, with its interval where there is one; nothing where nothing was measured."""
    if not found:
        return ""
    form = form or ("{:.1f}" if abs(found["mean"]) >= 1 else "{:.2f}")
    bounds = found["interval"] if with_interval else None
    return form.format(found["mean"]) + (f" [{form.format(bounds[0])}, {form.format(bounds[1])}]" if bounds else "")


def verdict_of(interval: Sequence[float] | None) -> str:
    """What an interval of a difference says of the claim that it is above 0."""
    if interval is None:
        return "one seed only"
    low, high = interval
    return "holds" if low > 0 else "the opposite holds" if high < 0 else "not decided"


def tested(runs: Mapping[str, Figures], claim: Claim) -> str:
    """In how many seeds McNemar's test alone shows the claim; nothing where the seeds were not tested for it."""
    tests = [test for seed in runs.values() if (test := difference_in(seed, claim)) is not None]
    if claim.measure != "cot" or not tests:
        return ""
    return f"{sum(points > 0 and p < LEVEL for points, p in tests)} of {len(tests)}"


def difference_in(seed: Figures, claim: Claim) -> tuple[float, float] | None:
    """Points by which the claim holds in one seed, and McNemar's p; None where the two were not compared."""
    for one, other, sign in ((claim.arm, claim.other, 1), (claim.other, claim.arm, -1)):
        test = seed.get(one, {}).get("against", {}).get(other)
        if test:
            return sign * test["difference"], test["p"]
    return None


def plot_accuracies(summary: Summary) -> Figure:
    """Step-by-step accuracy of all arms with intervals, and the base's as a line."""
    order = sorted(summary, key=lambda arm: summary[arm]["cot"]["mean"])
    means = [summary[arm]["cot"]["mean"] for arm in order]
    bounds = [summary[arm]["cot"]["interval"] or [mean, mean] for arm, mean in zip(order, means, strict=True)]
    reach = [[abs(mean - bound[side]) for mean, bound in zip(means, bounds, strict=True)] for side in (0, 1)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh([title_of(arm) for arm in order], means, xerr=reach, capsize=3, color="#4a7ebb")
        axes.axvline(summary["base"]["cot"]["mean"], color="black", linestyle="--", linewidth=0.8)
        axes.set(xlim=(0, 100), xlabel="held-out step-by-step accuracy, greedy, %; interval of 95 % over seeds")

    return drawn((8, 1 + 0.35 * len(order)), draw)


def plot_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """What the logs of one seed show, arm by arm."""

    def draw(figure: Figure) -> None:
        for axes, (name, title) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
            _draw_curves(axes, curves, name)
            axes.set(title=title, xlabel="step")

    return drawn((11, 7), draw)


def _draw_curves(axes: Axes, curves: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> None:
    for arm in CURVE_ARMS:
        if curves.get(arm, {}).get(name):
            axes.plot(curves[arm]["step"], curves[arm][name], label=title_of(arm))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def drawn(size: tuple[float, float], draw: Callable[[Figure], None]) -> Figure:
    """A figure of this size in inches, drawn without a display."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    return figure


def read_results() -> tuple[Figures, Figures]:
    """The committed figures of the core and of the extended arms."""
    core, extended = (json.loads((RESULTS / f"{name}.json").read_bytes()) for name in ("study", "study_extended"))
    return core, extended


def tables_of(name: str) -> list[list[str]]:
    """The tables of measures and of claims of one committed result."""
    figures = json.loads((RESULTS / f"{name}.json").read_bytes())
    return [measures_table(figures["summary"]), claims_table(figures)]


def print_tables(found: Sequence[Sequence[str]]) -> None:
    """Tables with an empty line between them."""
    print("\n\n".join("\n".join(table) for table in found))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, write the plots; of a result that is named, the tables of measures and claims alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", help="name of a file in benchmarks/results")
    name = parser.parse_args(argv).result
    if name:
        print_tables(tables_of(name))
        return
    figures, extended = read_results()
    print_tables(tables(figures, extended))
    plot_accuracies(figures["summary"]).savefig(PICTURES / "study.png", dpi=110)
    plot_curves(figures["curves"]).savefig(PICTURES / "reading_curves.png", dpi=110)


if __name__ == "__main__":
    main()
