"""The rules of a report: real healthy runs show no fault, also on other data; every planted fault shows, with its rule.

Logs of real runs, and how they were made: tests/tools/run_logs.
"""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tools.diagnosis.evidence import Evidence
from tools.diagnosis.measures import comeback, ends, noise, outliers, rolling_mean
from tools.diagnosis.rules import RULES, judge_run
from tools.diagnosis.verdicts import Sign

LOGS = Path(__file__).parents[1] / "run_logs"
HEALTHY = ("healthy_0", "healthy_1", "healthy_2", "healthy_small_batches", "photos_lora")


def read(name):
    kept = json.loads((LOGS / f"{name}.json").read_text())
    return Evidence(kept["log_history"], kept["settings"])


def faults(run):
    return [view.rule.name for view in judge_run(run) if view.sign is Sign.FAULT]


def training(run):
    return [entry for entry in run.entries if "loss" in entry]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_shows_no_fault(name):
    run = read(name)
    assert faults(run) == []
    assert len(judge_run(run)) >= 20  # and not because nothing was looked at


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_a_healthy_run_shows_no_fault_while_it_goes_on(name, share):
    run = read(name)
    entries = training(run)
    part = entries[: max(1, round(share * len(entries)))]
    assert faults(Evidence(part, run.settings)) == []


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("fault_rate_zero", "The learning rate is on"),
        ("fault_rate_zero", "Answers are told apart"),
        ("fault_no_learning", "Answers are told apart"),
        ("fault_rate_too_high", "The chosen answer wins more often than chance"),
        ("fault_collapse", "Chosen answers stay likely"),
        ("fault_overfit", "Held-out rows follow"),
    ],
)
def test_a_run_with_a_fault_in_its_flags_or_data_shows_it(name, rule):
    assert rule in faults(read(name))


def scaled(name, factors):
    """Multiply a curve by one factor per entry, given a function of the share of the run that is done."""

    def plant(entries):
        for at, entry in enumerate(entries):
            if name in entry:
                entry[name] *= factors(at / (len(entries) - 1))

    return plant


def put(name, value, begin=0.0, end=1.0):
    """Set a curve from one share of the run to another."""

    def plant(entries):
        for at, entry in enumerate(entries):
            if begin <= at / (len(entries) - 1) <= end:
                entry[name] = value(entry.get(name)) if callable(value) else value

    return plant


def spike(name, factor, share=0.7):
    def plant(entries):
        entry = entries[round(share * (len(entries) - 1))]
        entry[name] = entry[name] * factor

    return plant


def drop(name, begin):
    def plant(entries):
        for entry in entries[round(begin * len(entries)) :]:
            entry.pop(name, None)

    return plant


def each(*plants):
    def plant(entries):
        for one in plants:
            one(entries)

    return plant


def rewards_collapse(entries):
    """Both answers fall together behind the middle of the run."""
    for at, entry in enumerate(entries):
        fall = 12 * max(0, at / len(entries) - 0.4)
        entry["rewards/chosen"] -= fall
        entry["rewards/rejected"] -= fall


def margin_lost(entries):
    for at, entry in enumerate(entries):
        if at > 0.6 * len(entries):
            entry["rewards/rejected"] = entry["rewards/chosen"] - 0.1 * entry["rewards/margins"]
            entry["rewards/margins"] *= 0.1


def evaluations(*losses):
    def plant(entries):
        entries += [{"step": entries[-1]["step"], "eval_loss": loss} for loss in losses]

    return plant


