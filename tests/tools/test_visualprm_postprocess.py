"""Scored steps to PRM and ORM conversations and to preference pairs, through the command line."""

import json
import random

import pytest

from internvl_chat.records.judged import JudgedRow
from internvl_chat.records.meta import read_meta
from internvl_chat.records.rows import PreferencePair, Source
from tools.reasoning_data_pipeline.visualprm_data_pipeline_postprocess import main


def step(text, score):
    correct, total = (round(score * 16), 16) if score is not None else (0, 0)
    return {"step": text, "score": score or 0.0, "num_mc_correct": correct, "num_mc_total": total}


def answer(question, *steps, **more):
    text = "\n\n".join(text for text, _ in steps)
    row = {"image": "p.png", "question": question, "answer": 6, "response": text}
    return {**row, "steps_with_score": [step(*one) for one in steps], **more}


ROWS = [
    answer("Q1", ("base 4", 1.0), ("height 3", 0.75), ("so 6", 1.0)),
    answer("Q1", ("base 4", 1.0), ("height 5", 0.25), ("so 10", 0.0)),
    answer("Q1", ("base 2", 0.0), ("height 3", None), ("so 3", None)),
    answer("Q2", ("six", 1.0), image=["a.png", "b.png"]),
    answer("Q2", ("seven", 0.0), image=["a.png", "b.png"]),
    answer("Q3", ("right", 0.5), image=""),
    answer("Q3", ("also right", 0.375), image=""),
]
BAD = [
    '{"image": "p.png", "question": "Q", "answer": 1, "steps_with_score": []}',
    '{"image": "p.png", "question": "", "answer": 1, "steps_with_score": [{}]}',
    '{"image": "p.png", "question": "Q", "answer": 1, "steps_with_score": [{"step": "a", "score": 2}]}',
    '{"image": "p.png", "question": "Q", "answer": 1, "response": 5, "steps_with_score": '
    + json.dumps([step("a", 1.0)])
    + "}",
    "{not json",
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "model").mkdir(parents=True)
    write(tmp_path, ROWS)
    return tmp_path


def write(folder, rows, more=()):
    text = "".join(f"{line}\n" for line in [*map(json.dumps, rows), *more])
    (folder / "out" / "model" / "geometry.jsonl").write_text(text)


def run(folder, *flags, save="prm"):
    main(["--data-dir", str(folder / "out"), "--save-dir", str(folder / save), *flags])
    return folder / save


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def labels(conversation):
    return "".join(turn["value"] for turn in conversation["conversations"] if turn["from"] == "gpt")


def test_every_measured_step_becomes_a_turn(data):
    conversations = rows(run(data) / "raw" / "geometry_prm.jsonl")
    assert sorted(map(labels, conversations)) == sorted(["+++", "++-", "-", "+", "-", "+", "+"])
    assert sum("image" not in conversation for conversation in conversations) == 2
    assert {json.dumps(c.get("image")) for c in conversations} == {'"p.png"', '["a.png", "b.png"]', "null"}


def test_threshold_early_stop_and_orm_data(data):
    flags = ("--mc-threshold", "0.5", "--early-stop", "--include-orm-data")
    conversations = rows(run(data, *flags) / "raw" / "geometry_prm.jsonl")
    assert len(conversations) == 14  # an ORM conversation for each answer, the one cut by early stopping too
    ours = [c for c in conversations if "height 5" in str(c)]
    assert [labels(c) for c in ours] == ["+-", "-"]
    assert ours[1]["conversations"][1]["value"].endswith("base 4\n\nheight 5\n\nso 10")


def test_pairs_come_from_the_first_step_of_unequal_score(data):
    pairs = rows(run(data) / "raw" / "geometry_pairs_step_scores.jsonl")
    by_texts = {(pair["chosen"], pair["rejected"]): pair for pair in pairs}
    good, bad = "base 4\n\nheight 3\n\nso 6", "base 4\n\nheight 5\n\nso 10"
    assert set(by_texts) == {(good, bad), (good, "base 2\n\nheight 3\n\nso 3"), ("six", "seven")}
    pair = by_texts[good, bad]
    assert (pair["step"], pair["chosen_score"], pair["rejected_score"], pair["answer_gt"]) == (1, 0.75, 0.25, 6)
    assert len(rows(run(data, "--min-gap", "0", save="all") / "raw" / "geometry_pairs_step_scores.jsonl")) == 4
    few = run(data, "--num-pairs-per-key", "1", save="few") / "raw" / "geometry_pairs_step_scores.jsonl"
    assert len(rows(few)) == 2


def test_the_meta_files_are_ready_to_train_from(data):
    (data / "p.png").write_bytes(b"")
    save = run(data)
    (spec,) = read_meta(save / "meta.json")
    assert spec.name == "geometry_pairs_step_scores" and spec.length == 3 and spec.root == ".."
    lines = (save / spec.annotation).read_bytes().splitlines()
    assert all(PreferencePair.from_row(json.loads(line), Source("x", 1)).rejected for line in lines)
    (spec,) = read_meta(save / "prm_meta.json")
    assert spec.name == "geometry_prm" and spec.length == 7


