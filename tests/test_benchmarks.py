"""The training benchmarks on toy sizes: forms agree, FLOPs are counted right, every command runs."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    "machine",
    "training_model",
    "training_flops",
    "training_forms",
    "training_runs",
    "bench_training",
    "bench_training_memory",
    "bench_lora_memory",
    "bench_recomputation",
    "bench_gpu",
    "simulate_ranks",
    "plot_training",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name, imported as their scripts import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def steps(benchmarks, tmp_path_factory):
    """Function from a form and what its pairs share to its step on the toy size, and its work."""
    forms, model = benchmarks["training_forms"], benchmarks["training_model"]
    forms.SCRATCH = tmp_path_factory.mktemp("scratch")
    size = model.SIZES["toy"]

    def made(form, **shared):
        shape = model.Shape(2, 7, 12, pairs=2, tile_tokens=size.tile_tokens, **shared)
        step = forms.FORMS[form](size, shape, CPU, torch.float32)
        return step, *forms.form_work(form, shape)

    return made


def gradient_norm(model):
    return sum(parameter.grad.double().square().sum() for parameter in model.parameters()).sqrt().item()


SHARED = pytest.mark.parametrize(
    "shared", [{}, {"same_prompt": True}, {"same_image": True}], ids=["apart", "grouped", "images"]
)


@SHARED
def test_all_forms_have_one_loss_and_one_gradient(benchmarks, steps, shared):
    figures = []
    for form in benchmarks["training_forms"].FORMS:
        step, *_ = steps(form, **shared)
        figures.append((step(), gradient_norm(step.model)))
    losses, norms = np.array(figures).T
    assert np.ptp(losses) < 1e-5 and np.ptp(norms) < 1e-5 * norms[0]


@pytest.mark.parametrize("form", ["original", "ours_model_reference", "ours_cached_reference"])
@SHARED
def test_counted_flops_are_those_of_torch(benchmarks, steps, form, shared):
    """Without attention, which torch counts as full rectangles where it counts it at all."""
    size = benchmarks["training_model"].SIZES["toy"]
    step, work, with_reference = steps(form, **shared)
    with FlopCounterMode(display=False) as counter:
        step()
    counted = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    without_keys = replace(work, seen=0).step(size, with_reference=with_reference)
    in_tiles = 4 * (size.patches + 1) ** 2 * size.vision_width * size.vision_layers * work.tiles
    assert counted == without_keys - (4 + with_reference) * in_tiles


def test_seen_keys_are_those_of_the_layout(benchmarks):
    """Packed, 1 prompt of 66 tokens with answers of 2 and 3: 65 causal, then 2 and 3 branch rows that see 65 more."""
    shape = benchmarks["training_model"].Shape(2, 2, 3, tile_tokens=1)
    work = benchmarks["training_flops"].packed_work(shape, prompts=1)
    assert (work.tokens, work.scored) == (65 + 5, 5)
    assert work.seen == 65 * 66 // 2 + (2 * 65 + 3) + (3 * 65 + 6)


def test_questions_about_an_image_are_counted_by_what_they_add(benchmarks):
    """2 tiles of one token behind 32 of text; two questions of 31 in front of answers of 2 and 3, the image once."""
    shape = benchmarks["training_model"].Shape(2, 2, 3, pairs=2, tile_tokens=1, same_image=True)
    work = benchmarks["training_flops"].packed_work(shape, prompts=2)
    assert (work.tiles, work.tokens, work.scored) == (2, 34 + 2 * 31 + 2 * 5, 10)
    # as two prompts of 65 without the 34 positions of the second image
    assert work.seen == 2 * (65 * 66 // 2 + (2 * 65 + 3) + (3 * 65 + 6)) - 34 * 35 // 2


def test_trl_in_the_form_of_a_gpu_scores_labelled_positions_alone(benchmarks, steps):
    """What it saves are whole products of the LM head at all positions of 4 rows but the 38 with a label."""
    size = benchmarks["training_model"].SIZES["toy"]
    counted = {}
    for form in ("trl", "trl_gpu_form"):
        step, *_ = steps(form)
        with FlopCounterMode(display=False) as counter:
            step()
        counts = counter.get_flop_counts()["Global"]
        counted[form] = sum(flops for op, flops in counts.items() if "attention" not in str(op))
    rows, labels, length = 4, 2 * (7 + 12), 64 + 2 * size.tile_tokens + 12
    products, rest = divmod(counted["trl"] - counted["trl_gpu_form"], (rows * (length - 1) - labels) * size.head_flops)
    assert products >= 3 and rest == 0  # of policy and reference


def test_runs_are_compared_fill_included(benchmarks):
    runs = benchmarks["training_runs"]
    figures = runs._figures([(4.0, 12.0), (8.0, 8.0), (6.0, 16.0)], 0.5)  # of 4 pairs: medians 6 and 12
    assert figures == {"fill": 1.5, "epoch": 3.0, "run_1": 4.5, "run_3": 3.5, "loss": 0.5}
    forms = {"original": {"run_1": 9.0, "run_3": 9.0}} | dict.fromkeys(runs.COMPARED, figures)
    gflop = {"original": {"run_1": 6.0, "run_3": 6.0}} | dict.fromkeys(runs.COMPARED, {"run_1": 2.0, "run_3": 1.5})
    compared = runs.compare_runs(forms, gflop)["cache / original"]
    assert (compared["bound_1"], compared["bound_3"]) == (3.0, 4.0)
    assert compared["epochs_1"] == 2.0 and compared["epochs_3"] == pytest.approx(9 / 3.5) and compared["is_reached"]


def test_work_of_runs_is_that_of_fill_and_steps(benchmarks):
    """A filled cache costs a run of one epoch what a reference model in memory does."""
    model, runs, forms = benchmarks["training_model"], benchmarks["training_runs"], benchmarks["training_forms"]
    size, shape = model.SIZES["cpu"], model.Shape(7, 250, 400)
    work, _ = forms.form_work("ours_model_reference", shape)
    with_model, cached = (work.step(size, with_reference=reference) for reference in (True, False))
    assert runs.run_flops("cache", size, shape, 1) == with_model
    assert runs.run_flops("cache", size, shape, 3) == pytest.approx(cached + (with_model - cached) / 3)
    flops = [runs.run_flops(name, size, shape, 1) for name in ("original", *runs.COMPARED)]
    bounds = [flops[0] / other for other in flops[1:]]
    assert bounds == pytest.approx([1.906, 2.179, 4.695, 4.621], abs=0.01)


def test_runs_over_the_same_rows_have_the_same_loss(benchmarks, tmp_path, monkeypatch):
    model, runs = benchmarks["training_model"], benchmarks["training_runs"]
    monkeypatch.setattr(benchmarks["training_forms"], "SCRATCH", tmp_path)
    made = runs.make_runs(model.SIZES["toy"], model.Shape(1, 7, 12))
    losses = {}
    for name, run in made.items():
        if run.fill is not None:
            run.fill()
        losses[name] = run.epoch()
    assert losses["original"] == pytest.approx(losses["cache"], abs=1e-5)
    one, other = (losses[f"4 pairs per prompt, {form}"] for form in ("cache", "grouped"))
    assert one == pytest.approx(other, abs=1e-5)
    assert len({round(loss, 4) for loss in losses.values()}) == 3


def test_bounds_of_the_real_model_are_those_asked_for(benchmarks):
    """InternVL2.5-2B at 7 tiles: 2.44 and 1.95 over the original, 2.33 over TRL; 4 tiles, long: 2.16, 1.73, 2.09."""
    model, forms = benchmarks["training_model"], benchmarks["training_forms"]

    def gflop(form, shape):
        work, with_reference = forms.form_work(form, shape)
        return work.step(model.SIZES["2B"], with_reference=with_reference)

    for shape, expected in (
        (model.Shape(7, 250, 400), (2.44, 1.95, 2.33)),
        (model.Shape(4, 500, 700), (2.16, 1.73, 2.09)),
    ):
        original, cached = gflop("original", shape), gflop("ours_cached_reference", shape)
        bounds = original / cached, original / gflop("ours_model_reference", shape), gflop("trl", shape) / cached
        assert bounds == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("part", "dtype"), [("table", "bfloat16"), ("run", "float32"), ("sweeps", "float32"), ("profile", "float32")]
)
def test_every_part_runs_and_writes_its_figures(benchmarks, steps, tmp_path, monkeypatch, part, dtype):
    bench = benchmarks["bench_training"]
    monkeypatch.setattr(benchmarks["machine"], "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(benchmarks["training_forms"], "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(bench, "VOCABULARIES", (100, 200))
    bench.main(["--size", "toy", "--rounds", "1", "--part", part, "--dtype", dtype])
    [path] = tmp_path.glob("*.json")
    figures = json.loads(path.read_text())
    if part == "table":
        grouped = figures["shapes"][0]["ratios"]["ours_grouped / original"]
        assert grouped["speedup"] > 0 and grouped["share"] == pytest.approx(
            grouped["speedup"] / grouped["bound"], rel=1e-3
        )
    elif part == "run":
        of_cache = figures["ratios"]["cache / original"]
        assert set(of_cache) == {"epochs_1", "epochs_3", "bound_1", "bound_3", "aim_of_one", "is_reached"}
    elif part == "sweeps":
        assert [point["point"] for point in figures["vocabulary"]] == ["100", "200"]
    else:
        assert 0.5 < sum(figures["share_of_time"]["trl"].values()) <= 1


def gpu_commands():
    """The words of each benchmark that `make gpu` runs."""
    lines = (BENCHMARKS.parent / "Makefile").read_text().splitlines()
    return [line.partition("bench_training.py ")[2].split() for line in lines if "bench_training.py" in line]


@pytest.mark.parametrize("words", gpu_commands(), ids=" ".join)
def test_what_is_measured_on_a_gpu_runs_on_a_cpu(benchmarks, tmp_path, monkeypatch, words):
    """As users train: float32 under autocast, or bfloat16, with clipping and update, one form after the other."""
    bench = benchmarks["bench_training"]
    asked = bench.parse_arguments(words)
    assert asked.device == "cuda" and not asked.bare and asked.size in ("2B", "8B")
    monkeypatch.setattr(benchmarks["machine"], "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(bench, "run_in_turns", bench.run_apart)
    small = ["--device", "cpu", "--size", "toy", "--rounds", "1", "--dtype", asked.dtype, "--bare", "False"]
    bench.main([*small, "--name", "dry", "--forms", *asked.forms])
    figures = json.loads((tmp_path / "dry.json").read_text())
    forms = figures["shapes"][0]["forms"]
    assert set(asked.forms) <= set(forms)
    losses = [figure["loss"] for name, figure in forms.items() if name != "ours_grouped"]
    assert np.ptp(losses) < 0.05  # bfloat16, after the same steps


def test_a_trained_step_clips_and_updates(benchmarks, steps):
    """The first step of AdamW moves a weight by the learning rate, less its decay, whatever its gradient."""
    step, *_ = steps("ours_cached_reference")
    before = step.model.language_model.lm_head.weight.detach().clone()
    benchmarks["training_forms"].TrainedStep(step, CPU, autocast=False)()
    moved = (step.model.language_model.lm_head.weight - before * (1 - 1e-6 * 0.05)).abs()
    assert moved.max().item() == pytest.approx(1e-6, rel=0.05)
    assert step.model.language_model.lm_head.weight.grad is None


def test_recomputation_is_compared_on_rows_that_fit_and_rows_that_do_not(benchmarks, tmp_path, monkeypatch):
    bench, size = benchmarks["bench_recomputation"], benchmarks["training_model"].SIZES["toy"]
    monkeypatch.setattr(benchmarks["training_forms"], "SCRATCH", tmp_path)
    short, long = bench.compare(replace(size, vision_layers=2, layers=2), rounds=1)
    assert short["recomputed_layers"] == {"True": 4, "auto": 0, "False": 0}
    assert long["recomputed_layers"] == {"True": 4, "auto": 2, "False": 0}
    for row in (short, long):
        assert len({round(loss, 5) for loss in row["losses"].values()}) == 1


def test_autocast_is_not_bare(benchmarks, capsys):
    with pytest.raises(SystemExit):
        benchmarks["bench_training"].parse_arguments(["--dtype", "autocast"])
    assert "--bare False" in capsys.readouterr().err


def test_attention_and_whole_steps_are_measured_on_a_cpu(benchmarks, tmp_path, monkeypatch):
    def once(function, device, repeats=1):
        function()
        return 1.0

    monkeypatch.setattr(benchmarks["machine"], "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks["training_forms"], "SCRATCH", tmp_path)
    monkeypatch.setattr(benchmarks["bench_gpu"], "seconds_of", once)
    benchmarks["bench_gpu"].main(["--device", "cpu"])
    figures = json.loads((tmp_path / "gpu_cpu.json").read_text())
    assert list(figures["steps"]) == ["toy, float32", "toy, bfloat16"]
    # 40 causal positions, then 5 and 9 that see 40 more: 4 * 4 heads * 64 FLOPs each
    seen = 40 * 41 / 2 + 5 * 40 + 5 * 6 / 2 + 9 * 40 + 9 * 10 / 2
    assert figures["attention"]["toy, toy"]["groups"]["forward_tflops"] == pytest.approx(
        4 * seen * 4 * 64 / 1e12, rel=1e-3
    )


def test_shares_compare_time_and_work_of_a_pair(benchmarks):
    figures = {
        "original": {"seconds": 6.0, "gflop_per_pair": 30.0},
        "ours_grouped": {"seconds": 8.0, "gflop_per_pair": 6.0},
    }
    compared = benchmarks["bench_training"].ratios(figures, {"original": 1, "ours_grouped": 4}, "seconds")
    assert compared == {"ours_grouped / original": {"speedup": 3.0, "speedup_wall": 3.0, "bound": 5.0, "share": 0.6}}


@pytest.mark.integration
def test_memory_is_measured_in_a_process_of_its_own(benchmarks):
    shape = benchmarks["training_model"].Shape(7, 250, 400)
    figures = benchmarks["bench_training_memory"].measure("original", shape, 8_000, "toy")
    # embedding and LM head, and several tensors of logits, 35 MiB each: two rows of 576 tokens, 8,000 words
    assert figures["gradients_mib"] > 2 * 8_000 * 512 * 4 / 2**20
    assert figures["peak_mib"] > figures["gradients_mib"] + 2 * 35


def test_the_length_of_a_row_is_that_of_prompt_and_longer_answer(benchmarks, monkeypatch):
    bench = benchmarks["bench_training_memory"]
    monkeypatch.setattr(bench, "measure", lambda *asked: {"peak_mib": float(asked[1].tiles)})
    points = bench.length("cpu")
    assert [point["tokens"] for point in points] == [64 + 256 * tiles + 400 for tiles in (8, 16, 32)]
    assert [point["peak_mib"] for point in points] == [8, 16, 32]


@pytest.mark.integration
def test_the_memory_of_adapters_is_counted_by_parts(benchmarks):
    bench, build = benchmarks["bench_lora_memory"], benchmarks["training_model"].build_model
    figures = bench.measure("lora", "toy")
    weights = sum(p.numel() for p in build(benchmarks["training_model"].SIZES["toy"]).parameters())
    assert figures["base_weights_mib"] == pytest.approx(4 * weights / 2**20, abs=0.06)
    assert figures["reference_mib"] == 0 and figures["peak_mib"] > figures["activations_mib"] > 0


def test_a_step_waits_for_the_fullest_slot_of_each_turn(benchmarks):
    costs = np.array([5.0, 1.0, 2.0, 4.0])
    assert benchmarks["simulate_ranks"].step_time(costs, [[0], [1], [2], [3]], ranks=2) == 5 + 4
    assert benchmarks["simulate_ranks"].step_time(costs, [[0, 1], [2, 3]], ranks=2) == 6


def test_balancing_by_cost_uses_more_of_the_ranks_than_by_text_and_that_than_none(benchmarks):
    forms = benchmarks["simulate_ranks"].simulate(ranks=8, pairs=256, steps=2)["forms"]
    by = {name: figures["efficiency"] for name, figures in forms.items()}
    assert by["packed"] < by["balanced_by_text"] < by["balanced"] <= 1
    assert by["balanced"] > 0.95
    assert forms["original"]["speedup"] == 1


def test_groups_gain_where_ranks_have_several_pairs_and_lose_nowhere(benchmarks):
    simulate = benchmarks["simulate_ranks"].simulate_groups
    few = simulate("4 pairs", 8, 0, 1)["forms"]["prompt"]
    assert few["gain"] > 2 and few["is_kept"] and few["runs"]["3"] > few["runs"]["1"]
    assert simulate("4 pairs", 8, 16_384, 1)["forms"]["prompt"]["most_tokens"] <= 16_384
    for kind in ("4 pairs", "15 pairs"):
        many = simulate(kind, 256, 0, 1)["forms"]["prompt"]
        assert many["gain"] >= 1 or not many["is_kept"]


def test_a_drawn_mixture_has_the_published_means(benchmarks):
    of = benchmarks["simulate_ranks"].describe_pairs
    assert of("4 pairs")["pairs_per_prompt"] == 4
    assert of("MMPR")["pairs_per_prompt"] == pytest.approx(3.06, abs=0.1)
    mean = (2.5 * (300.0 + 350.5) + 0.75 * (211.4 + 171.2)) / 3.25 / 2  # of all answers
    assert of("MMPR")["answer_tokens"] == pytest.approx(mean, rel=0.03)
    assert of("MMPR 400k")["pairs_per_prompt"] < 1.6  # single pairs are drawn, not prompts


def test_the_picture_is_drawn_from_results(benchmarks, tmp_path):
    plot = benchmarks["plot_training"]
    forms = [*benchmarks["training_forms"].FORMS, "ours_grouped"]
    figures = {"seconds": 2.0, "cpu_seconds": 1.0, "pairs_per_second": 0.5, "gflop_per_pair": 3.0, "peak_mib": 100.0}
    point = {"point": "7", "shape": {"tiles": 7, "chosen": 2, "rejected": 3}, "forms": dict.fromkeys(forms, figures)}
    efficiency = dict.fromkeys(("original", "packed", "balanced_by_text", "balanced"), {"efficiency": 0.5})
    results = {
        "training": {"shapes": [point]},
        "training_sweeps": {"tiles": [point], "answer_length": [point]},
        "training_memory": {"goal": {**point, "vocabulary": 10}},
        "training_memory_growth": {"growth": {"tiles": [{"value": 7, **dict.fromkeys(forms, 100.0)}]}},
        "simulate_ranks": {"rows": [{"pairs_per_step": 1024, "ranks": 8, "forms": efficiency}]},
    }
    with pytest.raises(FileNotFoundError, match="training_sweeps"):
        plot.main(["--results", str(tmp_path)])
    for name, content in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    plot.main(["--results", str(tmp_path), "--out", str(tmp_path / "training.png")])
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert plot.per_pair(point, "original", "cpu_seconds") == 1.0


def test_the_table_of_the_readme_is_that_of_the_results():
    """`python benchmarks/training_table.py` prints it anew."""
    words = [sys.executable, str(BENCHMARKS / "training_table.py")]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    readme = [line.strip() for line in (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8").splitlines()]
    start = readme.index(printed.splitlines()[0])
    assert readme[start : start + len(printed.splitlines())] == printed.splitlines()