PLANTED = {
    "loss leaps": (spike("loss", 5), "The loss does not leap"),
    "loss leaps early": (spike("loss", 6, 0.3), "The loss does not leap"),
    "loss diverges": (scaled("loss", lambda t: math.exp(4 * max(0, t - 0.5))), "The loss does not come back up"),
    "loss flat": (put("loss", 0.7), "The loss falls"),
    "loss zero": (put("loss", 0.0, 0.3), "The loss falls"),
    "loss NaN": (put("loss", float("nan"), 0.6), "Every figure is a number"),
    "reward NaN once": (put("rewards/chosen", float("nan"), 0.5, 0.53), "Every figure is a number"),
    "loss null": (put("loss", None, 0.5, 0.55), "Every figure is a number"),
    "loss infinite": (put("loss", float("inf"), 0.9, 0.95), "Every figure is a number"),
    "rewards missing": (drop("rewards/margins", 0.6), "No curve breaks off"),
    "rewards never there": (each(drop("rewards/margins", 0), drop("rewards/chosen", 0)), "No curve breaks off"),
    "margin of another run": (scaled("rewards/margins", lambda t: 1 + t), "Figures agree with each other"),
    "rate zero": (put("learning_rate", 0.0), "The learning rate is on"),
    "rate zero behind the middle": (put("learning_rate", 0.0, 0.5), "The learning rate is on"),
    "rate far below its flag": (scaled("learning_rate", lambda t: 0.01), "The learning rate follows its schedule"),
    "rate leaps": (spike("learning_rate", 10), "The learning rate follows its schedule"),
    "gradient explodes": (scaled("grad_norm", lambda t: math.exp(6 * t)), "The gradient keeps its size"),
    "gradient leaps": (spike("grad_norm", 100), "The gradient keeps its size"),
    "no gradient": (put("grad_norm", 0.0), "There is a gradient"),
    "gradient vanishes": (scaled("grad_norm", lambda t: math.exp(-14 * t)), "There is a gradient"),
    "chosen collapses": (rewards_collapse, "Chosen answers stay likely"),
    "margin is lost": (margin_lost, "What was learned stays"),
    "accuracy is lost": (scaled("rewards/accuracies", lambda t: 1 - 0.4 * t), "What was learned stays"),
    "accuracy below chance": (put("rewards/accuracies", 0.35), "The chosen answer wins more often than chance"),
    "accuracy at chance": (put("rewards/accuracies", 0.5), "The chosen answer wins more often than chance"),
    "margin flat": (put("rewards/margins", 0.001), "Answers are told apart"),
    "margin negative": (scaled("rewards/margins", lambda t: -1), "Answers are told apart"),
    "NLL rises": (scaled("nll_loss", lambda t: 1 + 3 * t), "The NLL of chosen answers does not rise"),
    "KL grows": (put("kl/chosen", lambda v: 6.0, 0.5), "The policy stays near its reference"),
    "KL falls": (put("kl/chosen", lambda v: -2.0, 0.5), "The policy stays near its reference"),
    "margin without end": (
        scaled("rewards/margins", lambda t: math.exp(7 * t)),
        "The policy stays near its reference",
    ),
    "reward leaps": (spike("rewards/margins", 100), "Rewards do not leap"),
    "lengths run away": (scaled("lengths/chosen", lambda t: math.exp(2 * t)), "Answers keep their length"),
    "lengths double": (scaled("lengths/rejected", lambda t: 1 + t), "Answers keep their length"),
    "lengths collapse": (scaled("lengths/chosen", lambda t: 1 - 0.8 * t), "Answers keep their length"),
    "length is preferred": (put("lengths/preferred", lambda v: v + 14.0, 0.6), "The policy does not prefer length"),
    "overfit": (evaluations(0.6, 0.5, 0.55, 0.8), "Held-out rows follow"),
    "rows learned by heart": (scaled("epoch", lambda t: 40), "Rows come a few times"),
    "slower and slower": (scaled("tokens_per_second", lambda t: math.exp(-4 * t)), "Throughput holds"),
    "memory grows": (scaled("peak_memory_gib", lambda t: 1 + 3 * t), "Memory holds"),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", ["healthy_0", "healthy_1", "healthy_small_batches"])
def test_a_planted_fault_shows_with_its_reason(name, planted):
    plant, rule = PLANTED[planted]
    run = read(name)
    entries = copy.deepcopy(training(run))
    plant(entries)
    views = judge_run(Evidence(entries, run.settings))
    assert rule in [view.rule.name for view in views if view.sign is Sign.FAULT]
    [found] = [view for view in views if view.rule.name == rule]
    assert found.value and found.rule.reason and found.rule.cure
    assert views[0].sign is Sign.FAULT  # faults come first


def test_skipped_rows_and_books_that_do_not_add_up():
    run = read("healthy_0")
    for ledger, is_fault in (
        ({"used": 90, "skipped": 10}, True),
        ({"used": 990, "skipped": 10}, False),
        ({"used": 100, "skipped": 0, "adds_up": False}, True),
        ({"used": 100, "skipped": 0, "adds_up": True}, False),
    ):
        assert ("Rows can be used" in faults(Evidence(run.entries, run.settings, ledger))) is is_fault


def test_a_gradient_that_is_lost_in_float16_is_no_fault():
    entries = [dict(entry) for entry in training(read("healthy_0"))]
    entries[0]["grad_norm"] = float("inf")
    assert "Every figure is a number" in faults(Evidence(entries))
    assert "Every figure is a number" not in faults(Evidence(entries, {"training": {"fp16": True}}))


def test_a_rate_far_from_its_flag_is_no_fault_where_a_later_start_changed_the_flag():
    run = read("healthy_0")
    entries = [dict(entry) for entry in training(run)]
    scaled("learning_rate", lambda t: 0.01)(entries)
    settings = {**run.settings, "starts": [{"changed": {"--learning_rate": [1e-5, 1e-3]}}]}
    assert "The learning rate follows its schedule" not in faults(Evidence(entries, settings))


def test_curves_without_a_break_are_counted():
    run = read("healthy_0")
    [view] = [view for view in judge_run(run) if view.rule.name == "No curve breaks off"]
    assert view.value == f"{len(training(run))} entries"


def test_too_little_is_not_judged():
    views = judge_run(Evidence(training(read("healthy_0"))[:3]))
    assert {view.sign for view in views} == {Sign.FINE, Sign.UNKNOWN}
    assert any(view.value == "too little to judge: 3 entries, 10 are needed" for view in views)


def test_a_log_of_another_trainer_is_judged_by_what_it_has():
    entries = [{"step": k, "loss": 2 - 0.01 * k + 0.001 * (k % 3), "learning_rate": 1e-5} for k in range(1, 60)]
    assert faults(Evidence(entries)) == []
    assert [view.rule.name for view in judge_run(Evidence(entries))] == [
        *("Every figure is a number", "No curve breaks off", "The learning rate is on"),
        *("The learning rate follows its schedule", "The loss does not leap", "The loss does not come back up"),
        "The loss falls",
    ]


def test_rules_have_names_of_their_own_and_say_everything():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.looks_at and rule.threshold and rule.reason.endswith(".") and rule.cure for rule in RULES)


