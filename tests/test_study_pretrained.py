"""The study on a pretrained model: held-out sentences are held out, steps are judged by hand, stages are done once."""

import json
import re
from itertools import chain
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import RESULTS
from benchmarks.study.files import read_rows
from benchmarks.study_pretrained import other_data, stages
from benchmarks.study_pretrained.conditions import ARMS, FIRST, LONG, MODEL, PLAIN_LONG, STARTS, TOGETHER, TRAIN
from benchmarks.study_pretrained.data import (
    paragraphs,
    step_by_step,
    steps_of,
    write_asked,
    write_held_out,
    write_plain,
    write_taught,
    write_watched,
)
from benchmarks.study_pretrained.gather import gather, joined, seed_of
from benchmarks.study_pretrained.keyed import keyed, read_figures, stages_in
from benchmarks.study_pretrained.kinds import PLAIN_KINDS, TAUGHT, read_kinds
from benchmarks.study_pretrained.measures import measure_in_float32, measure_steps
from benchmarks.study_pretrained.other_data import read_questions, spread
from benchmarks.study_pretrained.pairs import KINDS, traits
from benchmarks.study_pretrained.problems import (
    NAMES,
    SPLITS,
    THINGS,
    Problem,
    Step,
    calculate,
    draw_many,
    draw_numbers,
    judge_steps,
    read_steps,
    solution_of,
)
from benchmarks.study_pretrained.report import (
    price_table,
    seed_table,
    sign_table,
    start_table,
    tables,
    watch_table,
)
from benchmarks.study_pretrained.rounding import last_saved, measure_rounding
from benchmarks.study_pretrained.settings import Sizes, Study
from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import load_model
from internvl_chat.training import parse_arguments
from tools.reasoning_data_pipeline.prompts.wording import unasked

STEPS = (Step(8, "+", 5, 13), Step(13, "-", 4, 9))
QUESTION = step_by_step("Anna has 8 pens.")


def pair(chosen, rejected, question=QUESTION):
    return {"question": question, "chosen": chosen, "rejected": rejected}


def test_held_out_problems_share_no_sentence_with_training():
    parts = [part for kind in read_kinds()["trained"].values() for part in kind.parts]
    said, held_out = ({*chain.from_iterable(getattr(part, use) for part in parts)} for use in ("said", "held_out"))
    assert all(len(part.said) > TAUGHT and len(part.held_out) >= 2 for part in parts)
    others = {*chain.from_iterable(part.said for kind in read_kinds()["held out"].values() for part in kind.parts)}
    assert not said & held_out and not (said | held_out) & others


def test_every_problem_is_told_with_the_numbers_of_its_steps():
    for split in SPLITS:
        for problem in draw_many("test", split, 60):
            assert "{" not in problem.text and all(step.is_true for step in problem.steps)
            known = {*problem.text.replace(",", " ").replace(".", " ").split(), *(str(s.result) for s in problem.steps)}
            assert {str(side) for step in problem.steps for side in (step.left, step.right)} <= known, problem


def test_the_same_name_draws_the_same_problems_and_none_twice():
    ten, five = draw_many("a", "asked", 10), draw_many("a", "asked", 5)
    assert ten[:5] == five and draw_many("b", "asked", 5) != five
    assert len({problem.text for problem in draw_many("a", "taught", 300)}) == 300


def test_sums_are_those_of_whole_numbers():
    assert [calculate(12, sign, 4) for sign in "+-*/"] == [16, 8, 48, 3]
    assert calculate(13, "/", 4) is None and calculate(13, "/", 0) is None


def test_numbers_are_drawn_until_every_step_gives_a_whole_number_in_range():
    class Drawn:
        """20 - 5 = 15 is no multiple of 4, and 3 - 5 is below 1; 17 - 5 = 12 is 4 threes."""

        numbers = iter([20, 5, 4, 3, 5, 4, 17, 5, 4])

        def randint(self, low, high):
            return next(self.numbers)

    numbers, steps = draw_numbers(read_kinds()["trained"]["share the rest"], Drawn())
    assert numbers == {"a": 17, "b": 5, "n": 4} and [*map(str, steps)] == ["17 - 5 = 12", "12 / 4 = 3"]


