"""A folder with one of everything that a command takes, and how a command ends in it."""

import json
import logging
import shutil

import pytest

from tests.door import end_of
from tests.mistakes.mistake import check_ending

ROW = {
    "image": "red.png",
    "question": "What colour is it?",
    "question_orig": "What colour is it?",
    "answer": "red",
    "chosen": "It is red. Final answer: red",
    "rejected": "It is blue. Final answer: blue",
    "response": "It is red. Final answer: red",
    "prompt_version": "en",
}


@pytest.fixture
def folder(tmp_path, golden_folder, monkeypatch):
    """The working directory of a case: ckpt, data/meta.json, data/rows.jsonl with pictures, a run that was saved."""
    shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "ckpt")
    (tmp_path / "data" / "images").mkdir(parents=True)
    picture = next((golden_folder / "data" / "images").glob("*.png"))
    shutil.copy(picture, tmp_path / "data" / "images" / "red.png")
    lines = "".join(json.dumps({**ROW, "question": f"{ROW['question']} {n}"}) + "\n" for n in range(4))
    (tmp_path / "data" / "rows.jsonl").write_text(lines)
    entry = {"circles": {"root": "data/images", "annotation": "data/rows.jsonl"}}
    (tmp_path / "data" / "meta.json").write_text(json.dumps(entry))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 1.0}]}')
    for name in ("RANK", "WORLD_SIZE", "TP", "SLURM_NTASKS", "SLURM_STEP_ID", "MPO_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder, capsys, monkeypatch):
    """Function from an entry's `main` and a mistake: its command ends as a mistake must."""
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])  # the last words, not the log before

    def check(main, mistake, words=""):
        mistake.spoil(folder)
        code = end_of(main, *words.split(), *mistake.words.split(), program="command")
        check_ending(code, capsys.readouterr().err, mistake)

    return check
