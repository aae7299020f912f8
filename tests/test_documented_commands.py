"""Every command of README and docs as it is written there: started as far as its own flags reach, then stopped.

Launchers make a dry run, Python programs parse their flags, `hf download` its own with the network taken away.
"""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from itertools import dropwhile
from pathlib import Path

import pytest
from huggingface_hub.cli import hf as hub
from transformers import HfArgumentParser

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.training import parse_arguments
from tools.mpo import WORDS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "ckpt/README.md", "examples/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
PROGRAMS = ("python", "mpo", "torchrun", "sh", "bash", "make", "hf", "pip", "git", "sbatch", "cd")


def commands():
    """(page, command) of the shell blocks, of indented lines, and of single commands inside sentences."""
    for page in PAGES:
        text = page.read_text()
        prose = FENCED.sub("", text)
        found = [block for language, block in FENCED.findall(text) if language == "bash"]
        found += re.findall(r"^ {4}((?:python|mpo) .*)$", prose, re.M)
        found += re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`", prose)
        for block in found:
            lines = (line.split(" #")[0] for line in block.replace("\\\n", " ").splitlines())
            yield from ((page.relative_to(ROOT), " ".join(line.split())) for line in lines if line.strip())


COMMANDS = sorted({command: str(page) for page, command in commands()}.items())


class ParsedError(Exception):
    """Thrown where a program has parsed its flags."""


def check_python(words, monkeypatch):
    """`python -m module flags`, `python file flags`, or `python -c code`."""
    if words[0] == "-c":
        compile(words[1], "documented", "exec")
        return
    if words[:2] == ["-m", "internvl_chat.train_mpo"]:
        check_training(words[2:])
        return
    path = module_file(words[1]) if words[0] == "-m" else ROOT / words[0]
    flags = words[2:] if words[0] == "-m" else words[1:]
    if "parse" not in path.read_text():
        assert not flags
        return
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, *args, **kwargs):
        _, unknown = parse(self, *args, **kwargs)
        assert not unknown
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.syspath_prepend(str(ROOT if words[0] == "-m" else path.parent))
    monkeypatch.setattr(sys, "argv", [str(path), *flags])
    with pytest.raises(SystemExit if "--help" in flags else ParsedError) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    assert "--help" not in flags or stopped.value.code == 0


def check_mpo(words, monkeypatch):
    """A word and the flags of its entry point; alone, the list of words."""
    if words[:1] in ([], ["WORD"], ["--help"]):
        return
    module, _ = WORDS[words[0]]
    if len(words) == 1:  # its name in a sentence
        return
    if module == "tools.serve":
        assert len(words) == 1 or not words[1].startswith("-")
    else:
        check_python(["-m", module, *words[1:]], monkeypatch)


def module_file(name):
    """What `python -m name` runs: a module, or a package's __main__."""
    path = ROOT / name.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def check_training(flags):
    """The trainer's own."""
    if flags[:1] == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            parse_arguments(flags[:1])
    elif flags:  # without any it is a name in a sentence
        parse_arguments([*flags, "--bf16", "False"])  # a CPU may refuse it


def check_shell(command):
    """A dry run of a launcher, else a script that parses and knows the flags."""
    script = next(word for word in shlex.split(command) if word.startswith((".", "shell/")))
    if "launch.sh" in (ROOT / script).read_text():
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        environment |= {"DRY_RUN": "1", "PYTHON": "true"}
        result = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0 and result.stdout.strip(), result.stderr
    else:
        subprocess.run(["bash", "-n", ROOT / script], check=True)
        assert all(word in (ROOT / script).read_text() for word in re.findall(r"--\S+", command))


def check_hub(words, monkeypatch):
    """hf download OWNER/NAME --local-dir ..NAME: models are OpenGVLab's, other names and benchmarks are data sets."""
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.cli.download.snapshot_download", lambda **settings: asked.update(settings) or "there"
    )
    hub.app.main(args=words, standalone_mode=False)
    owner, name = asked["repo_id"].split("/")
    assert Path(asked["local_dir"]).name in name
    is_data = owner != "OpenGVLab" or any(word in name for word in ("MMPR", "Bench"))
    assert asked["repo_type"] == ("dataset" if is_data else "model")


@pytest.mark.parametrize(("command", "page"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_documented_command_is_taken_as_written(command, page, monkeypatch):
    words = shlex.split(command)
    program, *rest = dropwhile(lambda word: "=" in word, words)
    if program in ("sh", "bash"):
        check_shell(command)
    elif program == "sbatch":
        check_shell(rest[rest.index("--wrap") + 1])
    elif program == "torchrun" and "run.py" in rest:  # VLMEvalKit's
        assert {"--data", "--model"} <= set(rest)
    elif program == "torchrun":
        check_training(rest[rest.index("internvl_chat.train_mpo") + 1 :])
    elif program == "python":
        check_python(rest, monkeypatch)
    elif program == "mpo":
        check_mpo(rest, monkeypatch)
    elif program == "source":
        assert rest == [".venv/bin/activate"]
    elif program == "complete":
        subprocess.run(["bash", "-n", "-c", command], check=True)
    elif program == "hf":
        check_hub(rest, monkeypatch)
    elif program == "make":
        subprocess.run(["make", "--dry-run", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        assert rest[:2] == ["install", "-r"] and (ROOT / rest[2]).is_file()
    elif program == "unzip":
        assert rest[-2] == "-d"
    else:
        assert command.startswith("git clone <this repository> internvl-mpo && cd internvl-mpo"), f"{page}: {command}"


def test_flags_that_sentences_name_exist():
    known = set(HfArgumentParser((ModelArguments, DataArguments, MPOConfig))._option_string_actions)
    for folder in ("tools", "benchmarks", "data"):
        for path in (ROOT / folder).rglob("*.py"):
            known |= set(re.findall(r'"(--[a-z][\w-]*)"', path.read_text()))
    known |= {"--early-stop", "--no-early-stop", "--quotatype"}
    for page in (ROOT / "README.md", ROOT / "docs" / "migration.md", ROOT / "docs" / "fast_path.md"):
        named = {
            flag
            for code in re.findall(r"`([^`]+)`", FENCED.sub("", page.read_text()))
            for flag in re.findall(r"--[a-z][\w-]*", code)
        }
        assert named - known == set(), page


@pytest.mark.parametrize("name", ["validation", "sampled", "scored", "pairs", "published", "work_dirs", "MMPR-v1.1"])
def test_documented_folders_do_not_fill_up_git_status(name):
    """Folders that commands of the documentation make or download to in the root of the clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    assert subprocess.run(["git", "check-ignore", "-q", f"{name}/x.jsonl"], cwd=ROOT).returncode == 0


def test_the_migration_page_says_from_which_folder_commands_start():
    """The original's documentation goes into internvl_chat first, where no path of ours begins."""
    page = (ROOT / "docs" / "migration.md").read_text()
    assert "goes into the folder internvl_chat first" in page and "go up one folder" in page
    for path in ("shell/internvl2.5_mpo/preference_optimization", "tools/reasoning_data_pipeline"):
        assert (ROOT / path).is_dir() and not (ROOT / "internvl_chat" / path).exists()
