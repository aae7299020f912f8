"""The small world: splits without a common picture, answers and steps that can be judged, rows for every stage."""

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
from tools.visual_reasoning.questions import LOOKS, PROBE, SceneQuestion, ask_anything, look
from tools.visual_reasoning.scenes import (
    BAR,
    CELL,
    COLOURS,
    HELD_OUT_SHARE,
    UNIT,
    Chart,
    Scene,
    Shape,
    draw_chart,
    draw_scene,
    is_held_out,
    render,
)
from tools.visual_reasoning.steps import has_right_steps, judge_steps
from tools.visual_reasoning.tasks import TASKS, describe

SCENE = Scene((Shape("red", "circle"), None, Shape("blue", "square"), Shape("red", "triangle")))
CHART = Chart(("green", "red", "blue", "yellow"), (3, 7, 1, 9))
SEEN = "I see red circle, nothing, blue square, red triangle."
PLACED = "I see red circle northwest, nothing northeast, blue square southwest, red triangle southeast."
READ = "I see green three, red seven, blue one, yellow nine."
CASES = [
    (
        ("count", "red"),
        "How many shapes are red?",
        SEEN,
        "Which are red? red circle yes, nothing no, blue square no, red triangle yes.\n\nyes: two.",
        "two",
    ),
    (
        ("count", "square"),
        "How many shapes are squares?",
        SEEN,
        "Which are squares? red circle no, nothing no, blue square yes, red triangle no.\n\nyes: one.",
        "one",
    ),
    (
        ("place", "above", "square"),
        "What is above the square?",
        PLACED,
        "Find square southwest, above it northwest: red circle.",
        "red circle",
    ),
    (
        ("place", "right of", "circle"),
        "What is right of the circle?",
        PLACED,
        "Find circle northwest, right of it northeast: nothing.",
        "nothing",
    ),
    (
        ("add", "blue", "red"),
        "How tall are the blue and the red bar together?",
        READ,
        "Take blue one and red seven: eight.",
        "eight",
    ),
    (
        ("add", "yellow", "red"),
        "How tall are the yellow and the red bar together?",
        READ,
        "Take yellow nine and red seven: sixteen.",
        "sixteen",
    ),
    (
        ("compare", "taller", "red", "green"),
        "How much taller is the red bar than the green bar?",
        READ,
        "Take red seven less green three: four.",
        "four",
    ),
    (
        ("compare", "shorter", "green", "red"),
        "How much shorter is the green bar than the red bar?",
        READ,
        "Take red seven less green three: four.",
        "four",
    ),
    (("chart", "tallest"), "How tall is the tallest bar?", READ, "tallest nine.", "nine"),
    (("chart", "shortest"), "How tall is the shortest bar?", READ, "shortest one.", "one"),
]
FULL = Scene((Shape("red", "circle"), Shape("blue", "circle"), Shape("blue", "square"), None))
SHORTCUTS = [
    (
        FULL,
        ("count", "blue"),
        "I see red circle, blue circle, nothing, nothing.",
        "Which are blue? red circle no, blue circle yes, nothing no, nothing no.\n\nyes: one.",
        "one",
    ),
    (
        SCENE,
        ("place", "above", "square"),
        PLACED,
        "Find square southwest, above it southeast: red triangle.",
        "red triangle",
    ),
    (CHART, ("add", "yellow", "red"), READ, "Take yellow nine and red seven: six.", "six"),
    (
        CHART,
        ("compare", "shorter", "green", "red"),
        READ,
        "Take green three less red seven: minus four.",
        "minus four",
    ),
    (CHART, ("chart", "shortest"), READ, "shortest nine.", "nine"),
]
EASY = [
    ("count", "red"),  # a cell above is empty
    ("place", "right of", "circle"),
    ("add", "blue", "red"),  # nothing is carried
    ("compare", "taller", "red", "green"),
    ("chart", "tallest"),
]


def asked(task, *subject):
    return SceneQuestion(SCENE if task in ("count", "place") else CHART, task, subject)


@pytest.mark.parametrize(("words", "text", "seen", "steps", "answer"), CASES)
def test_right_steps_write_down_what_is_seen_and_conclude_from_it(words, text, seen, steps, answer):
    question = asked(*words)
    assert question.text == text
    assert question.solution().response == f"{seen}\n\n{steps}\n\nFinal answer: {answer}"


@pytest.mark.parametrize(("picture", "words", "seen", "steps", "answer"), SHORTCUTS)
def test_shortcuts_err_in_the_way_of_their_task_and_are_followed_through(picture, words, seen, steps, answer):
    response = SceneQuestion(picture, words[0], words[1:]).hurry().response
    assert response.startswith(f"{seen}\n\n") and response.endswith(f"{steps}\n\nFinal answer: {answer}")