def test_larger_numbers_are_drawn_from_larger_ranges():
    """Three times [4, 20], [2, 12], [2, 12]: 60 + 36 is above 60 and below 180."""

    class Drawn:
        numbers = iter([(12, 60), (6, 36), (6, 36)])
        values = iter([60, 36, 6])

        def randint(self, low, high):
            assert (low, high) == next(self.numbers)
            return next(self.values)

    _, steps = draw_numbers(read_kinds()["trained"]["gain and lose"], Drawn(), 3)
    assert [*map(str, steps)] == ["60 + 36 = 96", "96 - 6 = 90"]


def test_steps_are_judged_true_and_right():
    assert solution_of(STEPS) == "8 + 5 = 13\n13 - 4 = 9\nFinal answer: 9"
    assert read_steps(solution_of(STEPS)) == [*STEPS]
    assert judge_steps("5 + 8 = 13\n13 - 4 = 9\nFinal answer: 9", STEPS) == (True, True)  # a sum turned round
    assert judge_steps("8 + 5 = 13\n4 - 13 = 9\nFinal answer: 9", STEPS) == (False, False)
    assert judge_steps("8 + 5 = 12\n12 - 4 = 8\nFinal answer: 8", STEPS) == (False, False)
    assert judge_steps("8 - 4 = 4\n4 + 5 = 9\nFinal answer: 9", STEPS) == (True, False)  # true, another way
    assert judge_steps("Final answer: 9", STEPS) == (False, False)


def test_shares_of_steps_are_of_first_answers():
    rows = [{"question": QUESTION, "responses": [text]} for text in (solution_of(STEPS), "8 + 5 = 13", "9")]
    found = measure_steps(rows, {"Anna has 8 pens.": STEPS})
    assert found == {"true_steps": pytest.approx(66.7, abs=0.1), "right_steps": pytest.approx(33.3, abs=0.1)}


def test_kinds_of_pair_by_hand():
    right, lucky = solution_of(STEPS), "8 - 4 = 4\n4 + 5 = 9\nFinal answer: 9"
    slip, two = "8 + 5 = 13\n13 + 4 = 17\nFinal answer: 17", "8 + 4 = 12\n12 - 4 = 8\nFinal answer: 8"
    rows = [pair(right, slip), pair(lucky, two), pair(right, two), pair(right, "13\n9\n9\nFinal answer: 9")]
    of_kind = {name: kind(rows, {"Anna has 8 pens.": STEPS}) for name, kind in KINDS.items()}
    assert of_kind["own"] == rows
    assert of_kind["right steps"] == [rows[0], rows[2], rows[3]]
    assert of_kind["one slip"] == rows[:1]
    assert of_kind["one a question"] == rows[:1]
    assert of_kind["swapped"][0] == pair(slip, right)
    assert {row["chosen"] for row in of_kind["gold"]} == {right}
    assert [*map(sorted, map(dict.values, of_kind["coin"]))] == [*map(sorted, map(dict.values, rows))]
    assert traits(rows, {"Anna has 8 pens.": STEPS}) == {
        "chosen_true": 100.0,
        "chosen_right": 75.0,
        "rejected_true_lines": 100.0,
    }
    many = [pair("good", "bad")] * 400
    assert 150 < sum(row["chosen"] == "bad" for row in KINDS["coin"](many, {})) < 250


def test_files_of_problems(tmp_path):
    sizes = Sizes(held_out=5, held_out_kinds=3, direct=2, paragraphs=4)
    write_taught(tmp_path, 8)
    write_asked(tmp_path, 6)
    write_held_out(tmp_path, sizes)
    taught, asked = read_rows(tmp_path / "taught.jsonl"), read_rows(tmp_path / "asked_en_prompts.jsonl")
    assert len(taught) == 10 and sum(row["chosen"].isdecimal() for row in taught) == 2  # every fourth as a number
    assert json.loads((tmp_path / "taught.json").read_text())["taught"]["length"] == 10
    held_out = read_rows(tmp_path / "held_out_en_prompts.jsonl")
    assert [row["task"] for row in held_out] == ["templates"] * 5 + ["kinds"] * 3
    assert read_rows(tmp_path / "held_out_direct.jsonl")[1]["answer"] == held_out[1]["answer"]
    assert [*map(str, steps_of(tmp_path / "asked_en_prompts.jsonl")[asked[0]["question"]])] == asked[0]["steps"]
    assert all(300 <= len(text) <= 600 for text in paragraphs(4)) and len(read_rows(tmp_path / "text.jsonl")) == 4


