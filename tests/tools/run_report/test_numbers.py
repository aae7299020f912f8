"""Every number of a report is the log's, an evaluation's or another file's, to its printed digits.

The page is taken apart: its texts by section, and the lines and axes of its pictures. What must stand there is put
together here from the files, in the order of the page, and all numbers of both are the same: one that is wrong,
missing, or of unknown origin shows.
"""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from statistics import fmean, median
from xml.etree import ElementTree

import numpy as np
import pytest

from tools.curves.log import LABELS
from tools.curves.panels import PANELS, RUN_PANELS
from tools.diagnosis.rules import RULES
from tools.evaluation.run_figures import FIGURES
from tools.evaluation.table import CHOICES
from tools.report import main
from tools.run_report.page import draw_accuracies

ROOT = Path(__file__).parents[3]
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?|(?<![\w-])-(?=\d)|\+(?=\d)")
ENTRIES = 20


def noisy(name, start, end):
    """A curve whose digits are its own."""
    draw = Random(name)
    return [start + (end - start) * (at + draw.random()) / ENTRIES for at in range(ENTRIES)]


COURSES = {
    "loss": (1.9, 1.1),
    "nll_loss": (1.2, 0.9),
    "losses/sigmoid": (0.69, 0.2),
    "losses/bco_pair": (1.3, 0.8),
    "rewards/chosen": (0.01, 0.4),
    "rewards/rejected": (0.0, -0.9),
    "delta": (0, 0.1),
    "rewards/accuracies": (0.5, 0.95),
    "learning_rate": (1e-6, 9e-6),
    "grad_norm": (3, 2),
    "lengths/chosen": (250, 251),
    "lengths/rejected": (333, 334),
    "logps/chosen": (-80, -70),
    "logps/rejected": (-90, -120),
    "pairs_per_second": (3, 4),
    "tokens_per_second": (4321, 4567),
    "peak_memory_gib": (17.1, 17.3),
    "epoch": (0, 2),
    "lengths/preferred": (-10, -9),
    "lengths/margin": (-10, -9),
    "eval_accuracy": (0.51, 0.83),
    "eval_logps/right_change": (-0.1, -1.4),
    "eval_logps/wrong_change": (-0.2, -3.9),
}
CURVES = {name: noisy(name, *course) for name, course in COURSES.items()}
CURVES["rewards/margins"] = [c - r for c, r in zip(CURVES["rewards/chosen"], CURVES["rewards/rejected"], strict=True)]
HELD_OUT = {"eval_loss": [1.5123, 1.4987], "eval_rewards/accuracies": [0.7123, 0.8021]}
LOOK = {"accuracy_change": 0.2987, "accuracy_change_low": 0.2011, "accuracy_change_high": 0.3977, "accuracy_p": 0.97}
LOOK |= {"accuracy_level": 0.0025, "logps/gap_change": 2.47, "logps/gap_change_low": 1.93}
LOOK = {f"eval_{name}": value for name, value in LOOK.items()} | {"eval_logps/gap_change_high": 3.03}
END = {"step": 10 * ENTRIES, "train_runtime": 12345.678, "train_loss": 1.23456789}
SETTINGS = {
    "model": {"drop_path_rate": 0.123},
    "training": {"beta": 0.1, "learning_rate": 9.1e-6, "max_steps": 200, "loss_type": ["sigmoid", "bco_pair"]},
}
MIXTURE = {"charts": {"rows": 4321, "repeat_time": 0.37, "drawn": 1599}}
BOOKS = {"charts": {"used": 1571, "skipped": 28, "times_used": {"0": 17, "1": 1400, "2": 171}}}
LEDGER = {"promised": 1599, "used": 1571, "skipped": 28, "adds_up": True}
REASONS = {"no such picture": 21, "answer is cut": 7}
START = {"began": "2026-11-27 08:09", "after_step": 0, "command": "mpo train --seed 47", "commit": "c0ffee"}
START |= {"machine": "13 cores", "processes": 3, "versions": ["torch 2.12.1"], "seconds": {"training": 3671.25}}
WAYS = {
    "reasoned": {"percent": 61.25, "interval": [55.32, 66.87], "questions": 80, "answers": 160, "correct": 98},
    "direct": {"percent": 43.75, "interval": [33.41, 54.67], "questions": 80, "answers": 80, "correct": 35},
}
BEFORE = {"reasoned": {"all": {"percent": 52.5, "interval": [44.13, 60.71]}}, "pairs": {"reward_accuracy": 49.98}}
COMPARED = {"difference": 8.75, "interval": [1.23, 16.27], "better": 14, "questions": 80, "worse": 7, "p": 0.02183}
COMPARED["test"] = "exact McNemar"
PAIRS = {"reward_accuracy": 71.23, "reward_accuracy_interval": [64.11, 77.94], "reward_margin": 0.4567}
QUESTION = "How many of the 37 squares?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose files have every figure that a report shows."""
    folder = tmp_path_factory.mktemp("numbers") / "run"
    folder.mkdir()
    curves = [{name: values[at] for name, values in CURVES.items()} for at in range(ENTRIES)]
    log = [{"step": 10 * at + 10, **entry, **LOOK} for at, entry in enumerate(curves)]
    log += [{"step": 100 * at + 100, **{name: values[at] for name, values in HELD_OUT.items()}} for at in range(2)]
    row = {"way": "reasoned", "key": "k", "images": [], "question": QUESTION, "answer": "12", "outcomes": ["correct"]}
    row |= {"responses": ["7 + 5 = 12"], "before": {"responses": ["7 + 5 = 13"], "outcomes": ["wrong"]}}
    counts = {"format_errors": 3, "undecided": 2}
    after = {
        "checkpoint": "mpo-81",
        "before": {"checkpoint": "base-19", **BEFORE},
        "comparison": {"reasoned": COMPARED},
    }
    after |= {way: {"all": found | counts} for way, found in WAYS.items()} | {"pairs": PAIRS}
    files = {
        "trainer_state": {"log_history": [*log, END]},
        "settings": {**SETTINGS, "mixture": MIXTURE},
        "ledger": {**LEDGER, "data_sets": BOOKS},
        "provenance": {"starts": [START]},
        "evaluation": after,
        "config": json.loads((ROOT / "ckpt/tiny-base/config.json").read_text()),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    skipped = [{"reason": reason} for reason, times in REASONS.items() for _ in range(times)]
    (folder / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in skipped))
    (folder / "evaluation.answers.jsonl").write_text(json.dumps(row) + "\n")
    main([str(folder), "--title", "A run"])
    return folder


