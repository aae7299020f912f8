"""`mpo env`: a report on any machine, also where packages are missing or do not load."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools import environment

ROOT = Path(__file__).parents[2]


def test_the_report_has_what_an_issue_needs(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "a secret")
    environment.main([])
    printed = capsys.readouterr().out
    for start in (
        "commit: ",
        "python 3",
        "torch ",
        "system: ",
        "processor: ",
        "slurm: ",
        "free disk: ",
        "attention of",
    ):
        assert any(line.startswith(start) for line in printed.splitlines()), start
    assert "OMP_NUM_THREADS=3" in printed and "secret" not in printed


@pytest.mark.parametrize("missing", ["torch", "psutil"])
def test_a_missing_package_is_a_line_and_not_the_end(missing):
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom tools.environment import main; main([])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("torch does not load" in result.stdout) is (missing == "torch")
    assert "free disk: " in result.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("flags : fpu avx512_bf16 amx_bf16", "bfloat16 by amx_bf16, avx512_bf16"),
        ("Features : fp asimd bf16", "bfloat16 by bf16"),
        ("flags : fpu avx2", "bfloat16 by emulation"),
    ],
)
def test_the_processor_says_whether_it_computes_in_bfloat16(flags, told, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : A CPU\n{flags}\n")
    assert environment.processor(tmp_path / "cpuinfo").startswith(f"A CPU, {told}")
    assert environment.processor(tmp_path / "absent")


def test_a_gpu_is_told_with_the_kernel_that_is_in_use(monkeypatch):
    class Properties:
        name, total_memory, major, minor = "A GPU", 80 * 2**30, 9, 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setattr("internvl_chat.packed.attention.varlen_refusal", lambda *_: "")
    lines = list(environment.devices())
    assert lines[0] == "device 0: A GPU, 80 GiB, capability 9.0" and "the varlen kernel" in lines[-1]
    monkeypatch.setattr("internvl_chat.packed.attention.varlen_refusal", lambda *_: "it has no windows")
    assert environment.packed_kernel() == "groups of sdpa, it has no windows"


def test_the_commit_says_where_files_are_changed(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert environment.commit(tmp_path) == "installed, no clone"
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = environment.commit(tmp_path)
    subprocess.run([*git, "worktree", "add", "-q", str(tmp_path / "tree")], check=True)
    assert environment.commit(tmp_path / "tree") == clean
    (tmp_path / "file").write_text("2")
    assert len(clean) >= 7 and environment.commit(tmp_path) == f"{clean}, with changes"


def test_a_program_that_is_not_there_or_fails_says_nothing():
    assert environment.said_by("no-such-program-here") == ""
    assert environment.said_by("false") == "" and environment.said_by("echo", "word") == "word"
