"""The door of every command: what a user sees of a mistake."""

import logging
import subprocess
import sys

import pytest

from internvl_chat.run.entry import NOISE, Finding, Parser, Without, enter, unknown_flags


@pytest.fixture
def end_of(monkeypatch, capsys):
    """Function from what `main` raises, and words of the command line, to exit code and lines on stderr."""
    monkeypatch.delenv("MPO_TRACEBACK", raising=False)
    for name in ("RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(error, *words):
        def main():
            raise error

        monkeypatch.setattr(sys, "argv", ["tools/a_tool.py", *words])
        with pytest.raises(SystemExit) as ended:
            enter(main)
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("run.yaml: learning_rate: 'fast' is no number"), 2),
        (FileNotFoundError("meta.json: no such file"), 2),
        (ModuleNotFoundError("--report_to wandb: pip install wandb"), 2),
        (Finding("3 of 4 rows cannot be trained on"), 1),
        (FloatingPointError("the loss of step 3 is nan"), 1),
    ],
)
def test_a_mistake_ends_in_its_words(end_of, error, code):
    ended, [line] = end_of(error)
    assert ended == code and line.endswith(str(error))


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (2, 2), ("a page", 0)])
def test_the_code_that_main_returns_is_the_program_s(monkeypatch, returned, code):
    monkeypatch.setattr(sys, "argv", ["tools/a_tool.py"])
    if not code:
        assert enter(lambda: returned) is None
        return
    with pytest.raises(SystemExit) as ended:
        enter(lambda: returned)
    assert ended.value.code == code


def test_what_nobody_reads_to_its_end_is_no_success():
    """A training whose console is gone stops: a script must not take it for complete."""
    code = "from internvl_chat.run.entry import enter; enter(lambda: [print('a' * 1000) for _ in range(1000)])"
    shell = f'"{sys.executable}" -c "{code}" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a" * 1000, "141"] and done.stderr == ""


def test_a_fault_of_ours_keeps_its_traceback(end_of):
    with pytest.raises(ZeroDivisionError):
        end_of(ZeroDivisionError())


def test_long_words_are_cut_after_three_lines_and_an_error_without_words_has_its_name(end_of):
    assert end_of(ValueError("one\n\ntwo\nthree\nfour"))[1][1:] == ["two", "three"]
    assert end_of(ValueError())[1][0].endswith("ValueError")


@pytest.mark.parametrize("words", [["--traceback", "True"], ["--traceback"], []])
def test_a_traceback_is_shown_to_who_asks(end_of, monkeypatch, words):
    if not words:
        monkeypatch.setenv("MPO_TRACEBACK", "1")
    code, lines = end_of(ValueError("a mistake"), "--out", "a", *words)
    assert code == 2 and lines[0].startswith("Traceback") and lines[-1] == "ValueError: a mistake"
    assert sys.argv == ["tools/a_tool.py", "--out", "a"]


def test_another_rank_lets_the_first_speak(end_of, monkeypatch):
    waited = []
    monkeypatch.setattr("internvl_chat.run.entry.time.sleep", waited.append)
    end_of(ValueError("a"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    end_of(ValueError("a"))
    assert waited == [3.0]


def test_the_version_needs_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["a_tool.py", "--version"])
    enter(pytest.fail)
    text = capsys.readouterr().out
    assert f"python {sys.version.split()[0]}" in text and "\ntorch " in text and "\ntransformers " in text


def test_flags_that_nobody_has_are_named_with_the_nearest(capsys):
    parser = Parser(prog="sample")
    parser.add_argument("--max-num")
    parser.add_argument("--out-dir", required=True)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--out-dir", "a", "--max_nun", "6"])
    assert (
        capsys.readouterr().err
        == "sample: unknown flag --max_nun; did you mean --max-num?; --help explains the flags\n"
    )
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([])
    assert capsys.readouterr().err.count("\n") == 1
    assert unknown_flags(["--zzz=1"], ["--max-num"]) == "unknown flag --zzz"
    assert unknown_flags(["stray"], ["--max-num"]) == "unexpected words stray"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lerning_rate", "--learning_rate"),  # a slip
        ("--output", "--output_dir"),  # the begin of it, not the nearest by letters
        ("--save", "--save_steps"),  # of several that begin with it the nearest
        ("--lr", "--learning_rate"),  # as others call it
        ("--model", "--model_name_or_path"),
        ("learning_rate=1e-5", "--learning_rate"),
    ],
)
def test_the_flag_that_was_meant_is_named(typed, meant):
    known = "nll_mode output_dir learning_rate save_strategy save_steps lr_scheduler_type model_name_or_path seed"
    assert unknown_flags([typed], [f"--{name}" for name in known.split()]).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize("starts", NOISE.values())
def test_known_noise_is_left_out_by_its_start_and_nothing_else(starts):
    texts = [*(f"{start}, %s so on" for start in starts), "Another matter, %s so on"]
    records = [logging.LogRecord("of a library", 30, "", 0, text, ("and",), None) for text in texts]
    assert [Without(starts).filter(record) for record in records] == [False] * len(starts) + [True]


def test_noise_is_left_out_before_a_library_is_imported_that_speaks_while_it_is(monkeypatch):
    code = """import logging, os; from internvl_chat.run.entry import enter
def main():
    logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU. If you have GPU")
    print(os.environ["HF_HUB_DISABLE_PROGRESS_BARS"])
enter(main)"""
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
