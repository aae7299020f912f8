"""The small world: a cell per visual token, splits without a common picture, answers that can be judged."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from data.make_visual_reasoning import make_visual_reasoning, parse_arguments
from internvl_chat.data.images import plan_grid
from internvl_chat.records.meta import read_meta
from internvl_chat.records.rows import PreferencePair, Prompt, Source
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, Outcome, parse_answer
from tools.visual_reasoning.questions import IN_A_WORD, LOOKS, SceneQuestion, ask, ask_anything, describe, look
from tools.visual_reasoning.scenes import CELL, COLOURS, HELD_OUT_SHARE, Scene, Shape, draw_scene, render
from tools.visual_reasoning.steps import has_right_steps, judge_steps

RED, BLUE = Shape("red", "circle"), Shape("blue", "square")
SCENE = Scene((RED, None, BLUE, RED))
SEEN = "red circle, nothing, blue square, red circle."


def count(subject):
    return SceneQuestion(SCENE, "count", subject)


def test_right_steps_say_what_is_seen_list_what_is_meant_and_count():
    assert count("red").text == "How many red shapes are there?"
    assert count("red").solution().response == f"{SEEN}\n\nred shapes: red circle, red circle: 2.\n\nFinal answer: 2"
    assert count("square").solution().response == f"{SEEN}\n\nsquares: blue square: 1.\n\nFinal answer: 1"
    assert count("green").solution().response == f"{SEEN}\n\ngreen shapes: none: 0.\n\nFinal answer: 0"


def test_a_slip_looks_at_the_upper_half_only_and_is_followed_through():
    seen = "red circle, nothing, nothing, nothing."
    assert count("red").slip().response == f"{seen}\n\nred shapes: red circle: 1.\n\nFinal answer: 1"
    assert count("square").slip().response == f"{seen}\n\nsquares: none: 0.\n\nFinal answer: 0"


def test_a_slip_is_lucky_where_nothing_below_counts():
    assert count("green").slip().answer == count("green").solution().answer == "0"
    rng = random.Random(0)
    asked = [ask_anything(rng) for _ in range(2000)]
    lucky = [question.slip().answer == question.solution().answer for question in asked]
    assert 0.45 < sum(lucky) / len(lucky) < 0.65
    assert all(question.slip() != question.solution() for question in asked)


def test_every_step_is_judged():
    solution = count("red").solution().response
    slip = count("green").slip().response
    assert judge_steps(solution + "\n", solution) == [True] * 3 and has_right_steps(solution + "\n", solution)
    assert judge_steps(slip, count("green").solution().response) == [False, True, True]  # right by luck
    short = solution.replace(f"{SEEN}\n\n", "")
    assert judge_steps(short, solution) == [True] * 2 and not has_right_steps(short, solution)
    assert judge_steps("", solution) == [] and not has_right_steps("", solution)


def test_no_slip_has_right_steps_however_lucky_its_answer():
    rng = random.Random(0)
    for question in (ask_anything(rng) for _ in range(500)):
        right = question.solution().response
        assert not judge_steps(question.slip().response, right)[0] and has_right_steps(right, right)


def test_the_checks_of_the_pipelines_tell_right_steps_from_slips():
    with AnswerChecker() as checker:
        for seed in range(30):
            question = ask_anything(random.Random(seed))
            right = question.solution()
            for solution in (right, question.slip()):
                outcome = Outcome.CORRECT if solution.answer == right.answer else Outcome.WRONG
                assert checker.check(parse_answer(solution.response, "en"), right.answer).outcome is outcome


def test_the_question_is_put_in_the_words_of_the_pipelines():
    assert count("red").step_by_step.startswith(
        "Your task is to answer the question below. Give step by step reasoning"
    )
    assert count("red").step_by_step.endswith("Question:\n\nHow many red shapes are there?")


def test_a_task_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no task 'chart'"):
        ask(SCENE, "chart", random.Random(0))


def test_what_is_seen_is_asked_directly():
    asked = {kind: {look(SCENE, random.Random(seed), [kind]) for seed in range(200)} for kind in LOOKS}
    assert asked["what"] == {
        ("What is at the top left?", "red circle"),
        ("What is at the top right?", "nothing"),
        ("What is at the bottom left?", "blue square"),
        ("What is at the bottom right?", "red circle"),
    }
    assert {("Is there a red circle?", "yes"), ("Is there a green circle?", "no")} <= asked["is there"]
    assert {("How many circles are there?", "2"), ("How many green shapes are there?", "0")} <= asked["how many"]
    assert {("Which circles are there?", "red circle, red circle"), ("Which triangles are there?", "none")} <= asked[
        "which"
    ]
    assert describe(SCENE) == SEEN


def test_yes_and_no_are_about_as_frequent():
    rng = random.Random(0)
    answers = [look(draw_scene(rng), rng, ["is there"])[1] for _ in range(2000)]
    assert 0.45 < answers.count("yes") / len(answers) < 0.65


def test_a_picture_is_one_tile_and_a_cell_shows_its_thing():
    image = render(SCENE, random.Random(0))
    assert image.size == (2 * CELL, 2 * CELL)
    assert plan_grid(*image.size, max_num=12, image_size=2 * CELL) == (1, 1)
    middle = CELL // 2
    assert image.getpixel((middle, middle)) == COLOURS["red"]
    assert min(image.getpixel((CELL + middle, middle))) >= 238  # an empty cell shows the background
    assert image.getpixel((middle, CELL + middle)) == COLOURS["blue"]


def test_no_picture_is_empty():
    rng = random.Random(0)
    assert all(draw_scene(rng).things for _ in range(5000))


def test_content_decides_the_split():
    rng = random.Random(0)
    held_out = {ask_anything(rng, held_out=True).scene for _ in range(200)}
    assert held_out.isdisjoint(ask_anything(rng).scene for _ in range(2000))
    scenes = [draw_scene(rng) for _ in range(3000)]
    assert sum(scene.is_held_out for scene in scenes) / len(scenes) == pytest.approx(1 / HELD_OUT_SHARE, abs=0.03)


def make(folder: Path, *flags):
    sizes = ["--look", "4", "--reason", "6", "--pairs", "12", "--held_out", "8"]
    make_visual_reasoning(parse_arguments(["--out", str(folder), *sizes, *flags]))
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(files, name):
    return [json.loads(line) for line in files[Path(f"{name}.jsonl")].decode().splitlines()]


def test_the_seed_decides_every_byte(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first == second
    assert make(tmp_path / "c", "--seed", "1") != first


def test_pairs_are_of_the_documented_format(tmp_path):
    files = make(tmp_path)
    for name, number in (("pairs", 12), ("held_out_pairs", 8)):
        rows = rows_of(files, name)
        assert len(rows) == number
        for line_no, row in enumerate(rows, 1):
            pair = PreferencePair.from_row(row, Source(name, line_no))
            assert pair.chosen != pair.rejected
            with Image.open(tmp_path / "images" / pair.image[0]) as image:
                assert image.mode == "RGB"
    [pairs] = read_meta(tmp_path / "pairs.json")
    assert (pairs.root, pairs.annotation, pairs.length) == ("images", "pairs.jsonl", 12)


def test_fine_tuning_rows_and_their_mixtures(tmp_path):
    files = make(tmp_path, "--reason_repeat", "2.5")
    numbers = {name: len(rows_of(files, name)) for name in ("look_ask", "look_describe", "reason")}
    assert numbers == {"look_ask": 8, "look_describe": 2, "reason": 6}
    assert [spec.name for spec in read_meta(tmp_path / "look.json")] == ["look_describe", "look_ask"]
    assert {spec.name: float(spec.repeat_time) for spec in read_meta(tmp_path / "sft.json")}["reason"] == 2.5


def test_prompts_name_their_pictures_and_direct_ones_are_answered_in_a_word(tmp_path):
    files = make(tmp_path)
    for name, number in (("train_en_prompts", 12), ("held_out_en_prompts", 8), ("held_out_en_direct", 8)):
        rows = rows_of(files, name)
        assert len(rows) == number
        assert all((tmp_path / Prompt.from_row(row, Source(name, 1)).image[0]).is_file() for row in rows)
        solutions = [row["right_response"] for row in rows if "right_response" in row]
        assert len(solutions) == (0 if name == "held_out_en_direct" else number)
        assert all(s.endswith(f"Final answer: {row['answer']}") for s, row in zip(solutions, rows, strict=False))
    kinds = {row["task"] for row in rows_of(files, "held_out_en_direct")}
    assert kinds <= {kind.split()[0] for kind in IN_A_WORD}


def test_slips_go_into_fine_tuning_rows_as_asked(tmp_path):
    right = rows_of(make(tmp_path / "right"), "reason")
    wrong = rows_of(make(tmp_path / "wrong", "--slips", "1"), "reason")
    assert [row["question"] for row in right] == [row["question"] for row in wrong]
    assert all(a["chosen"] != b["chosen"] for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize("flags", [["--slips", "1.5"], ["--pairs", "-1"]])
def test_numbers_out_of_range_are_refused(tmp_path, flags):
    with pytest.raises(ValueError, match="numbers of pictures must be at least 0"):
        make(tmp_path, *flags)
