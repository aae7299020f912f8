"""The study's figures: intervals by hand, arms compared seed by seed, stages that are done only once."""

import json

import pytest

from benchmarks.machine import RESULTS
from benchmarks.study.arms import ARMS, CORE
from benchmarks.study.measures import probe
from benchmarks.study.pairs import SOURCES
from benchmarks.study.report import (
    CLAIMS,
    extended_table,
    plot_accuracies,
    plot_curves,
    read_results,
    tables,
    tables_of,
    verdict_of,
)
from benchmarks.study.settings import Settings, once
from benchmarks.study.statistics import differences, mean_interval, summarize
from internvl_chat.training import parse_arguments

FIGURES = {"cot_sampled": 0.0, "direct": 95.0, "words": 10.0, "kl": 0.1}


def seed(**cot):
    return {arm: {**FIGURES, "cot": value, "cot_minus_direct": value - 95.0} for arm, value in cot.items()}


def test_an_interval_is_that_of_student():
    # mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.303
    assert mean_interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "interval": [-0.484, 4.484]}
    assert mean_interval([5.0]) == {"mean": 5.0, "interval": None}


def test_arms_are_compared_seed_by_seed():
    runs = {"0": seed(base=50, mpo=70, sft=60), "1": seed(base=40, mpo=61, sft=50), "2": seed(base=60, mpo=79)}
    assert differences(runs, "mpo", "base") == [20, 21, 19]
    assert differences(runs, "mpo", "sft") == [10, 11]  # of the two seeds that have both
    assert mean_interval(differences(runs, "mpo", "base"))["interval"] == [17.516, 22.484]  # narrower than the means'
    found = summarize(runs)
    assert found["mpo"]["cot"] == mean_interval([70, 61, 79]) and found["sft"]["seeds"] == 2


def test_what_an_interval_says():
    assert verdict_of([0.1, 3.0]) == "holds"
    assert verdict_of([-3.0, -0.1]) == "the opposite holds"
    assert verdict_of([-1.0, 2.0]) == "not decided"
    assert verdict_of(None) == "one seed only"


def test_the_tables_say_plainly_what_does_not_hold():
    runs = {str(n): seed(base=50 + n, sft=55, dpo=40, mpo=54 + n) for n in range(3)}
    for n in range(3):
        runs[str(n)]["mpo"]["against"] = {"base": {"difference": 4.0, "p": 0.04 if n else 0.06}}
        runs[str(n)]["dpo"]["against"] = {"base": {"difference": -11.0, "p": 0.001}}
    figures = {"runs": runs, "summary": summarize(runs)}
    measures, lines, _ = tables(figures, figures)
    assert [line.split(" | ")[0] for line in measures[2:]] == ["| SFT on chosen", "| MPO", "| base", "| DPO"]
    assert "| MPO is above its base | +4.0 [+4.0, +4.0] | holds | 2 of 3 |" in lines
    assert "| MPO is above SFT on the chosen answers | +0.0 [-2.5, +2.5] | not decided |  |" in lines
    assert "| DPO alone falls below the base | +11.0 [+8.5, +13.5] | holds | 3 of 3 |" in lines
    assert not any("DPO+" in line for line in lines)  # was not run


def test_extended_arms_are_compared_with_mpo_on_the_seeds_that_have_both():
    runs = {"0": seed(base=50, mpo=70, ipo=60), "1": seed(base=50, mpo=71, ipo=63), "2": seed(base=50, mpo=90)}
    best, ipo, base = extended_table({"runs": runs, "summary": summarize(runs)})[2:]
    # differences -10 and -8: mean -9, standard error 1, t(0.975, 1) = 12.706
    assert ipo == "| IPO | 2 | 61.5 | 0.00 |  | 95.0 | 10.0 | 0.10 | -9.0 [-21.7, +3.7] | +0.0 [+0.0, +0.0] |"
    assert best.startswith("| MPO | 3 | 77.0 ") and best.endswith("|  |  |") and base.startswith("| base | 3 |")


