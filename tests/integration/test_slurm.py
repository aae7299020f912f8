"""Launchers under a real Slurm of two nodes on this machine: they train, are killed, cancelled, and out of time."""

import importlib
import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from internvl_chat.run.process import free_port
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SHELL = ROOT / "shell"
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Environment in which `srun` works."""
    sys.path.insert(0, str(BENCHMARKS))
    lab = importlib.import_module("slurm_lab")
    sys.path.remove(str(BENCHMARKS))
    try:
        with lab.lab(tmp_path_factory.mktemp("lab")) as environment:
            yield environment
    except lab.NoSlurm as reason:
        pytest.skip(str(reason))


def call(words, environment, **changes):
    """Result of a command; its output is one text."""
    return subprocess.run(
        [str(word) for word in words],
        env={**environment, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def wait_for(condition, what, seconds=400):
    """Until the condition holds; AssertionError if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slow_training(tiny_flags):
    """Function to the command of a run that can be interrupted: `launch.sh` and all flags."""
    return lambda folder, **changes: [
        "bash",
        SHELL / "launch.sh",
        "tests.slurm.slow_training",
        *tiny_flags(folder, **{"save_steps": 2, **changes}),
    ]


def run_out_of_time(slurm, command, folder):
    """Drive a batch job through its time limit; returns its log. Slurm warns 120 s before the end, at its next look.

    The limit is set so near only once the run has made a step, however slow the machine.
    """
    log = folder / "batch.log"
    batch = ["sbatch", "--parsable", "--requeue", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gres=gpu:1"]
    batch += ["--time=60", "--signal=USR1@120", f"--output={log}", "--open-mode=append", "--wrap", command]
    job = call(batch, slurm, PAUSE="5").stdout.strip()

    def wait_for_log(text):
        wait_for(lambda: log.exists() and text in log.read_text(), text)

    def limit(minutes):
        call(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], slurm)

    begin = time.monotonic()
    wait_for_log(": loss ")
    limit(2 + int(time.monotonic() - begin) // 60)
    wait_for_log(f"job {job} goes back into the queue")
    limit(60)
    wait_for(
        lambda: not call(["squeue", "--noheader", f"--jobs={job}"], slurm).stdout.strip(), "end of the second start"
    )
    return log


@pytest.fixture(scope="module", autouse=True)
def timed_out_run(slurm, slow_training, tmp_path_factory):
    """The log to come of a run under ZeRO-3 that runs out of time, mostly waiting, while the other tests run."""
    folder = tmp_path_factory.mktemp("timed_out")
    command = " ".join(map(str, slow_training(folder / "run", deepspeed="zero_stage3_config.json")))
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run_out_of_time, slurm, command, folder)


@pytest.fixture(scope="module", autouse=True)
def warned_early(slurm):
    """The end to come of the benchmark of jobs that are warned before their first step, while the other tests run."""
    command = [sys.executable, "benchmarks/requeue.py", "--tries", "2", "--within", "0"]
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, command, slurm)


@pytest.fixture
def same_result(losses_of, single_process):
    """Function that asserts a folder to hold the result of an undisturbed single process."""

    def check(folder):
        assert losses_of(folder) == pytest.approx(losses_of(single_process), abs=1e-4)
        before, after = load_file(single_process / "model.safetensors"), load_file(folder / "model.safetensors")
        assert max((before[name] - after[name]).abs().max().item() for name in before) <= 1e-6

    return check