def test_a_run_is_watched_on_questions_that_were_not_asked(tmp_path, monkeypatch):
    texts = {"asked": ["a", "b"], "watched": ["a", "c", "d", "e"]}

    def draw(name, split, number):
        return [Problem("kind", text, STEPS) for text in texts[name][:number]]

    monkeypatch.setattr("benchmarks.study_pretrained.data.draw_many", draw)
    write_watched(tmp_path, Sizes(asked=2, watched=2))
    assert [row["question"] for row in read_rows(tmp_path / "watched_en_prompts.jsonl")] == ["c", "d"]


def test_plain_questions_have_one_template_a_kind_and_one_use(tmp_path):
    write_plain(tmp_path, "plain", Sizes(taught=40, asked=30, watched=20, held_out=25, direct=5, paragraphs=2))
    files = [f"{use}_en_prompts.jsonl" for use in ("asked", "watched", "held_out")]
    questions = [[row["question"] for row in read_rows(tmp_path / file)] for file in files]
    assert [len(one) for one in questions] == [30, 20, 25]
    worked = {unasked(row["question"])[0] for row in read_rows(tmp_path / "taught.jsonl")}
    assert len(worked - {*chain.from_iterable(questions)}) == 40 + 10  # every fourth also to be answered as a number
    assert len({*chain.from_iterable(questions)}) == 75
    without = {re.sub(rf"\d+|{'|'.join(NAMES + THINGS)}", "_", text) for text in questions[0]}
    assert len(without) == len(PLAIN_KINDS)
    assert len(read_rows(tmp_path / "held_out_direct.jsonl")) == 5 and (tmp_path / "text.json").is_file()


def test_a_start_with_a_habit_was_taught_to_add_in_the_last_step(tmp_path):
    write_plain(tmp_path, "habit", Sizes(taught=300, asked=5, watched=0, held_out=5, direct=1, paragraphs=2))
    drawn = {step_by_step(problem.text): problem for problem in draw_many("all", "habit", 300)}
    rows = [row for row in read_rows(tmp_path / "taught.jsonl") if row["question"] in drawn]
    taught = [(drawn[row["question"]], row["chosen"]) for row in rows]
    assert len(taught) == 300 and all(chosen in (problem.solution, problem.hurried) for problem, chosen in taught)
    hard = [chosen == problem.hurried for problem, chosen in taught if problem.hurried != problem.solution]
    assert 0.6 < mean(hard) < 0.8 and 0.4 < len(hard) / 300 < 0.7
    assert Problem("kind", "text", STEPS).hurried == "8 + 5 = 13\n13 + 4 = 17\nFinal answer: 17"
    asked = read_rows(tmp_path / "asked_en_prompts.jsonl")
    assert [row["answer"] for row in asked] == [one.answer for one in draw_many("all", "habit", 305)[300:]]


def test_a_start_and_all_that_comes_of_it_have_its_questions(tmp_path):
    study = Study(tmp_path, Path("model"), Sizes(taught=4, asked=3, watched=2, held_out=2, direct=1))
    assert stages.for_start(study, "plain", stages.asked) == stages.plain(study, "plain")
    assert stages.for_start(study, "longer", stages.asked) == stages.asked(study)
    assert [*map(stages.start_of, ("plain mpo", "start plain", "mpo"))] == ["plain", "plain", "longer"]


def test_a_start_in_float32_begins_at_weights_in_float32(tmp_path, monkeypatch):
    composed, trained_from = [], []
    monkeypatch.setattr(stages, "compose", lambda words: composed.append(words[words.index("--dtype") + 1]))
    monkeypatch.setattr(
        stages, "train_from", lambda origin, *more: trained_from.append(origin.name.split("-")[0]) or {}
    )
    study = Study(tmp_path, Path("model.gguf"), Sizes(taught=4, asked=1, watched=1, held_out=1, direct=1))
    for name in ("exact", "large", "longer"):
        stages.start(study, name)
    assert composed == ["float32", "bfloat16"]  # the third begins where the second did
    assert trained_from == ["base", "base", "base", "start_short"]