def test_measures_by_hand():
    sides = ends(np.array([1.0, 3, 5, 5, 5, 5, 5, 5, 7, 7]))
    assert (sides.begin.mean, sides.begin.error, sides.end.mean, sides.rise) == (2.0, 1.0, 7.0, 5.0)
    assert rolling_mean(np.array([1.0, 2, 3, 4, 5, 6])).tolist() == pytest.approx([3, 4])
    assert comeback(np.array([5.0, 5, 5, 5, 5, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9])) == pytest.approx((1, 9))
    assert noise(np.array([1.0])) == 0 and noise(np.array([0.0, 1, 0, 1])) == pytest.approx(1.4826 / 2**0.5)
    assert outliers(np.array([1.0, 1.1, 1, 1.1, 1, 9, 1, 1.1, 1, 1.1])) == [(5, 1.0)]


LOOK = {
    "step": 0,
    "eval_accuracy": 0.5,
    "eval_accuracy_change": 0.0,
    "eval_accuracy_change_low": 0.0,
    "eval_accuracy_change_high": 0.0,
    "eval_accuracy_p": 1.0,
    "eval_accuracy_level": 0.01,
}
FALL = LOOK | {"step": 90, "eval_accuracy": 0.36, "eval_accuracy_change": -0.14, "eval_accuracy_p": 0.001}
GAP = {"right_change": -2.0, "wrong_change": -1.5, "gap_change": -0.5, "gap_change_low": -0.9, "gap_change_high": -0.1}


def held_out(*looks):
    """What the rules on held-out answers find in a healthy run with these looks: name -> (sign, value)."""
    healthy = read("healthy_0")
    views = judge_run(Evidence([*healthy.entries, *looks], healthy.settings))
    return {view.rule.name: (view.sign, view.value) for view in views if "eld-out answers" in view.rule.name}


def test_held_out_answers_that_fell_are_a_fault_whatever_the_other_curves_say():
    sign, value = held_out(LOOK, FALL)["Held-out answers stay right"]
    assert sign is Sign.FAULT
    assert (
        value.startswith("36.0 % right at step 90, -14.0 points since step 0")
        and "p = 0.001, limit of a look 0.01" in value
    )
    chance = FALL | {"eval_accuracy_p": 0.02}  # above the level of a look
    assert held_out(LOOK, chance)["Held-out answers stay right"][0] is Sign.FINE
    assert held_out(LOOK)["Held-out answers stay right"][0] is Sign.UNKNOWN
    assert held_out() == {}


@pytest.mark.parametrize(("high", "sign"), [(-0.1, Sign.FAULT), (0.1, Sign.FINE)])
def test_right_answers_that_lose_against_wrong_ones_are_a_fault(high, sign):
    gap = {f"eval_logps/{name}": value for name, value in (GAP | {"gap_change_high": high}).items()}
    found, value = held_out(LOOK | gap, LOOK | gap)["Right held-out answers hold against wrong ones"]
    assert found is sign
    assert "right ones -2.00 nats, wrong ones -1.50" in value and "reward accuracy of the trained pairs" in value
