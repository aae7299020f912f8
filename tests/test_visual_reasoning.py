"""The small world: pictures that tile as planned, splits without a common picture, answers that can be judged."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from data.make_visual_reasoning import CELL_SIDES, make_visual_reasoning, parse_arguments
from internvl_chat.images import plan_grid
from internvl_chat.meta import read_meta
from internvl_chat.records import PreferencePair, Prompt, Source
from tools.reasoning_data_pipeline.answers import AnswerChecker, Outcome, parse_answer
from tools.visual_reasoning.questions import TASKS, Question, ask, ask_anything
from tools.visual_reasoning.scenes import (
    COLOURS,
    HELD_OUT_SHARE,
    LAYOUTS,
    MAX_BAR,
    Scene,
    Shape,
    draw_scene,
    render,
)

RED, BLUE = Shape("red", "circle"), Shape("blue", "square")
SHAPES = Scene("shapes", 2, 1, cards=((RED, None, BLUE, RED), (BLUE, RED, None, None)))
NUMBERS = Scene("numbers", 2, 1, cards=((3, None, None, 6), (None, 5, None, None)))
BARS = Scene("bars", 1, 1, bars=(("green", 2), ("yellow", 5), ("red", 1)))

SEEN = {
    "shapes": {
        "en": "Card 1: red circle, empty, blue square, red circle.\nCard 2: blue square, red circle, empty, empty.",
        "zh": "第1张：红色圆形，空，蓝色方块，红色圆形。\n第2张：蓝色方块，红色圆形，空，空。",
    },
    "numbers": {
        "en": "Card 1: 3, empty, empty, 6.\nCard 2: empty, 5, empty, empty.",
        "zh": "第1张：3，空，空，6。\n第2张：空，5，空，空。",
    },
    "bars": {"en": "green bar 2, yellow bar 5, red bar 1", "zh": "绿色柱 2，黄色柱 5，红色柱 1"},
}
THOUGHT = {
    ("count", "en"): "Card 1: 2.\n\nCard 2: 1.\n\n2 + 1 = 3.\n\nFinal answer: 3",
    ("count", "zh"): "第1张：2。\n\n第2张：1。\n\n2 + 1 = 3.\n\n最终答案：3",
    ("compare", "en"): (
        "red shapes: 2, 1.\n\n2 + 1 = 3.\n\nblue shapes: 1, 1.\n\n1 + 1 = 2.\n\n3 is more than 2.\n\n"
        "Final answer: red shapes"
    ),
    ("compare", "zh"): (
        "红色图形：2，1。\n\n2 + 1 = 3.\n\n蓝色图形：1，1。\n\n1 + 1 = 2.\n\n3大于2。\n\n最终答案：红色图形"
    ),
    ("add", "en"): "Numbers: 3, 6, 5.\n\n3 + 6 = 9.\n\n9 + 5 = 14.\n\nFinal answer: 14",
    ("add", "zh"): "数字：3，6，5。\n\n3 + 6 = 9.\n\n9 + 5 = 14.\n\n最终答案：14",
    ("chart", "en"): "green bar: 2.\n\nyellow bar: 5.\n\n5 - 2 = 3.\n\nFinal answer: 3",
    ("chart", "zh"): "绿色柱：2。\n\n黄色柱：5。\n\n5 - 2 = 3.\n\n最终答案：3",
}


def question(task, language="en"):
    scene = {"shapes": SHAPES, "numbers": NUMBERS, "bars": BARS}[TASKS[task]]
    subjects = {"count": ("red",), "compare": ("red", "blue"), "add": (), "chart": ("green", "yellow")}[task]
    return Question(scene, task, language, subjects)


@pytest.mark.parametrize(("task", "language"), THOUGHT)
def test_right_steps_begin_with_what_is_seen(task, language):
    expected = f"{SEEN[TASKS[task]][language]}\n\n{THOUGHT[task, language]}"
    assert question(task, language).solution().response == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_slip_ends_in_a_wrong_answer_and_is_followed_through(task, language):
    asked = question(task, language)
    slips = {asked.slip(random.Random(seed)).response for seed in range(40)}
    assert len(slips) > 3
    assert all(slip != asked.solution().response for slip in slips)
    with AnswerChecker() as checker:
        for slip in slips:
            assert checker.check(parse_answer(slip, language), asked.solution().answer).outcome is Outcome.WRONG


def test_only_the_tasks_asked_for_are_drawn():
    drawn = {ask_anything(random.Random(seed), tasks=("count", "compare")).task for seed in range(30)}
    assert drawn == {"count", "compare"}


def test_what_follows_a_slip_agrees_with_it():
    slips = {question("count").slip(random.Random(seed)).response for seed in range(40)}
    seen = SEEN["shapes"]["en"]
    assert f"{seen}\n\nCard 1: 3.\n\nCard 2: 1.\n\n3 + 1 = 4.\n\nFinal answer: 4" in slips
    assert f"{seen}\n\nCard 1: 2.\n\nCard 2: 1.\n\n2 + 1 = 2.\n\nFinal answer: 2" in slips


def test_a_comparison_that_no_miscount_turns_can_still_go_wrong():
    scene = Scene("shapes", 1, 1, cards=((RED, RED, RED, RED),))
    slip = Question(scene, "compare", "en", ("red", "blue")).slip(random.Random(0))
    assert slip.answer in ("blue shapes", "equal")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_checks_of_the_pipelines_accept_right_answers(task, language):
    with AnswerChecker() as checker:
        for seed in range(10):
            rng = random.Random(seed)
            asked = ask(draw_scene(TASKS[task], rng), task, language, rng)
            parsed = parse_answer(asked.solution().response, language)
            assert checker.check(parsed, asked.solution().answer).outcome is Outcome.CORRECT


def test_questions_facts_and_descriptions():
    assert question("count").text == "How many red shapes are there?"
    assert question("compare", "zh").text == "红色图形和蓝色图形哪个多？"
    assert question("add").step_by_step.endswith("Question:\n\nWhat is the sum of the numbers?")
    assert {question("chart").fact(random.Random(seed)) for seed in range(9)} == {
        ("How high is the green bar?", "2"),
        ("How high is the yellow bar?", "5"),
    }
    assert {question("count").fact(random.Random(seed)) for seed in range(9)} == {
        ("How many red shapes are on card 1?", "2"),
        ("How many red shapes are on card 2?", "1"),
    }
    assert question("add", "zh").fact(random.Random(0)) == ("有哪些数？", "3，6，5")
    assert question("count").describe() == (
        "Card 1: red circle, empty, blue square, red circle.\nCard 2: blue square, red circle, empty, empty."
    )
    assert question("chart", "zh").describe() == "绿色柱 2，黄色柱 5，红色柱 1"


def test_a_task_about_another_kind_of_picture_is_refused():
    with pytest.raises(ValueError, match="no 'add' question in 'en' about 'shapes'"):
        ask(SHAPES, "add", "en", random.Random(0))
    with pytest.raises(ValueError, match="'fr'"):
        ask(SHAPES, "count", "fr", random.Random(0))


@pytest.mark.parametrize("cell", CELL_SIDES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_card_becomes_a_tile(cell, layout):
    columns, rows = layout
    scene = Scene("shapes", columns, rows, cards=((RED, None, BLUE, None),) * (columns * rows))
    image = render(scene, cell, random.Random(0))
    assert image.size == (2 * cell * columns, 2 * cell * rows)
    assert plan_grid(*image.size, max_num=12, image_size=56) == layout


def test_pixels_show_the_scene():
    image = render(SHAPES, 28, random.Random(0))
    assert image.getpixel((14, 14)) == COLOURS["red"]
    assert min(image.getpixel((42, 14))) >= 238  # an empty cell shows the background
    assert image.getpixel((56 + 42, 14)) == COLOURS["red"]
    chart = render(BARS, 28, random.Random(0))
    top = 56 - 1 - 5 * 56 / (MAX_BAR + 1)
    assert chart.getpixel((21, int(top) + 2)) == COLOURS["yellow"]
    assert chart.getpixel((21, int(top) - 3)) != COLOURS["yellow"]


def test_the_tile_of_the_smallest_cells_is_refused():
    with pytest.raises(ValueError, match="cell 15"):
        render(BARS, 15, random.Random(0))


def test_content_decides_the_split():
    rng = random.Random(0)
    held_out = {repr(ask_anything(rng, held_out=True).scene) for _ in range(200)}
    rng = random.Random(1)
    assert held_out.isdisjoint(repr(ask_anything(rng).scene) for _ in range(2000))
    scenes = [draw_scene("shapes", rng) for _ in range(2000)]
    assert sum(scene.is_held_out for scene in scenes) / len(scenes) == pytest.approx(1 / HELD_OUT_SHARE, abs=0.03)


def make(folder: Path, *flags):
    make_visual_reasoning(
        parse_arguments(["--out", str(folder), "--sft", "3", "--pairs", "12", "--held_out", "8", *flags])
    )
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(files, name):
    return [json.loads(line) for line in files[Path(f"{name}.jsonl")].decode().splitlines()]


def test_the_seed_decides_every_byte(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first == second
    assert make(tmp_path / "c", "--seed", "1") != first


def test_rows_are_of_the_documented_formats(tmp_path):
    files = make(tmp_path)
    for name, count in (("pairs", 12), ("held_out_pairs", 8)):
        rows = rows_of(files, name)
        assert len(rows) == count
        for line_no, row in enumerate(rows, 1):
            pair = PreferencePair.from_row(row, Source(name, line_no))
            assert pair.chosen != pair.rejected
            with Image.open(tmp_path / "images" / pair.image[0]) as image:
                assert image.mode == "RGB"
    [pairs] = read_meta(tmp_path / "pairs.json")
    assert (pairs.root, pairs.annotation, pairs.length) == ("images", "pairs.jsonl", 12)
    assert [spec.name for spec in read_meta(tmp_path / "sft.json")] == ["sft_describe", "sft_fact", "sft_reason"]


def test_prompts_lie_apart_by_language_and_name_their_pictures(tmp_path):
    files = make(tmp_path)
    for split, kind, count in (("train", "prompts", 12), ("held_out", "prompts", 8), ("held_out", "facts", 8)):
        by_language = {language: rows_of(files, f"{split}_{language}_{kind}") for language in ("en", "zh")}
        assert sum(map(len, by_language.values())) == count
        assert all(row["question"].isascii() for row in by_language["en"])
        assert not any(row["question"].removeprefix("<image>\n").isascii() for row in by_language["zh"])
        for row in by_language["en"] + by_language["zh"]:
            prompt = Prompt.from_row(row, Source("prompts", 1))
            assert (tmp_path / prompt.image[0]).is_file()


def test_slips_go_into_fine_tuning_rows_as_asked(tmp_path):
    right = rows_of(make(tmp_path / "right"), "sft_reason")
    wrong = rows_of(make(tmp_path / "wrong", "--slips", "1"), "sft_reason")
    assert [row["question"] for row in right] == [row["question"] for row in wrong]
    assert all(a["chosen"] != b["chosen"] for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize("flags", [["--slips", "1.5"], ["--pairs", "-1"]])
def test_numbers_out_of_range_are_refused(tmp_path, flags):
    with pytest.raises(ValueError, match="numbers of pictures must be at least 0"):
        make(tmp_path, *flags)
