"""docs/evaluation.md and README: their commands as written, on a small quickstart; MathVista on rows of its form."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tools import convert, evaluate, report

ROOT = Path(__file__).parents[2]
PROGRAMS = {"tools/convert.py": convert.main, "tools/evaluate.py": evaluate.main, "tools/report.py": report.main}


def block(word, page="docs/evaluation.md"):
    """The one command of the page that has this word."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line for found in re.findall(r"```bash\n(.*?)```", text, re.S) for line in found.splitlines()]
    [command] = [line for line in commands if word in line]
    return command


@pytest.fixture
def clone(tmp_path, tiny_run, monkeypatch, capsys):
    """A folder like a clone in which `make quickstart` ran; function from a command to what it prints there."""
    (tmp_path / "work_dirs").mkdir()
    (tmp_path / "work_dirs" / "quickstart").symlink_to(tiny_run.parent)
    (tmp_path / "ckpt").symlink_to(ROOT / "ckpt")
    monkeypatch.chdir(tmp_path)

    def run(text):
        words = shlex.split(text)
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("="))
        assert words[0] == "python"
        PROGRAMS[words[1]](words[2:])
        return capsys.readouterr().out

    return run


@pytest.mark.integration
def test_two_checkpoints_are_compared_as_written(clone):
    text = clone(block("--against ckpt/tiny-base"))
    assert "majority of 4" in text and "reward_margin" in text and "p = " in text
    found = json.loads(Path("work_dirs/evaluation/after.json").read_text())
    assert {"reasoned", "reasoned_greedy"} == found["comparison"].keys()
    assert Path("work_dirs/evaluation/after.png").stat().st_size > 5000


@pytest.mark.integration
def test_the_readme_evaluates_reports_and_converts_as_written(clone):
    assert "p = " in clone(block("--against", "README.md"))
    assert "reasoned" in json.loads(Path("work_dirs/compared.json").read_text())["comparison"]
    assert "report.html: 0." in clone(block("tools/report.py", "README.md"))
    assert "published -> -hf" in clone(block("tools/convert.py", "README.md"))


@pytest.mark.integration
def test_vlmevalkits_words_are_asked_as_written(clone):
    assert "vlmeval, all" in clone(block("--use-mpo-prompt"))


@pytest.mark.integration
def test_a_report_is_made_as_written(clone):
    assert "report.html: 0." in clone(block("tools/report.py"))
    assert Path("work_dirs/quickstart/mpo/report.html").is_file()


def test_from_prompts_to_proof_as_written(tmp_path):
    command = block("improve.sh").replace("bash shell", f"bash {ROOT}/shell")
    settings = {**os.environ, "DRY_RUN": "1", "PYTHON": "python"}
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert result.returncode == 0 and "== train_2" in result.stdout and "--num-return-sequences 8" in result.stdout


def test_rows_of_mathvista_are_read(tmp_path, work):
    """Exported by `datasets` as in the command of the page: null choices, precision, nested metadata."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "pid": "1",
            "question": "How many?",
            "choices": None,
            "answer": "1.2",
            "precision": 1.0,
            "answer_type": "float",
        },
        {"pid": "2", "question": "Which?", "choices": ["red", "blue"], "answer": "blue", "precision": None},
    ]
    more = {"image": "images/photo.png", "unit": None, "decoded_image": "-", "metadata": {"task": "geometry"}}
    image = next((work / "images").glob("*.png"))
    image.rename(work / "images" / "photo.png")
    data = datasets.Dataset.from_list([{**row, **more} for row in rows])
    data.remove_columns("decoded_image").to_json(work / "mathvista_testmini.jsonl")
    command = block("metadata.task").replace("\\\n", " ")
    flags = re.search(r"tools/evaluate.py (.*)", command)[1].replace("MathVista/", f"{work}/").split()
    found = evaluate.evaluate(
        evaluate.parse_arguments([*flags, "--engine", "scripted", "--out", str(work / "out.json")])
    )
    assert found["reasoned"]["geometry"]["questions"] == 2
    answers = [json.loads(line) for line in (work / "out.answers.jsonl").read_text().splitlines()]
    assert answers[1]["question"].endswith("Which?\nA. red\nB. blue")


@pytest.mark.integration
def test_live_logs_reach_tensorboard(tiny_run):
    [folder] = (tiny_run / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    names = {"train/loss", "train/rewards/margins", "train/delta", "train/peak_memory_gib", "train/losses/bco_pair"}
    assert names <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
