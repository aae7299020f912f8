"""The correctness pipeline: names, rows, rejects, ranks, resuming, tile limits; on scripted and tiny models."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.engines.protocol import EngineError, Failure
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine
from tools.reasoning_data_pipeline.files.store import StoreMismatchError, read_origin
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main
from tools.reasoning_data_pipeline.prompts.wording import ask
from tools.reasoning_data_pipeline.sampling import pipeline as sampling
from tools.reasoning_data_pipeline.sampling.arguments import model_name, sampling_parser, tile_limits

PROMPTS = [
    {"image": "square_small.png", "question": "<image>\nCount them", "answer": 3, "id": "x-1", "source": {"a": 1}},
    {"image": ["square_small.png", "tall_3to4.png"], "question": "Same?", "answer": "A"},
    {"question": "1+2", "answer": ["3", "three"]},
    {"image": "gone.png", "question": "What?", "answer": "A"},
    {"image": "../secret.png", "question": "What?", "answer": "A"},
    {"image": "square_small.png", "question": " ", "answer": "A"},
    {"image": "square_small.png", "question": "no answer"},
    {"image": "square_small.png", "question": "<image><image> two?", "answer": "A"},
]


@pytest.fixture(autouse=True)
def prompts(write_rows):
    return write_rows([*PROMPTS[:2], '{"question": "trailing", "answer": "A"},', *PROMPTS[2:]])


def flags(*more):
    given = ["--engine", "scripted", "--checkpoint", "ckpt/OpenGVLab/tiny", "--prompt-path", "prompts.jsonl"]
    return [*given, "--image-root", "images", "--out-dir", "out", "--num-return-sequences", "4", *more]


def test_rows_carry_the_documented_fields(work, read_rows):
    main(flags("--dynamic", "--max-num", "12"))
    output = work / "out" / "OpenGVLab_tiny" / "max_tiles_12" / "prompts.jsonl"
    found = read_rows(output)
    assert [row["question_orig"] for row in found] == ["<image>\nCount them"] * 4 + ["Same?"] * 4 + ["1+2"] * 4
    first = found[0]
    assert set(first) == {*PROMPTS[0], "question_orig", "response", "prompt_version"}
    assert {key: first[key] for key in ("image", "answer", "id", "source")} == {
        key: PROMPTS[0][key] for key in ("image", "answer", "id", "source")
    }
    assert first["question"] == ask("Count them", 1, version="en", where=("f", 1))
    assert first["prompt_version"] == "en"
    assert "Final answer: " in first["response"]
    assert found[4]["image"] == PROMPTS[1]["image"]
    assert found[4]["question"].startswith("<image>\n<image>\nYour task")
    assert "image" not in found[8] and found[8]["answer"] == ["3", "three"]
    assert len({row["response"] for row in found}) > 3


def test_bad_rows_are_rejected_with_line_and_reason(work, read_rows):
    main(flags())
    parts = work / "out" / "OpenGVLab_tiny" / "max_tiles_6" / "prompts.parts"
    found = {row["line"]: row["reason"] for row in read_rows(parts / "rejects.jsonl")}
    reasons = {
        3: "trailing comma",
        5: "no such image",
        6: "may not lead out of --image-root",
        7: "'question' is empty",
        8: "'answer' is missing",
        9: "2 <image> in the question for 1 images",
    }
    assert found.keys() == reasons.keys()
    assert all(reason in found[line] for line, reason in reasons.items())
    summary = json.loads((parts / "summary.json").read_text())
    assert (summary["prompts"], summary["rows"], summary["rejected"]) == (9, 12, 6)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"conversations": [{"from": "human", "value": "Q"}]}], "1 of 1 prompts rejected"),
        (
            ['{"question": "Q", "answer": "A"},'] * 2,
            r"2 of 2 .*; the first: prompts\.jsonl:1: .*trailing",
        ),
        ([{"image": "gone.png", "question": "Q", "answer": "A"}], r"prompts\.jsonl:1: gone\.png: no such image"),
    ],
)
def test_a_run_without_a_single_answer_fails_and_says_why(work, write_rows, caplog, rows, reason):
    write_rows(rows)
    for _ in range(2):  # started again, it is complete, and says so again
        caplog.clear()
        assert main(flags()) == 1
        [said] = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert "prompts.jsonl: no row was made of prompts.jsonl: " in said and re.search(reason, said)
    write_rows([PROMPTS[2]], "good.jsonl")
    assert main(flags("--prompt-path", "prompts.jsonl", "good.jsonl")) == 0
    assert "no row was made of prompts.jsonl" in caplog.text


def test_a_json_array_is_no_prompt_file(work, write_rows):
    write_rows(["[", '  {"image": "a.png", "question": "Q", "answer": "A"}', "]"])
    with pytest.raises(ValueError, match="JSON array"):
        main(flags())


def test_the_rank_that_completes_an_empty_run_fails(work, write_rows, monkeypatch):
    write_rows([f"[{number}]" for number in range(20)])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    codes = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        codes.append(main(flags()))
    assert codes == [0, 1]


def test_the_origin_tells_where_images_are_found(work):
    main(flags())
    origin = read_origin(work / "out" / "OpenGVLab_tiny" / "max_tiles_6" / "prompts.jsonl")
    assert origin == {"prompt_path": str(work / "prompts.jsonl"), "image_root": str(work / "images")}


def test_several_tile_limits_and_files_in_one_launch(work, read_rows):
    shutil.copy("prompts.jsonl", "more_zh_.jsonl")
    main(flags("--dynamic", "--max-num", "1,6,24", "--prompt-path", "prompts.jsonl", "more_zh_.jsonl"))
    outputs = sorted(str(path.relative_to("out/OpenGVLab_tiny")) for path in Path("out").rglob("*.jsonl"))
    outputs = [name for name in outputs if ".parts" not in name]
    limits = ("1", "24", "6")
    assert outputs == [f"max_tiles_{n}/{name}.jsonl" for n in limits for name in ("more_zh_", "prompts")]
    chinese = read_rows("out/OpenGVLab_tiny/max_tiles_6/more_zh_.jsonl")
    assert {row["prompt_version"] for row in chinese} == {"zh"}
    assert all("答案: " in row["response"] for row in chinese)
    one, six = (read_rows(f"out/OpenGVLab_tiny/max_tiles_{n}/prompts.jsonl") for n in (1, 6))
    assert [row["response"] for row in one] != [row["response"] for row in six], "other limits are other samples"


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("ckpt/OpenGVLab/InternVL2_5-8B/", "OpenGVLab_InternVL2_5-8B"),
        ("InternVL2_5-8B", "InternVL2_5-8B"),
        ("/InternVL2_5-8B", "InternVL2_5-8B"),
        ("../tiny", "tiny"),
        ("", ""),
    ],
)
def test_outputs_are_named_by_the_last_two_parts_of_the_checkpoint(checkpoint, name):
    assert model_name(checkpoint) == name


def test_progress_is_shown_with_rate_and_time_left(capsys):
    main(flags())
    shown = capsys.readouterr().err
    assert "prompts.jsonl rank 0/1" in shown
    assert "answer/s" in shown
    assert "/36 [" in shown


def test_tile_limits_reach_the_engine(work, monkeypatch):
    seen = []

    class Spy(ScriptedEngine):
        def generate(self, requests):
            for request in requests:
                seen.append((len(request.images), request.max_tiles))
                yield from super().generate([request])

    monkeypatch.setattr(sampling, "open_engine", lambda name, options: Spy())
    main(flags("--dynamic", "--max-num", "12"))
    assert seen == [(1, 12), (2, 6), (0, 12)]
    seen.clear()
    main(flags("--out-dir", "out2", "--max-num", "12"))
    assert seen == [(1, 1), (2, 1), (0, 1)]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--max-num", "1,6"], "needs --dynamic"),
        (["--num-return-sequences", "0"], "at least 1"),
        (["--temperature", "-1"], "sampling needs"),
        (["--engine", "transformers", "--checkpoint", ""], "--checkpoint is missing"),
        (["--prompt-path", "a/p.jsonl", "b/p.jsonl"], "two of these would share an output"),
    ],
)
def test_impossible_arguments_are_refused(work, more, match):
    with pytest.raises(ValueError, match=match):
        main(flags(*more))


@pytest.mark.parametrize("text", ["0", "6,6", "6,", "x"])
def test_impossible_tile_limits_are_refused(text):
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        tile_limits(text)


def run_ranks(work, monkeypatch, world_size, out_dir, *more):
    for rank in range(world_size):
        for name, value in {"RANK": rank, "WORLD_SIZE": world_size, "TORCHELASTIC_RUN_ID": "launch"}.items():
            monkeypatch.setenv(name, str(value))
        main([*flags(*more), "--out-dir", out_dir])
    return (work / out_dir / "OpenGVLab_tiny" / "max_tiles_6" / "prompts.jsonl").read_bytes()


def test_any_number_of_ranks_gives_the_same_file(work, monkeypatch):
    alone = run_ranks(work, monkeypatch, 1, "one")
    assert run_ranks(work, monkeypatch, 2, "two") == alone
    assert run_ranks(work, monkeypatch, 4, "four") == alone
    assert run_ranks(work, monkeypatch, 4, "groups", "--tp", "2") == alone


def test_tasks_that_lead_no_group_end_at_once(work, monkeypatch):
    monkeypatch.setattr(sampling, "open_engine", lambda name, options: pytest.fail("this task runs no engine"))
    for name, value in {"RANK": 1, "WORLD_SIZE": 4, "TORCHELASTIC_RUN_ID": "launch", "TP": 4}.items():
        monkeypatch.setenv(name, str(value))
    main(flags())
    assert not Path("out").exists()


def test_an_interrupted_run_goes_on_to_the_same_file(work, monkeypatch):
    whole = run_ranks(work, monkeypatch, 1, "whole")

    class Dies(ScriptedEngine):
        def generate(self, requests):
            for number, result in enumerate(super().generate(requests)):
                if number == 6:
                    raise EngineError("the engine failed on row-1")
                yield result

    monkeypatch.setattr(sampling, "open_engine", lambda name, options: Dies())
    with pytest.raises(EngineError, match="row-1"):
        run_ranks(work, monkeypatch, 1, "again")
    assert not list(Path("again").rglob("prompts.jsonl"))
    monkeypatch.undo()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    assert run_ranks(work, monkeypatch, 2, "again") == whole


def test_a_resume_with_other_settings_is_refused(work):
    main(flags())
    main(flags("--batch-size", "4", "--num-workers", "1", "--tp", "2"))  # these change nothing
    with pytest.raises(StoreMismatchError, match="temperature"):
        main(flags("--temperature", "0.5"))
    main(flags("--temperature", "0.5", "--overwrite"))


def test_a_request_that_the_engine_cannot_answer_is_rejected(work, monkeypatch, read_rows):
    class Picky(ScriptedEngine):
        def generate(self, requests):
            for request in requests:
                if request.question.endswith("Same?"):
                    yield Failure(request.key, "too long for this engine")
                else:
                    yield from super().generate([request])

    monkeypatch.setattr(sampling, "open_engine", lambda name, options: Picky())
    main(flags())
    folder = work / "out" / "OpenGVLab_tiny" / "max_tiles_6"
    assert len(read_rows(folder / "prompts.jsonl")) == 8
    assert {"file": "prompts.jsonl", "line": 2, "reason": "too long for this engine"} in read_rows(
        folder / "prompts.parts" / "rejects.jsonl"
    )


def test_a_share_of_the_rows_is_sampled(work, read_rows):
    lines = [json.dumps({"question": f"Q{number}", "answer": "A"}) for number in range(10)]
    (work / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    main(flags("--sample-max-num", "3", "--sample-start-idx", "1", "--num-return-sequences", "1"))
    found = read_rows(work / "out" / "OpenGVLab_tiny" / "max_tiles_6" / "prompts.jsonl")
    assert [row["question_orig"] for row in found] == ["Q1", "Q4", "Q7"]


def test_the_documented_flags_and_defaults():
    documented = (
        "--checkpoint m --prompt-path p.jsonl --out-dir o --batch-size 1 --num-workers 8 --num-return-sequences 32 "
        "--top-k 50 --temperature 1.0 --dynamic --max-num 12 --sample-max-num 20000 --tp 8 --sample-start-idx 3 "
        "--session-len 8192 --max-new-tokens 100 --top-p 0.9 --vit-batch-size 4 --cache-max-entry-count 0.4 "
        "--prompt-version zh_v2 --overwrite"
    )
    parser = sampling_parser("", num_samples=32, version="en")
    args = parser.parse_args(documented.split())
    assert (args.max_num, args.tp, args.sample_max_num, args.prompt_version) == ([12], 8, 20000, "zh_v2")
    defaults = parser.parse_args(["--prompt-path", "p.jsonl"])
    assert (defaults.num_return_sequences, defaults.prompt_version, defaults.engine) == (32, "en", "auto")
    assert (defaults.top_k, defaults.temperature, defaults.dynamic, defaults.tp) == (50, 1.0, False, 1)


@pytest.mark.integration
def test_two_cpu_processes_from_the_documented_command(run_two_ranks, write_rows, read_rows):
    write_rows(PROMPTS[:3])
    found = read_rows(run_two_ranks("mmpr_data_pipeline_correctness"))
    assert [row["question_orig"] for row in found] == ["<image>\nCount them"] * 2 + ["Same?"] * 2 + ["1+2"] * 2