@pytest.mark.parametrize("words", EASY)
def test_shortcuts_are_the_right_way_of_easy_questions(words):
    question = asked(*words)
    assert question.hurry() == question.solution()
    assert question.slip(random.Random(0)) != question.solution()


def test_one_entry_is_misread_and_never_what_is_asked_for():
    rng = random.Random(0)
    for _ in range(200):
        seen = SCENE.misread(rng, keep="square")
        changed = [place for place in range(4) if seen.cells[place] != SCENE.cells[place]]
        assert len(changed) == 1 and seen.having("square") == SCENE.having("square")
        chart = CHART.misread(rng, keep="")
        assert len({*chart.heights}) == 4 and sum(map(int.__ne__, chart.heights, CHART.heights)) == 1


def test_a_bar_misread_may_leave_less_than_nothing():
    misread = Chart(CHART.colours, (3, 2, 1, 9))
    assert SceneQuestion(misread, "compare", ("taller", "red", "green")).solution().answer == "minus one"


def test_every_step_is_judged():
    question = asked("compare", "shorter", "green", "red")
    solution = question.solution().response
    assert judge_steps(question.hurry().response, solution) == [True, False, False]
    assert judge_steps(solution + "\n", solution) == [True] * 3 and has_right_steps(solution + "\n", solution)
    short = solution.replace(f"{READ}\n\n", "")
    assert judge_steps(short, solution) == [True] * 2 and not has_right_steps(short, solution)
    assert judge_steps("", solution) == [] and not has_right_steps("", solution)


@pytest.mark.parametrize("task", TASKS)
def test_shortcuts_are_wrong_for_about_half_of_the_questions_and_seldom_lucky(task):
    rng = random.Random(0)
    questions = [question for question in (ask_anything(rng) for _ in range(3000)) if question.task == task]
    assert len(questions) == pytest.approx(3000 / len(TASKS), rel=0.15)
    hard = [question for question in questions if question.hurry() != question.solution()]
    assert 0.4 < len(hard) / len(questions) < 0.7
    assert sum(question.hurry().answer == question.solution().answer for question in hard) < 0.2 * len(hard)
    assert all(has_right_steps(q.solution().response, q.solution().response) for q in questions)


def test_careless_steps_are_never_all_right():
    rng = random.Random(1)
    for question in (ask_anything(rng) for _ in range(500)):
        assert not has_right_steps(question.slip(rng).response, question.solution().response)


def test_the_checks_of_the_pipelines_tell_right_answers_from_wrong_ones():
    with AnswerChecker() as checker:
        for seed in range(60):
            question = ask_anything(random.Random(seed))
            right = question.solution()
            for solution in (right, question.slip(random.Random(seed))):
                outcome = Outcome.CORRECT if solution.answer == right.answer else Outcome.WRONG
                assert checker.check(parse_answer(solution.response, "en"), right.answer).outcome is outcome


def test_the_question_is_put_in_the_words_of_the_pipelines():
    put = asked("count", "square").step_by_step
    assert put.startswith("Your task is to answer the question below. Give step by step reasoning")
    assert put.endswith("Question:\n\nHow many shapes are squares?")


def looks(picture):
    kinds = LOOKS[type(picture)]
    return {kind: {look(picture, random.Random(seed), kind) for seed in range(200)} for kind in kinds}


def test_what_is_seen_is_asked_directly():
    of_scene, of_chart = looks(SCENE), looks(CHART)
    assert of_scene["what"] == {
        ("What is in the northwest?", "red circle"),
        ("What is in the northeast?", "nothing"),
        ("What is in the southwest?", "blue square"),
        ("What is in the southeast?", "red triangle"),
    }
    assert ("Where is the blue square?", "southwest") in of_scene["where"]
    assert {("Is there a red circle?", "yes"), ("Is there a green circle?", "no")} <= of_scene[PROBE]
    assert ("How tall is the red bar?", "seven") in of_chart["how tall"]
    assert ("Which bar is nine tall?", "yellow") in of_chart["which"]
    assert describe(SCENE) == SEEN
    assert describe(CHART) == READ


def test_where_a_thing_is_is_only_asked_where_that_is_clear():
    twice = Scene((Shape("red", "circle"), None, None, Shape("red", "circle")))
    assert all(text.startswith("What is in") for text, _ in looks(twice)["where"])


def test_yes_and_no_are_about_as_frequent():
    rng = random.Random(0)
    answers = [look(draw_scene(rng), rng, PROBE)[1] for _ in range(2000)]
    assert 0.45 < answers.count("yes") / len(answers) < 0.65