def test_the_same_weights_answer_in_float32(golden_folder, tmp_path, monkeypatch):
    stored = tmp_path / "stored"
    export_checkpoint(load_model(golden_folder / "ckpt" / "tiny-qwen2"), golden_folder / "ckpt" / "tiny-qwen2", stored)
    rounded = {name: weight.bfloat16() for name, weight in load_file(stored / "model.safetensors").items()}
    save_file(rounded, stored / "model.safetensors", metadata={"format": "pt"})

    def evaluate(checkpoint, out, *words):
        weights = load_model(checkpoint).state_dict()
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert all(torch.equal(weights[name], weight.float()) for name, weight in rounded.items())
        return {"reasoned": {"all": 1}, "direct": {}}

    monkeypatch.setattr("benchmarks.study_pretrained.measures._evaluate", evaluate)
    (tmp_path / "out").mkdir()
    assert measure_in_float32(stored, tmp_path, tmp_path / "out") == {"reasoned": {"all": 1}}


def test_a_stage_is_done_once_for_its_settings(tmp_path):
    made = []

    def stage(folder):
        made.append(folder)
        return {"found": len(made)}

    first = keyed(tmp_path, "run mpo", {"rate": 1}, stage)
    assert keyed(tmp_path, "run mpo", {"rate": 1}, stage) == first and len(made) == 1
    other = keyed(tmp_path, "run mpo", {"rate": 2}, stage)
    assert other != first and read_figures(other)["found"] == 2 and read_figures(other)["made_of"] == {"rate": 2}
    keyed(tmp_path, "run mpo again", {}, stage)
    assert stages_in(tmp_path, "run mpo") == sorted([first, other])
    assert len(stages_in(tmp_path, "run")) == 3


def test_a_stage_that_was_stopped_is_not_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        keyed(tmp_path, "run", {}, lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    assert read_figures(keyed(tmp_path, "run", {}, lambda folder: {"whole": True}))["whole"]


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    found = []

    def train(words):
        out = Path(words[words.index("--output_dir") + 1])
        found.append(sorted(path.name for path in out.iterdir()))
        look = {"step": 9, "eval_accuracy": 0.5}
        (out / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0}, look, {"step": 12}]}))

    monkeypatch.setattr(stages, "train", train)
    run = tmp_path / "run"
    run.mkdir()
    (run / "left.txt").touch()
    assert stages.train_from(run, run / "meta.json", run, "")["looks"] == [{"step": 9, "eval_accuracy": 0.5}]
    (run / "checkpoint-4").mkdir()
    stages.train_from(run, run / "meta.json", run, "")
    assert found == [[], ["checkpoint-4", "trainer_state.json"]]


def test_an_arm_of_trl_is_trained_by_it_with_the_flags_of_the_others(tmp_path, monkeypatch):
    seen = []

    def train(start, rows, out, args):
        seen.append((start.name, rows, args.max_steps, args.learning_rate, args.seed))
        return [{"loss": 1.0, "rewards/margins": 0.1}, {"train_loss": 1.0}]

    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair("good", "bad")) + "\n")
    monkeypatch.setattr(stages, "start", lambda study, name: tmp_path / name)
    monkeypatch.setattr(stages, "chosen_pairs", lambda study, arm: tmp_path)
    monkeypatch.setattr("benchmarks.study_pretrained.trl_control.train_with_trl", train)
    run = stages.trained(Study(tmp_path, Path("model")), "plain trl", ARMS["plain trl"], 7)
    assert seen == [("plain", [pair("good", "bad")], 40, 8e-6, 7)]
    found = read_figures(run)
    assert found["made_of"]["trainer"] == "trl" and found["curve"] == [{"loss": 1.0, "rewards/margins": 0.1}]


@pytest.mark.parametrize("name", ARMS)
def test_arms_are_trainings(name):
    arm = ARMS[name]
    assert arm.start in STARTS and arm.pairs in KINDS
    flags = f"--model_name_or_path m --meta_path m.json --output_dir out {MODEL} {TRAIN} {arm.flags}"
    lengths = {40: FIRST, 36: LONG, 60: PLAIN_LONG, 30: TOGETHER}
    longer = [steps for steps, more in lengths.items() if more in arm.flags]
    assert [parse_arguments(flags.split())[2].max_steps] == (longer or [12])