def test_plots_show_every_arm_and_curve():
    runs = {str(n): seed(base=50 + n, dpo=40, mpo=54 + n) for n in range(2)}
    [bars] = plot_accuracies(summarize(runs)).axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["DPO", "base", "MPO"]
    curves = {"mpo": {"step": [10, 20], "rewards/margins": [0.1, 0.2], "nll_loss": [1.0, 0.5]}}
    curves["sft"] = {"step": [10, 20], "rewards/margins": [], "nll_loss": [0.9, 0.4]}
    nll, _, _, margins = plot_curves(curves).axes
    assert [line.get_label() for line in nll.lines] == ["MPO", "SFT on chosen"]
    assert [list(line.get_ydata()) for line in margins.lines] == [[0.1, 0.2]]


def test_the_page_shows_the_committed_figures():
    page = (RESULTS.parents[1] / "docs" / "study.md").read_text(encoding="utf-8")
    shown = [*tables_of("study_five_tasks"), *tables(*read_results())]
    assert all("\n".join(table) in page for table in shown)


def test_every_arm_has_flags_that_the_trainer_takes(tmp_path):
    for arm in ARMS.values():
        flags = f"--model_name_or_path m --meta_path x --output_dir {tmp_path} {arm.flags}"
        assert parse_arguments(flags.split())[2].loss_mixture()
        assert arm.pairs in SOURCES and arm.start in ("", *ARMS)
    assert set(CORE) <= set(ARMS) and {claim.arm for claim in CLAIMS} <= {*ARMS, "base"}


def test_every_arm_has_files_of_its_own(tmp_path):
    settings = Settings(tmp_path, tmp_path, 1, 1, 1, 1, 1, 1e-4)
    runs = [settings.run_of(0, name) for name in ARMS]
    assert len({run.with_suffix(suffix) for run in runs for suffix in (".json", ".train.json")}) == 2 * len(ARMS)


def test_a_stage_is_done_once(tmp_path):
    calls = []
    for _ in range(2):
        found = once(tmp_path / "stage.json", lambda: calls.append(1) or {"figure": 3})
    assert calls == [1] and found["figure"] == 3 and found["seconds"] >= 0


def test_a_stage_that_failed_is_done_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        once(tmp_path / "stage.json", lambda: {"figure": 1 / 0})
    assert once(tmp_path / "stage.json", lambda: {"figure": 4})["figure"] == 4


def test_pairs_are_swapped_and_chosen_by_their_kind(tmp_path):
    settings = Settings(tmp_path, tmp_path, 1, 1, 1, 1, 1, 1e-4)
    pairs = tmp_path / "seed0" / "own" / "pairs"
    pairs.mkdir(parents=True)
    (tmp_path / "seed0" / "own.json").write_text("{}")  # sampled before
    meta = {}
    for kind in ("correctness", "format"):
        row = {"image": "a.png", "question": "q", "chosen": f"right {kind}", "rejected": "wrong"}
        (pairs / f"{kind}.jsonl").write_text(json.dumps(row) + "\n")
        meta[f"x_pairs_vqa_{kind}_rules"] = {"root": "images", "annotation": f"{kind}.jsonl", "length": 1}
    (pairs / "meta.json").write_text(json.dumps(meta))
    assert SOURCES["own"](settings, 0) == pairs / "meta.json"
    assert SOURCES["gold"](settings, 0) == tmp_path / "seed0" / "data" / "pairs.json"
    [name] = json.loads(SOURCES["correctness"](settings, 0).read_text())
    assert name == "x_pairs_vqa_correctness_rules"
    swapped = json.loads(SOURCES["swapped"](settings, 0).read_text())
    row = json.loads((pairs / swapped["x_pairs_vqa_format_rules"]["annotation"]).read_text())
    assert (row["chosen"], row["rejected"]) == ("wrong", "right format")


def test_what_is_seen_though_not_there():
    said = [("yes", "yes"), ("no", "yes"), ("no", "no"), ("no", "no")]
    rows = [{"answer": answer, "responses": [response]} for answer, response in said]
    assert probe(rows) == {"probe": 75.0, "hallucinated": pytest.approx(100 / 3)}