def test_the_order_of_the_rows_changes_nothing(data):
    first = run(data, save="one")
    write(data, random.Random(1).sample(ROWS, len(ROWS)))
    second = run(data, save="two")
    for name in ("geometry_prm.jsonl", "geometry_pairs_step_scores.jsonl"):
        assert (first / "raw" / name).read_bytes() == (second / "raw" / name).read_bytes()


def test_bad_rows_are_written_down_and_answers_counted_once(data, capsys):
    write(data, [*ROWS, ROWS[0]], BAD)
    save = run(data)
    rejects = rows(save / "rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [9, 10, 11, 12, 13]
    reasons = ("'steps_with_score'", "'question' is empty", "not 2", "'response' must be a string", "not JSON")
    assert all(reason in reject["reason"] for reason, reject in zip(reasons, rejects, strict=True))
    summary = json.loads((save / "summary.json").read_text())["geometry"]
    assert (summary["rows"], summary["duplicates"], summary["bad_rows"], summary["questions"]) == (8, 1, 5, 3)
    assert "bad_rows 5" in capsys.readouterr().out


def test_other_options_need_overwrite(data):
    run(data)
    run(data)
    with pytest.raises(ValueError, match=r"mc_threshold 0.0 -> 0.5; .* --overwrite"):
        run(data, "--mc-threshold", "0.5")
    run(data, "--mc-threshold", "0.5", "--overwrite")


def test_a_folder_without_answers_is_an_error(data, capsys):
    (data / "out" / "model" / "geometry.jsonl").unlink()
    with pytest.raises(SystemExit):
        run(data)
    assert "has the run that writes them finished?" in capsys.readouterr().err


def test_empty_answers_are_counted_and_never_paired(data):
    empty = answer("Q2", ("", 0.0), image=["a.png", "b.png"])
    write(data, [*ROWS[3:5], empty, {**empty, "response": "\u200b"}])
    save = run(data)
    assert [row["rejected"] for row in rows(save / "raw" / "geometry_pairs_step_scores.jsonl")] == ["seven"]
    assert json.loads((save / "summary.json").read_text())["geometry"]["empty_answers"] == 2


def test_a_run_that_made_nothing_fails_and_one_without_pairs_does_not(data, capsys):
    command = ["--data-dir", str(data / "out"), "--save-dir"]
    write(data, [], BAD)
    assert main([*command, str(data / "none")]) == 1
    assert "error: no row was made for meta.json, prm_meta.json: 5 rows could not be used" in capsys.readouterr().err
    write(data, ROWS[:1])
    assert main([*command, str(data / "conversations")]) == 0  # a PRM trains on these


def test_rows_keep_the_scores_of_their_steps(data):
    undecided = answer("Q4", ("a", 1.0), ("b", None), ("c", 0.25), ("d", None))
    write(data, [*ROWS, undecided])
    written = rows(run(data, "--include-orm-data") / "raw" / "geometry_prm.jsonl")
    judged = [JudgedRow.from_row(row, Source("x", 1)) for row in written]
    assert {row.scores for row in judged if "Q1" in row.steps[0]} == {
        *((1.0, 0.75, 1.0), (1.0, 0.25, 0.0), (0.0,)),  # by steps
        *((1.0,), (0.0,)),  # of whole answers, the last step's
    }
    (gap,) = [row for row in judged if "Q4" in row.steps[0]]  # nothing decides about the whole answer
    assert (gap.judgements, gap.scores) == (("+", "", "+"), (1.0, None, 0.25))


def test_a_step_without_text_is_not_shown_and_counted(data):
    """Three blank lines in a row leave one, and an answer may begin with them."""
    write(data, [answer("Q1", ("", 1.0), ("base 4", 0.75), (" \n", 0.5), ("so 6", 0.0))])
    [row] = rows(run(data) / "raw" / "geometry_prm.jsonl")
    judged = JudgedRow.from_row(row, Source("geometry_prm.jsonl", 1))
    assert judged.steps[0].endswith("\nbase 4") and judged.steps[1:] == ("so 6",)
    assert (judged.judgements, judged.scores) == (("+", "-"), (0.75, 0.0))
    assert json.loads((data / "prm" / "summary.json").read_text())["geometry"]["steps without text"] == 2


def test_a_critic_may_be_shown_the_question_of_the_prompt_file(data):
    write(data, [{**ROWS[5], "question_orig": "Q3 plain"}, ROWS[3]])
    asked = lambda save: sorted(row["conversations"][1]["value"].split("\n")[1] for row in rows(save))  # noqa: E731
    assert asked(run(data) / "raw" / "geometry_prm.jsonl") == ["Q2", "Q3"]
    assert asked(run(data, "--raw-question", save="raw") / "raw" / "geometry_prm.jsonl") == ["Q2", "Q3 plain"]


def test_the_conversations_that_teach_most_are_named_by_a_meta_of_their_own(data, capsys):
    save = run(data, "--keep-share", "0.2")
    (spec,) = read_meta(save / "prm_best_meta.json")
    assert (spec.name, spec.length) == ("geometry_prm_best", 2)
    assert sorted(map(labels, rows(save / spec.annotation))) == ["++-", "-"]
    with pytest.raises(SystemExit):
        run(data, "--keep-share", "2", save="none")
    assert "2 must be a number above 0 and at most 1" in capsys.readouterr().err