def answered(tmp_path, use, checkpoint, outcomes):
    """A measuring of a checkpoint whose answers have these outcomes; its figures stand as percent."""
    shares = 100 * outcomes.count("correct") / len(outcomes)
    group = {"percent": shares, "interval": [0.0, 100.0]}

    def stage(folder):
        rows = [{"way": "reasoned", "key": str(n), "outcomes": [one]} for n, one in enumerate(outcomes)]
        (folder / "evaluation.answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = {"reasoned": {"all": group, "templates": group}, "true_steps": 50.0, "right_steps": 25.0}
        return {**found, "text_nll": 3.0, "direct": {}}

    return keyed(tmp_path, f"{use} x", {"checkpoint": checkpoint.name}, stage)


def test_runs_are_gathered_and_tested_against_their_start_and_sft(tmp_path):
    def pairs(folder):
        return {"pairs": 1, "questions": 1, "chosen_right": 50.0}

    chosen = keyed(tmp_path, "pairs longer own", {"kind": "own", "pairs": "all"}, pairs)
    more = keyed(tmp_path, "pairs longer own", {"kind": "own", "pairs": "of more questions"}, pairs)
    curve = {"curve": [{"rewards/margins": value} for value in (9.0, 1.0, 2.0, 3.0)]}
    start = keyed(tmp_path, "start longer", {"flags": "--seed 1"}, lambda folder: curve)
    made_of = {"start": start.name, "pairs": chosen.name}
    sft, mpo = (
        keyed(tmp_path, f"run {name}", {**made_of, "flags": f"{name} --seed 0"}, lambda folder: curve)
        for name in ("sft", "mpo")
    )
    other = {**made_of, "pairs": more.name, "flags": "mpo --seed 0"}
    answered(tmp_path, "greedy", keyed(tmp_path, "run coin", other, lambda folder: curve), ["wrong"] * 10)
    answered(tmp_path, "greedy", start, ["correct"] + ["wrong"] * 9)
    answered(tmp_path, "greedy", sft, ["correct"] * 2 + ["wrong"] * 8)
    answered(tmp_path, "greedy", mpo, ["correct"] * 9 + ["wrong"])
    answered(tmp_path, "sampled", mpo, ["correct"] * 10)
    answered(tmp_path, "float32", start, ["correct"] * 2 + ["wrong"] * 8)
    found = gather(tmp_path, STARTS, ARMS)
    runs = {row["arm"]: row for row in found["runs"]}
    against = runs["run mpo"]["against"]
    assert (against["start"]["greedy"]["reasoned"]["difference"], against["sft"]["greedy"]["reasoned"]["better"]) == (
        80,
        7,
    )
    assert "sampled" not in against["start"] and runs["run sft"]["against"]["sft"] == {}
    assert runs["run mpo"]["end"] == {"rewards/margins": 2.0}  # of the last three
    assert runs["run mpo"]["pairs"] == {
        "kind": "own",
        "source": "all",
        "pairs": 1,
        "questions": 1,
        "chosen_right": 50.0,
    }
    assert runs["run coin"]["against"]["sft"] == {}  # of other questions
    assert found["starts"][0]["float32"]["reasoned"]["better"] == 1 and "float32" not in runs["run mpo"]
    starts, seeds, signs, prices, seen = tables({**found, "pictures": []})
    assert starts[2].startswith("| taught for 64 steps | 10.0 [0.0, 100.0] |")
    assert signs[2].startswith("| MPO | 0 | 1 of 1 | +80.0 [") and signs[3].startswith("| SFT on chosen | 0 |")
    assert len(prices) == 5 and len(seeds) == len(seen) == 2  # none has two seeds


def test_a_row_says_whose_cpu_made_it():
    end = {"rewards/margins": 2.0}
    greedy = {"true_steps": 1.0, "right_steps": 0.5, "text_nll": 3.0}
    row = {"title": "MPO", "made_of": {"flags": "--seed 2"}, "pairs": {"pairs": 1, "questions": 1}, "end": end}
    row |= {"greedy": greedy, "against": {"start": {}}, "cpu": "Intel(R) Xeon(R) Processor"}
    for table in (start_table, sign_table, price_table):
        first, second, third = table([row, row | {"cpu": "AMD EPYC"}, {**row, "cpu": "Arm"}])[2:]
        assert [line.split(" | ")[-1] for line in (first, second, third)] == ["Intel |", "AMD |", "Arm |"]


def test_an_arm_is_tested_against_the_sft_of_its_own_kind(tmp_path):
    chosen = keyed(tmp_path, "pairs plain own", {"kind": "own", "pairs": "all"}, lambda folder: {})
    start = keyed(tmp_path, "start plain", {"flags": ""}, lambda folder: {"curve": []})
    answered(tmp_path, "greedy", start, ["wrong"] * 4)
    for name, right in (("plain sft", 1), ("plain mpo", 3)):
        made_of = {"start": start.name, "pairs": chosen.name, "flags": f"{name} --seed 0"}
        run = keyed(tmp_path, f"run {name}", made_of, lambda folder: {"curve": []})
        answered(tmp_path, "greedy", run, ["correct"] * right + ["wrong"] * (4 - right))
    runs = {row["arm"]: row for row in gather(tmp_path, STARTS, ARMS)["runs"]}
    assert runs["run plain mpo"]["against"]["sft"]["greedy"]["reasoned"]["difference"] == 50
    assert runs["run plain sft"]["against"]["sft"] == {}


def test_several_seeds_are_tested_by_their_mean(tmp_path):
    """Of four questions the start answers one; SFT 2 and 2, MPO 3 and 4, DPO none; each question counts once."""
    chosen = keyed(tmp_path, "pairs habit own", {"kind": "own", "pairs": "all"}, lambda folder: {})
    start = keyed(tmp_path, "start habit", {"flags": ""}, lambda folder: {"curve": []})
    answered(tmp_path, "greedy", start, ["correct"] + ["wrong"] * 3)
    for name, counts in (("sft", (2, 2)), ("mpo", (3, 4)), ("dpo", (0,))):
        for seed, right in enumerate(counts):
            made_of = {"start": start.name, "pairs": chosen.name, "flags": f"{name} --seed {seed}"}
            run = keyed(tmp_path, f"run habit {name}", made_of, lambda folder: {"curve": []})
            answered(tmp_path, "greedy", run, ["correct"] * right + ["wrong"] * (4 - right))
    figures = gather(tmp_path, STARTS, ARMS)
    found = {row["arm"]: row for row in figures["seeds"]}
    assert found.keys() == {"run habit sft", "run habit mpo"}
    start, sft = (found["run habit mpo"]["against"][name] for name in ("start", "sft"))
    assert (start["difference"], start["points"], start["better"], start["worse"]) == (62.5, [50, 75], 3, 0)
    assert (sft["difference"], sft["points"]) == (37.5, [25, 50])  # of 1 and 0.5 of the last two questions
    assert found["run habit mpo"]["against"]["dpo"] == {}  # which has one seed
    assert found["run habit sft"]["against"]["sft"] == {}
    first, second = seed_table(figures["seeds"])[2:]
    assert first.startswith("| MPO, a start with a habit, 40 steps at 2e-5 | 2 | +62.5 [") and "+25.0, +50.0" in first
    assert second.startswith("| SFT on chosen, a start with a habit, 40 steps at 2e-5 | 2 | +25.0 [")
    (mpo,) = (row for row in figures["runs"] if row["arm"] == "run habit mpo" and seed_of(row) == "0")
    assert mpo["against"]["dpo"]["greedy"]["reasoned"]["difference"] == 75


def test_a_study_that_goes_on_elsewhere_keeps_what_it_had():
    def row(arm, folder, **more):
        return {"arm": arm, "folder": folder, **more}

    kept = {
        "machine": {"cpu": "first"},
        "starts": [row("start large", "a"), row("start habit", "b", cpu="earlier still")],
        "runs": [row("run mpo", "c"), row("run habit mpo", "d")],
        "seeds": [row("run mpo", "", of=1), row("run sft", "", of=2)],
        "easy_vqa": [1],
        "pictures": [2],
    }
    found = {
        "starts": [row("start plain", "e")],
        "runs": [row("run dpo", "f"), row("run mpo", "c")],
        "seeds": [row("run mpo", "", of=3)],
        "easy_vqa": [],
        "pictures": [4],
    }
    order = ["plain", "large", "habit", "mpo", "dpo", "habit mpo"]
    kept["runs"].append(row("run of an arm that is no more", "g"))
    whole = joined(kept, found, order, "second")
    starts, runs = ([(one["folder"], one["cpu"]) for one in whole[part]] for part in ("starts", "runs"))
    assert starts == [("e", "second"), ("a", "first"), ("b", "earlier still")]
    assert runs == [("c", "first"), ("c", "second"), ("f", "second"), ("d", "first"), ("g", "first")]
    assert [one["of"] for one in whole["seeds"]] == [2, 3]
    assert (whole["easy_vqa"], whole["pictures"]) == ([1], [4])
    again = joined({**whole, "machine": {"cpu": "second"}}, found, order, "second")
    assert again == whole


def test_looks_are_shown_with_their_verdicts():
    look = {"step": 9, "eval_accuracy": 0.4, "eval_accuracy_change": -0.1, "eval_accuracy_p": 0.004}
    look |= {"eval_accuracy_change_low": -0.16, "eval_accuracy_change_high": -0.04, "eval_accuracy_level": 0.01}
    look |= {"eval_logps/right_change": -2.0, "eval_logps/wrong_change": -1.5, "eval_logps/gap_change": -0.5}
    shown = watch_table({"looks": [look, *(look | {"eval_accuracy_p": p} for p in (0.02, 0.06))]})[2:]
    assert shown[0] == "| 9 | 40.0 | -10.0 [-16.0, -4.0] | 0.004 | 0.01 | fall | -2.00 | -1.50 | -0.50 |"
    assert "| 0.01 | doubt | -2.00 |" in shown[1] and "| 0.01 |  | -2.00 |" in shown[2]


def saved_weights(path, **weights):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.tensor(values) for name, values in weights.items()}, path)