@pytest.mark.parametrize(
    ("size", "stage"),
    [("8b_internlm2_5_7b", "zero_stage1_config.json"), ("26b_internlm2_5_20b", "zero_stage3_config.json")],
)
def test_a_launcher_trains_on_two_nodes_as_a_single_process_does(size, stage, slurm, tiny_flags, same_result, tmp_path):
    """Started with `sh` from another folder, with the paths and sizes of the tiny run."""
    script = SHELL / f"internvl2.5_mpo/preference_optimization/internvl2_5_{size}_dynamic_res_mpo.sh"
    flags = tiny_flags(tmp_path / "run", drop_path_rate=0, warmup_ratio=0, weight_decay=0, disable_tqdm=True)
    result = subprocess.run(
        ["sh", script, *flags],
        cwd=tmp_path,
        env={**slurm, "BATCH_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert set(re.findall(r"^(\d): .*: loss ", result.stdout, re.M)) == {"0"}
    assert f"--deepspeed {stage}" in result.stdout
    assert (tmp_path / "run" / "train_mpo.log").read_text() == result.stdout
    same_result(tmp_path / "run")


def test_a_killed_task_ends_the_job_and_the_same_command_goes_on(slurm, slow_training, same_result, tmp_path):
    command = slow_training(tmp_path / "run", deepspeed="zero_stage1_config.json")
    killed = call(command, slurm, KILL_AT="1:5")
    assert killed.returncode != 0
    assert f"see {tmp_path}/run/slow_training.log" in killed.stdout and "task 1: Killed" in killed.stdout
    again = call(command, slurm)
    assert again.returncode == 0, again.stdout[-4000:]
    assert "going on from" in again.stdout and "checkpoint-4" in again.stdout
    same_result(tmp_path / "run")


def test_a_cancelled_run_saves_its_step_and_goes_on(slurm, slow_training, same_result, tmp_path):
    command = slow_training(tmp_path / "run", save_steps=100)
    log = tmp_path / "run" / "slow_training.log"
    process = subprocess.Popen(command, env={**slurm, "PAUSE": "1", "SRUN_ARGS": "--job-name=doomed"}, stdout=-3)
    wait_for(lambda: log.exists() and ": loss " in log.read_text(), "first step")
    job = call(["squeue", "--noheader", "--name=doomed", "--format=%A"], slurm).stdout.strip()
    call(["scancel", job], slurm)
    assert process.wait(400) == 143
    assert "SIGTERM: saving step" in log.read_text()
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*")
    again = call(command, slurm)
    assert again.returncode == 0, again.stdout[-8000:]
    assert f"going on from {checkpoint}" in again.stdout
    same_result(tmp_path / "run")


def test_sampling_on_four_tasks_is_cancelled_and_goes_on_to_the_result_of_one(slurm, tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(24)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"PROMPTS": f"{tmp_path}/sums.jsonl", "GPUS": "4", "GPUS_PER_NODE": "2"}

    def command(folder, delay):
        flags = f"--engine scripted --checkpoint one/model --out-dir {tmp_path}/{folder} --num-return-sequences 4"
        return ["sh", SHELL / "mpo_data_construction/correctness_sample.sh", *flags.split(), "--scripted-delay", delay]

    parts = tmp_path / "four" / "one_model" / "max_tiles_6" / "sums.parts"
    process = subprocess.Popen(
        command("four", "0.5"), env={**slurm, **settings, "SRUN_ARGS": "--job-name=doomed"}, stdout=-3, stderr=-3
    )
    wait_for(lambda: any(path.stat().st_size for path in parts.glob("rank-*")), "answer in a shard")
    call(["scancel", "--name=doomed"], slurm)
    assert process.wait(400) != 0
    assert not (parts.parent / "sums.jsonl").exists()
    again = call(command("four", "0"), {**slurm, **settings})
    assert again.returncode == 0, again.stdout[-3000:]
    sample(["--prompt-path", settings["PROMPTS"], "--dynamic", *command("alone", "0")[2:]])
    result = (parts.parent / "sums.jsonl").read_text()
    assert result.count("\n") == 24 * 4
    assert result == (tmp_path / "alone" / "one_model" / "max_tiles_6" / "sums.jsonl").read_text()


@pytest.mark.parametrize(("launcher", "answers"), [("dropout_ntp", 1), ("visualprm_sample", 4)])
def test_the_other_data_launchers_write_on_four_tasks_what_one_process_writes(launcher, answers, slurm, tmp_path):
    rows = [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "chosen": f"One more is {n + 1}."} for n in range(8)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = []
    for folder, settings in (("four", {"GPUS": "4", "GPUS_PER_NODE": "2"}), ("alone", {"LAUNCHER": "local"})):
        out = tmp_path / folder
        command = ["sh", SHELL / f"mpo_data_construction/{launcher}.sh", "--engine", "scripted", "--out-dir", out]
        result = call(command, slurm, PROMPTS=str(tmp_path / "sums.jsonl"), **settings)
        assert result.returncode == 0, result.stdout[-3000:]
        [path] = out.rglob("sums.jsonl")
        written.append(path.read_text())
    assert written[0] == written[1] and written[0].count("\n") == 8 * answers


def test_a_server_on_each_node_is_written_down_and_ends_with_the_script(slurm, stand_in_vllm, tmp_path):
    urls, port = tmp_path / "urls.txt", str(free_port())
    settings = {"NODES": "2", "PORT": port, "URLS": str(urls), "SRUN_ARGS": "--job-name=serving"}
    environment = {**slurm, **settings, "PYTHONPATH": str(stand_in_vllm)}
    serving = subprocess.Popen(["sh", SHELL / "serve.sh", "ckpt/tiny-base"], env=environment)
    try:
        wait_for(lambda: urls.exists() or serving.poll() is not None, "URLs of servers")
        assert urls.read_text() == f"http://n0:{port} http://n1:{port}\n"
    finally:
        serving.terminate()
    assert serving.wait(400) == 143
    wait_for(lambda: not call(["squeue", "--noheader", "--name=serving"], slurm).stdout.strip(), "end of the servers")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_a_failing_task_fails_the_launcher(slurm, tmp_path):
    """The original's pipe into its log hid that. The code is of the task that failed, not of those it took along."""
    command = ["sh", SHELL / "mpo_data_construction/dropout_ntp.sh", "--engine", "scripted", "--out-dir", tmp_path]
    result = call(command, slurm, PROMPTS=str(tmp_path / "none.jsonl"))
    assert result.returncode == 2 and f"{tmp_path}/none.jsonl: no such file" in result.stdout


def test_a_run_that_is_out_of_time_queues_itself_and_finishes(timed_out_run, same_result):
    log = timed_out_run.result(600)
    text = log.read_text()
    assert "goes back into the queue" in text and "SIGUSR1: saving step" in text and "going on from" in text
    same_result(log.parent / "run")


def test_a_job_that_is_warned_before_its_first_step_is_queued_again(warned_early):
    """The benchmark of such jobs, in its short form."""
    done = warned_early.result(600)
    assert done.returncode == 0, done.stdout[-6000:]
    assert '"tries": 2' in done.stdout