def test_a_picture_is_one_tile_and_a_cell_shows_its_thing():
    image = render(SCENE, random.Random(0))
    assert image.size == (2 * CELL, 2 * CELL)
    assert plan_grid(*image.size, max_num=12, image_size=2 * CELL) == (1, 1)
    middle = CELL // 2
    assert image.getpixel((middle, middle)) == COLOURS["red"]
    assert min(image.getpixel((CELL + middle, middle))) >= 238  # an empty cell shows the background
    assert image.getpixel((middle, CELL + middle)) == COLOURS["blue"]


def test_a_bar_is_as_tall_as_it_says():
    image = render(CHART, random.Random(0))
    assert image.size == (2 * CELL, 2 * CELL)
    for place, (colour, height) in enumerate(zip(CHART.colours, CHART.heights, strict=True)):
        top, middle = 2 * CELL - UNIT * height, BAR * place + BAR // 2
        assert image.getpixel((middle, top + 1)) == COLOURS[colour] and min(image.getpixel((middle, top - 2))) >= 238


def test_no_lower_half_is_empty_and_no_two_bars_are_equal():
    rng = random.Random(0)
    assert all(any(draw_scene(rng).cells[2:]) for _ in range(2000))
    assert all(len({*draw_chart(rng).heights}) == len(COLOURS) for _ in range(500))


def test_content_decides_the_split():
    rng = random.Random(0)
    held_out = {ask_anything(rng, held_out=True).scene for _ in range(200)}
    assert held_out.isdisjoint(ask_anything(rng).scene for _ in range(2000))
    for draw in (draw_scene, draw_chart):
        pictures = [draw(rng) for _ in range(3000)]
        assert sum(map(is_held_out, pictures)) / len(pictures) == pytest.approx(1 / HELD_OUT_SHARE, abs=0.03)


def make(folder: Path, *flags):
    sizes = ["--practice", "5", "--look", "4", "--direct", "3", "--reason", "6", "--pairs", "12", "--held_out", "8"]
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


def test_fine_tuning_rows_and_their_mixture(tmp_path):
    files = make(tmp_path, "--reason_repeat", "2.5")
    numbers = {
        name: len(rows_of(files, name)) for name in ("practice", "look_ask", "look_describe", "direct", "reason")
    }
    # of the four pictures two show shapes, and are asked about in three ways, and two show bars, in two ways
    assert numbers == {"practice": 5, "look_ask": 2 * 3 + 2 * 2, "look_describe": 4, "direct": 3, "reason": 6}
    repeats = {spec.name: float(spec.repeat_time) for spec in read_meta(tmp_path / "sft.json")}
    assert repeats == {"practice": 1, "look_describe": 1, "look_ask": 1, "direct": 1, "reason": 2.5}


def test_prompts_name_their_pictures_and_carry_the_solution(tmp_path):
    files = make(tmp_path)
    for name, number in (("train_en_prompts", 12), ("held_out_en_prompts", 8)):
        rows = rows_of(files, name)
        assert len(rows) == number
        for row in rows:
            assert (tmp_path / Prompt.from_row(row, Source(name, 1)).image[0]).is_file()
            assert row["task"] in TASKS and row["right_response"].endswith(f"Final answer: {row['answer']}")


def test_direct_questions_are_the_reasoned_ones_and_probes_are_about_shapes(tmp_path):
    files = make(tmp_path)
    reasoned, asked_directly = rows_of(files, "held_out_en_prompts"), rows_of(files, "held_out_en_direct")
    assert [{**row, "right_response": ""} for row in reasoned] == [
        {**row, "right_response": ""} for row in asked_directly
    ]
    assert not any("right_response" in row for row in asked_directly)
    probes = rows_of(files, "held_out_en_probes")
    assert len(probes) == sum(row["task"] in ("count", "place") for row in reasoned) > 0
    assert {row["answer"] for row in probes} <= {"yes", "no"}


def test_careless_answers_go_into_fine_tuning_rows_as_asked(tmp_path):
    right = rows_of(make(tmp_path / "right", "--reason", "40"), "reason")
    wrong = rows_of(make(tmp_path / "wrong", "--reason", "40", "--slips", "1"), "reason")
    assert [row["question"] for row in right] == [row["question"] for row in wrong]
    assert 0 < sum(a["chosen"] != b["chosen"] for a, b in zip(right, wrong, strict=True)) < 40


@pytest.mark.parametrize("flags", [["--slips", "1.5"], ["--pairs", "-1"], ["--direct", "-1"], ["--practice", "-1"]])
def test_numbers_out_of_range_are_refused(tmp_path, flags):
    with pytest.raises(ValueError, match="numbers of pictures and rows must be at least 0"):
        make(tmp_path, *flags)