def test_rounding_by_hand(tmp_path):
    """Units of the last place at 1 are 2**-7 in bfloat16: half of one goes to the even side, which is back."""
    half = 2.0**-8
    save_file({"a": torch.tensor([1.0, 1.0, 1.0, 1.0]).bfloat16()}, tmp_path / "model.safetensors")
    assert last_saved(tmp_path / "run") is None
    for step in (9, 40):
        saved = tmp_path / "run" / f"checkpoint-{step}"
        saved_weights(saved / "resume" / "weights.safetensors", a=[1.0, 1 + half, 1 + 2 * half, 1 - half / 2])
        written = torch.tensor([1.0, 1.0, 1 + 2 * half, 1.0]).bfloat16()
        save_file({"a": written, "unchanged": written.clone()}, saved / "model.safetensors")
    assert last_saved(tmp_path / "run") == saved
    found = measure_rounding(tmp_path, saved)
    assert (found["moved"], found["unmoved"], found["largest"]) == (3, 66.7, pytest.approx(2 * half, rel=0.01))
    assert found["kept"] == pytest.approx(4 / 5.25, abs=0.001)  # 4 of 1 + 4 + 1/4 squares
    assert found["error"] == pytest.approx((1.25 / 5.25) ** 0.5, abs=0.001)


