"""How questions are put: by language, as they stand, as VLMEvalKit puts them; options and what answers are right."""

import json

import pytest
from PIL import Image

from internvl_chat.records.rows import RecordError
from tools.evaluation.questions import as_vlmevalkit, direct, read_questions, reasoned
from tools.evaluation.vlmevalkit import COT, DIRECT

PROMPTS = [
    {"image": "a.png", "question": "<image>\nHow many?", "answer": "3", "task": "count"},
    {"image": "a.png", "question": "How high?", "answer": 5, "task": "chart"},
    {"question": "2 + 2?", "answer": "4", "task": "count"},
]
MPO = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're ready "
    'to answer, please use the format "Final answer: .."\n\nQuestion:\n\n'
)


@pytest.fixture
def write(tmp_path):
    """Function from rows to the path of a prompt file beside its picture."""
    Image.new("RGB", (80, 56), "red").save(tmp_path / "a.png")

    def written(rows, name="held_out_en_prompts.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return written


def texts(file, words):
    return [question.text for question in read_questions([file], words)]


def test_reasoned_questions_are_put_by_the_language_of_their_file(write):
    english = texts(write(PROMPTS), reasoned("en"))
    chinese = texts(write(PROMPTS, "held_out_zh_prompts.jsonl"), reasoned("en"))
    assert english[0] == f"<image>\n{MPO}How many?"
    assert chinese[0].startswith("<image>\n你的任务是") and chinese[0].endswith("How many?")
    assert english[2].startswith("Your task") and "<image>" not in english[2]


def test_direct_questions_are_put_as_they_stand(write):
    questions = list(read_questions([write(PROMPTS)], direct))
    assert [question.text for question in questions] == ["<image>\nHow many?", "<image>\nHow high?", "2 + 2?"]
    assert [len(question.images) for question in questions] == [1, 1, 0]
    assert {question.version for question in questions} == {None}


def test_a_row_that_cannot_be_asked_ends_the_evaluation(write):
    file = write([{"image": "absent.png", "question": "q", "answer": "1"}])
    with pytest.raises(RecordError, match=r"prompts.jsonl:1: absent.png: no such image"):
        texts(file, direct)


def test_a_file_without_rows_is_refused(write):
    with pytest.raises(ValueError, match=r"prompts.jsonl: no rows; name a JSONL file of questions"):
        texts(write([]), direct)


def test_equal_rows_are_questions_of_their_own(write):
    first, second = write(PROMPTS), write(PROMPTS[:1], "more.jsonl")
    keys = [question.key for question in read_questions([first, second], direct)]
    assert len(set(keys)) == 4 and keys[3] == f"{keys[0]}-2"


def choice(**row):
    return {"question": "Which?", "answer": "Paris", "choices": ["Rome", "Paris"], **row}


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        (choice(), ["B", "Paris"]),
        (choice(answer="A"), ["A", "Rome"]),
        (choice(choices=[2, 3], answer=3), ["B", "3"]),
        (choice(choices=["B", "A"], answer="A"), ["B"]),  # the text would read like the other letter
        ({"question": "Which?", "answer": "B", "A": "Rome", "B": "Paris"}, ["B", "Paris"]),
        ({"question": "Which?", "answer": "Paris", "options": ["Rome", "Paris"]}, ["B", "Paris"]),
    ],
)
def test_letter_and_text_of_an_option_are_right(write, row, gold):
    [question] = read_questions([write([row])], direct)
    assert question.gold == gold
    assert question.text.startswith("Which?\nA. ") and "\nB. " in question.text


def test_options_that_stand_in_the_question_are_not_repeated(write):
    row = choice(question="Hint: give the letter.\nQuestion: Which?\nChoices:\n(A) Rome\n(B) Paris")
    assert texts(write([row]), direct) == [row["question"]]
    assert texts(write([choice(choices=None)]), direct) == ["Which?"]


@pytest.mark.parametrize(
    ("row", "reason"), [(choice(answer="Oslo"), "'Oslo' is no option"), (choice(choices="AB"), "at most 26 options")]
)
def test_choices_that_make_no_sense_are_refused(write, row, reason):
    with pytest.raises(RecordError, match=reason):
        texts(write([row]), direct)


@pytest.mark.parametrize(
    ("use_mpo_prompt", "use_cot", "text", "version"),
    [
        (True, True, f"{MPO}Which?\nA. Rome\nB. Paris", "en"),
        (True, False, f"Which?\nA. Rome\nB. Paris\n{DIRECT['choice']}", None),
        (False, True, f"Which?\nA. Rome\nB. Paris\n{COT['choice']}", "en_v2"),
        (False, False, f"Which?\nA. Rome\nB. Paris\n{DIRECT['choice']}", None),
    ],
)
def test_choices_are_put_as_in_vlmevalkit(write, use_mpo_prompt, use_cot, text, version):
    words = as_vlmevalkit(use_mpo_prompt=use_mpo_prompt, use_cot=use_cot)
    [question] = read_questions([write([choice()])], words)
    assert (question.text, question.version) == (text, version)


@pytest.mark.parametrize(
    ("name", "use_mpo_prompt", "use_cot", "text"),
    [
        ("MathVista_MINI.jsonl", False, True, f"2 + 2?\n{COT['open']}"),
        ("MathVista_MINI.jsonl", False, False, "2 + 2?"),
        ("MathVista_MINI.jsonl", True, True, f"{MPO}2 + 2?"),
        ("ChartQA_TEST.jsonl", False, True, f"2 + 2?\n{DIRECT['open']}"),
        ("OCRBench.jsonl", True, False, f"{MPO}2 + 2?"),
    ],
)
def test_open_questions_are_put_as_in_vlmevalkit(write, name, use_mpo_prompt, use_cot, text):
    assert texts(write(PROMPTS[2:], name), as_vlmevalkit(use_mpo_prompt=use_mpo_prompt, use_cot=use_cot)) == [text]


def test_chinese_choices_ask_in_chinese(write):
    row = choice(question="哪个？")
    assert texts(write([row]), as_vlmevalkit(use_mpo_prompt=False, use_cot=False))[0].endswith("请直接回答选项字母。")