class Sections(HTMLParser):
    """Texts of a page by its sections, those that pictures have in words among them, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.rules, self.pictures = {"top": []}, [], []
        self.here, self.silent, self.is_rule = "top", False, False
        self.feed(text[text.index("<body>") :])

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.silent = tag in ("style", "script")
        if tag == "h2":
            self.here = found["id"]
            self.texts[self.here] = []
        if tag == "img":
            self.texts[self.here].append(found["alt"])
            self.pictures.append(found["src"])
        self.is_rule = found.get("data-label") == "Rule"

    def handle_data(self, data):
        if self.is_rule:
            self.rules.append(data)
        if not self.silent:
            self.texts[self.here].append(data)


@pytest.fixture(scope="module")
def page(run):
    return Sections((run / "report.html").read_text())


def numbers(texts):
    return NUMBER.findall(" \n ".join(texts))


def sides(name, digits=4):
    """The mean of the first and of the last fifth."""
    fifth = ENTRIES // 5
    first, last = fmean(CURVES[name][:fifth]), fmean(CURVES[name][-fifth:])
    return f"{first:.{digits}g} at the begin, {last:.{digits}g} at the end"


def rolling(name):
    return [fmean(CURVES[name][at : at + 5]) for at in range(ENTRIES - 4)]


def highest_and_last(name):
    return f"highest {max(rolling(name)):.4g}, last {rolling(name)[-1]:.4g}"


def comeback():
    """The rolling means of the loss between which it rises most."""
    means = rolling("loss")
    rises = [(means[j] - means[i], means[i], means[j]) for i in range(len(means)) for j in range(i, len(means))]
    _, low, high = max(rises)
    return f"{low:.4g} {high:.4g}"


def medians(name, first, last):
    return f"{median(CURVES[name][:first]):.4g} {median(CURVES[name][-last:]):.4g}"


def rule_values():
    """What each rule must have seen in this run."""
    rate, flag = max(CURVES["learning_rate"]), SETTINGS["training"]["learning_rate"]
    tenth, came = ENTRIES // 10, LEDGER["used"] + LEDGER["skipped"]
    drift = fmean(CURVES["rewards/chosen"][-ENTRIES // 5 :]) / 0.1 / fmean(CURVES["lengths/chosen"])
    excess = [p - m for p, m in zip(CURVES["lengths/preferred"], CURVES["lengths/margin"], strict=True)]
    stands_out = f"{ENTRIES} entries, none"
    return {
        "Every figure is a number": f"{ENTRIES + 3} entries",
        "No curve breaks off": f"{ENTRIES} entries",
        "Figures agree with each other": f"{ENTRIES} entries",
        "The learning rate is on": f"highest {rate:.3g}; 0 in 0 of {ENTRIES - 2} entries",
        "The learning rate follows its schedule": f"highest {rate:.3g}, the flag is {flag:.3g}",
        "The loss does not leap": stands_out,
        "The loss does not come back up": comeback(),
        "The loss falls": sides("loss"),
        "The gradient keeps its size": sides("grad_norm"),
        "There is a gradient": f"0 in 0 of {ENTRIES} entries; " + medians("grad_norm", ENTRIES // 3, ENTRIES // 5),
        "Answers are told apart": sides("rewards/margins"),
        "The chosen answer wins more often than chance": sides("rewards/accuracies"),
        "What was learned stays": f"{highest_and_last('rewards/margins')}; {highest_and_last('rewards/accuracies')}",
        "Chosen answers stay likely": sides("rewards/chosen") + f" {fmean(CURVES['rewards/margins'][-4:]):.4g}",
        "The NLL of chosen answers does not rise": sides("nll_loss"),
        "The policy stays near its reference": f"chosen {drift:+.3g} nats per token; "
        f"margin {fmean(CURVES['rewards/margins'][-tenth:]) / 0.1:.4g} nats",
        "Rewards do not leap": stands_out,
        "Answers keep their length": sides("lengths/chosen") + sides("lengths/rejected"),
        "The policy does not prefer length": f"{fmean(excess[-4:]):+.3g} {fmean(CURVES['lengths/chosen']):.3g}",
        "Held-out rows follow": f"{min(HELD_OUT['eval_loss']):.4g} {HELD_OUT['eval_loss'][-1]:.4g} "
        f"{HELD_OUT['eval_rewards/accuracies'][-1]:.3g} {fmean(CURVES['rewards/accuracies'][-4:]):.3g}",
        "Held-out answers stay right": f"{100 * CURVES['eval_accuracy'][-1]:.1f} % right at step {10 * ENTRIES}, "
        "+29.9 points since step 10, 95 % interval +20.1 to +39.8; p = 0.97, limit of a look 0.0025",
        "Right held-out answers hold against wrong ones": f"{CURVES['eval_logps/right_change'][-1]:+.2f} nats, "
        f"{CURVES['eval_logps/wrong_change'][-1]:+.2f}: gap +2.47, 95 % interval +1.93 to +3.03; "
        + sides("rewards/accuracies"),
        "Rows come a few times": f"{CURVES['epoch'][-1]:.4g} epochs",
        "Rows can be used": f"{LEDGER['skipped']} of {came} rows skipped",
        "Throughput holds": medians("tokens_per_second", 4, 4),
        "Memory holds": f"{CURVES['peak_memory_gib'][ENTRIES // 4]:.4g} {CURVES['peak_memory_gib'][-1]:.4g}",
    }


def beside_our_runs():
    """The figures of FIGURES, by hand, beside the committed ones of our runs."""
    ours = json.loads((ROOT / "benchmarks/results/run_figures.json").read_text())
    for figure in FIGURES:
        values = CURVES[figure.curve]
        end, begin = fmean(values[-2:]), fmean(values[:2])
        value = {"end": end, "mean": fmean(values), "ratio": end / begin}[figure.take]
        low, high = ours["figures"][figure.name]
        yield f"{value:.3g} {low:.3g} to {high:.3g} {figure.meaning}"
    yield ours["origin"]


def of_the_table(name, values, steps):
    least, most = min(values), max(values)
    found = [(values[0], steps[0]), (least, steps[values.index(least)]), (most, steps[values.index(most)])]
    return " ".join(f"{value:.6g} ({step})" for value, step in [*found, (values[-1], steps[-1])])


def curves():
    """The words of each picture, and the table below them."""
    steps = [10 * at + 10 for at in range(ENTRIES)]
    for panel in [*PANELS, *RUN_PANELS]:
        yield panel.title
        for name in panel.names:
            yield f"{CURVES[name][0]:.4g} at step {steps[0]}, {CURVES[name][-1]:.4g} at step {steps[-1]}"
    for name in filter(CURVES.__contains__, LABELS):  # the others are of critics
        yield of_the_table(name, CURVES[name], steps)
        if f"eval_{name}" in HELD_OUT:
            yield of_the_table(name, HELD_OUT[f"eval_{name}"], [100, 200])


def evaluation():
    found = COMPARED
    yield f"{found['difference']:+.2f} points, 95 % {found['interval'][0]:+.2f} to {found['interval'][1]:+.2f}"
    yield f"{found['better']} of {found['questions']} better, {found['worse']} worse, p = {found['p']:.2g}"
    yield "base-19 mpo-81; intervals of 95 %"
    for way, row in WAYS.items():
        was = BEFORE.get(way, {}).get("all", {}).get("percent")
        yield f"{was:.2f} {row['percent']:.2f} {row['percent'] - was:+.2f}" if was else f"{row['percent']:.2f}"
        yield f"{row['interval'][0]:.2f} to {row['interval'][1]:.2f} {row['correct']} of {row['answers']} right, 3, 2"
    was, now = BEFORE["pairs"]["reward_accuracy"], PAIRS["reward_accuracy"]
    low, high = PAIRS["reward_accuracy_interval"]
    yield f"{was:.2f} {now:.2f} {now - was:+.2f} {low:.2f} to {high:.2f} {PAIRS['reward_margin']:.2f} (95 %)"


def expected(section, rules):
    """The texts with numbers of a section, in order."""
    if section == "normal":
        about = {rule.name: f"{rule.threshold} {rule.looks_at} {rule.reason} {rule.cure}" for rule in RULES}
        judged = [f"{rule_values()[name]} {about[name]}" for name in rules]
        return [f"None of {len(RULES)} rules", *judged, *beside_our_runs()]
    books = BOOKS["charts"]
    took = START["seconds"]["training"]
    return {
        "top": [f"{END['step']} steps in {END['train_runtime']:,.0f} s, mean loss {END['train_loss']:.4g}"],
        "evaluation": evaluation(),
        "curves": curves(),
        "data": [
            *(f"{value}" for value in MIXTURE["charts"].values()),
            f"{books['used']} {books['skipped']}",
            *(f"{times} times: {rows}" for times, rows in books["times_used"].items()),
            *map(str, REASONS.values()),
            *(f"{value}" for value in LEDGER.values()),
        ],
        "provenance": [
            *(START[name] if name != "after_step" else "0" for name in ("began", "after_step", "command", "commit")),
            f"13 cores; 3 processes torch 2.12.1 1:01:11 ({took} s)",
        ],
        "settings": [f"{value}" for group in SETTINGS.values() for value in group.values()],
        "answers": ["1 of 1, 0 of 0, 0 of 0", f"right: 12 {QUESTION}", "7 + 5 = 13", "7 + 5 = 12"],
    }[section]


def test_every_rule_has_something_to_say_of_this_run(page):
    assert sorted(page.rules) == sorted(rule.name for rule in RULES) == sorted(rule_values())


SECTIONS = ["top", "evaluation", "normal", "curves", "data", "provenance", "settings", "answers"]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_a_section_is_that_of_a_file(page, section):
    assert list(page.texts) == SECTIONS
    found = numbers(page.texts[section])
    assert len(found) > 2 and found == numbers(expected(section, page.rules))


TICK = r'<g id="{axis}tick_\d+">.*?<use [^>]*\b{axis}="([\d.]+)"[^>]*>.*?<text [^>]*>([^<]+)</text>'
POWER = re.compile(r">1e([-\d]+)</text>")  # of all ticks of the upright axis
LINE = re.compile(r'<path d="(M [^"z]+)" clip-path')


def to_values(svg, axis, places):
    """Places along an axis as values: where its ticks stand and what they say is one straight line."""
    ticks = np.array(re.findall(TICK.format(axis=axis), svg, re.DOTALL), dtype=float)
    slope, base = np.polyfit(*ticks.T, 1)
    assert len(ticks) > 3 and ticks[:, 1] == pytest.approx(slope * ticks[:, 0] + base, abs=1e-3 * np.ptp(ticks[:, 1]))
    power = POWER.search(svg) if axis == "y" else None
    return (slope * places + base) * 10.0 ** int(power[1] if power else 0)


def svg_of(picture):
    return base64.b64decode(picture.partition(",")[2]).decode().replace("\N{MINUS SIGN}", "-")


def drawn_lines(picture):
    """The lines of a panel, without its grid, as (steps, values)."""
    svg = svg_of(picture)
    paths = [np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2).T for path in LINE.findall(svg)]
    return [(to_values(svg, "x", x), to_values(svg, "y", y)) for x, y in paths if len(x) > 2]


@pytest.mark.parametrize("panel", [*PANELS, *RUN_PANELS], ids=lambda panel: panel.title)
def test_a_picture_draws_what_the_log_says(page, panel):
    """One line per curve goes through every entry, and the ticks count in its units; averages are further lines."""
    found = drawn_lines(page.pictures[1 + [*PANELS, *RUN_PANELS].index(panel)])  # the first is that of the accuracies
    steps = 10 * np.arange(ENTRIES) + 10
    as_logged = [values for at, values in found if len(at) == ENTRIES and at == pytest.approx(steps, abs=0.1)]
    for name in panel.names:
        near = 2e-3 * np.ptp(np.concatenate([CURVES[one] for one in panel.names]))
        assert any(values == pytest.approx(np.array(CURVES[name]), abs=near) for values in as_logged), name
    assert len(found) == len(panel.names) * (2 if panel.has_average else 1)


def spans(svg, colour):
    """(height, from, to) of the bars or error bars of a colour, from the top down; lengths in units of the axis."""
    found = []
    for path in ElementTree.fromstring(svg).iterfind(".//{*}path"):
        if "clip-path" in path.attrib and colour in path.attrib["style"]:
            x, y = np.array(re.findall(r"[\d.]+", path.attrib["d"]), dtype=float).reshape(-1, 2).T
            found.append((float(np.mean([y.min(), y.max()])), *to_values(svg, "x", np.array([x.min(), x.max()]))))
    return sorted(found)


def test_the_picture_of_accuracies_draws_what_the_evaluation_says(page):
    """Bars from 0 to the share, error bars from bound to bound; from the top down as their titles are."""
    svg = svg_of(page.pictures[0])
    assert re.findall(r"text-anchor: end[^>]*>([^<]+)</text>", svg) == [f"{way}, all" for way in WAYS]
    rows = [BEFORE["reasoned"]["all"], WAYS["reasoned"], WAYS["direct"]]
    before, after, whiskers = (spans(svg, colour) for colour in ("fill: #7f7f7f", "fill: #1f77b4", "stroke: #000000"))
    for bar, whisker, row in zip([*before, *after], whiskers, rows, strict=True):
        assert bar[1:] == pytest.approx((0, row["percent"]), abs=0.01)
        assert whisker == pytest.approx((bar[0], *row["interval"]), abs=0.01)


def test_the_picture_of_choices_draws_what_each_number_of_answers_gave():
    """The panel of one of n answers chosen by a critic: its ticks are the numbers of answers, its lines the shares."""
    draw = Random(3)
    over = [
        {"n": n, **{name: {"percent": draw.uniform(40, 90), "interval": [30, 95]} for name in CHOICES}}
        for n in (1, 4, 8)
    ]
    report = {"reasoned": {"all": WAYS["reasoned"]}, "best_of": {"reasoned": {"over": over}}}
    svg = svg_of(draw_accuracies(report)).partition('<g id="axes_2">')[2]
    ticks = re.findall(TICK.format(axis="x"), svg, re.DOTALL)
    assert [label for _, label in ticks] == ["1", "4", "8"]
    lines = [np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2).T for path in LINE.findall(svg)]
    lines = [(x, to_values(svg, "y", y)) for x, y in lines if len(x) == len(over)]
    for (x, values), name in zip(lines, CHOICES, strict=True):
        assert x == pytest.approx([float(place) for place, _ in ticks], abs=0.01)
        assert values == pytest.approx([row[name]["percent"] for row in over], abs=0.02)