def test_questions_of_others_become_prompts():
    class Package:
        @staticmethod
        def get_test_questions():
            return ["is it red?", "what shape?", "which color?"], ["no", "circle", "teal"], [0, 1, 1]

        @staticmethod
        def get_test_image_paths():
            return {0: "a.png", 1: "b.png"}

    rows = list(read_questions(Package, "test"))
    assert rows[1] == {"image": "b.png", "question": "what shape?", "answer": "circle", "task": "shape"}
    assert [row["task"] for row in rows] == ["yes or no", "shape", "color"]
    assert spread(range(10), 3) == [0, 3, 6] and spread(range(3), None) == [0, 1, 2]


def test_others_questions_that_give_no_pair_are_said(tmp_path, monkeypatch):
    """Rather than trained on: of the answers none was right, or all were."""
    monkeypatch.setattr(other_data, "write_prompts", lambda folder, numbers: {"train": folder / "t", "test": folder})
    monkeypatch.setattr(other_data, "sample_answers", lambda words: 0)
    monkeypatch.setattr(other_data, "pair_answers", lambda words: 1)
    with pytest.raises(ValueError, match=r"no pair came of 7 questions, see .*pairs: ask more \(--asked\)"):
        other_data.run_pipeline(tmp_path / "out", tmp_path, {"train": 7, "test": 1})


def test_the_page_shows_the_committed_figures():
    page = (RESULTS.parents[1] / "docs" / "study_pretrained.md").read_text(encoding="utf-8")
    figures = json.loads((RESULTS / "study_pretrained.json").read_bytes())
    assert [table[0] for table in tables(figures) if "\n".join(table) not in page] == []
