"""Every launcher's command, by the launchers themselves, started with `sh` from two folders: nothing is run."""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internvl_chat.run.process import free_port
from internvl_chat.training import parse_arguments
from tools import footprint

ROOT = Path(__file__).parents[1]
V25 = "shell/internvl2.5_mpo/preference_optimization/internvl2_5_{}_dynamic_res_mpo.sh"
V3 = "shell/internvl3.0/mpo/internvl3_{}_mpo.sh"
V35 = "shell/internvl3.5/mpo/internvl3_5_{}_mpo.sh"
# name: checkpoint, GPUS = BATCH_SIZE, drop path, DeepSpeed, learning rate, max_seq_length
STAGE1, STAGE3, OFFLOAD = (f"zero_stage{name}_config.json" for name in ("1", "3", "3_offload"))
TRAINING = {
    V25.format("1b_qwen2_5_0_5b"): ("InternVL2_5-1B", 256, 0.1, STAGE1, 1e-6, 8192),
    V25.format("2b_internlm2_5_1_8b"): ("InternVL2_5-2B", 256, 0.1, STAGE1, 1e-6, 8192),
    V25.format("4b_qwen2_5_3b"): ("InternVL2_5-4B", 256, 0.1, STAGE1, 1e-6, 8192),
    V25.format("8b_internlm2_5_7b"): ("InternVL2_5-8B", 256, 0.1, STAGE1, 1e-6, 8192),
    V25.format("26b_internlm2_5_20b"): ("InternVL2_5-26B", 256, 0.4, STAGE3, 1e-6, 8192),
    V25.format("38b_qwen2_5_32b"): ("InternVL2_5-38B", 512, 0.4, STAGE3, 1e-6, 8192),
    V25.format("78b_qwen2_5_72b"): ("InternVL2_5-78B", 512, 0.4, STAGE3, 1e-6, 8192),
    V3.format("1b"): ("InternVL3-1B-Instruct", 256, 0.1, STAGE1, 2e-7, 12288),
    V3.format("2b"): ("InternVL3-2B-Instruct", 256, 0.1, STAGE1, 2e-7, 12288),
    V3.format("8b"): ("InternVL3-8B-Instruct", 256, 0.1, STAGE3, 2e-7, 12288),
    V3.format("9b"): ("InternVL3-9B-Instruct", 256, 0.1, STAGE3, 2e-7, 12288),
    V3.format("14b"): ("InternVL3-14B-Instruct", 256, 0.1, STAGE3, 2e-7, 12288),
    V3.format("38b"): ("InternVL3-38B-Instruct", 512, 0.4, OFFLOAD, 2e-7, 8192),
    V3.format("78b"): ("InternVL3-78B-Instruct", 512, 0.4, OFFLOAD, 2e-7, 8192),
    V35.format("1b"): ("InternVL3_5-1B-Instruct", 256, 0.0, STAGE3, 2e-7, 16384),
    V35.format("2b"): ("InternVL3_5-2B-Instruct", 256, 0.0, STAGE3, 2e-7, 16384),
    V35.format("4b"): ("InternVL3_5-4B-Instruct", 256, 0.0, STAGE3, 2e-7, 16384),
    V35.format("8b"): ("InternVL3_5-8B-Instruct", 256, 0.1, STAGE3, 2e-7, 16384),
    V35.format("14b"): ("InternVL3_5-14B-Instruct", 256, 0.1, STAGE3, 2e-7, 16384),
    V35.format("30b"): ("InternVL3_5-30B-A3B-Instruct", 256, 0.1, STAGE3, 2e-7, 16384),
    V35.format("gpt_oss_20b"): ("InternVL3_5-GPT-OSS-20B-A4B-Preview", 256, 0.1, STAGE3, 2e-7, 16384),
    V35.format("38b"): ("InternVL3_5-38B-Instruct", 256, 0.4, STAGE3, 2e-7, 16384),
    V35.format("241b"): ("InternVL3_5-241B-A28B-Instruct", 256, 0.4, STAGE3, 2e-7, 16384),
}
LORA = "shell/internvl2.5_mpo/preference_optimization/internvl2_5_8b_internlm2_5_7b_dynamic_res_mpo_lora.sh"
CRITIC = "shell/visualprm/internvl2_5_8b_visualprm.sh"
PIPELINES = "tools.reasoning_data_pipeline."
DATA = {
    f"shell/mpo_data_construction/{script}.sh": PIPELINES + module
    for script, module in {
        "correctness_sample": "mmpr_data_pipeline_correctness",
        "correctness_build_pairs": "mmpr_data_pipeline_correctness_postprocess",
        "dropout_ntp": "mmpr_data_pipeline_dropout_ntp",
        "visualprm_sample": "visualprm_data_pipeline",
        "visualprm_build": "visualprm_data_pipeline_postprocess",
    }.items()
}
SETTINGS = ("DRY_RUN", "LAUNCHER", "GPUS", "GPUS_PER_NODE", "PARTITION", "QUOTA_TYPE", "CPUS_PER_TASK", "SRUN_ARGS")
SETTINGS += (
    "PROMPTS",
    "CHECKPOINT",
    "TP",
    "START_RATIO",
    "BATCH_SIZE",
    "PER_DEVICE_BATCH_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "PYTHON",
)
DATA_MODULE = "tools.reasoning_data_pipeline.visualprm_data_pipeline"
EIGHT = V25.format("8b_internlm2_5_7b")


def launch(script, *words, folder=ROOT, **settings):
    """Result of `sh script words`; PYTHON is `true`, so that the estimate after the command is left out."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS and "SLURM" not in name}
    environment = {**clean, "DRY_RUN": "1", "PYTHON": "true", **settings}
    return subprocess.run(
        ["sh", str(ROOT / script), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def command(result, module="internvl_chat.train_mpo"):
    """(words before the flags of the module, the flags) of the printed command."""
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout.splitlines()[0])
    split = words.index(module) + 1
    return words[:split], words[split:]


@pytest.mark.parametrize("launcher", ["slurm", "torchrun"])
@pytest.mark.parametrize("script", TRAINING)
def test_a_training_launcher_states_the_published_run(script, launcher, tmp_path):
    checkpoint, gpus, drop_path, stage, rate, length = TRAINING[script]
    from_root, elsewhere = launch(script, LAUNCHER=launcher), launch(script, folder=tmp_path, LAUNCHER=launcher)
    assert from_root.stdout == elsewhere.stdout
    head, flags = command(from_root)
    model, data, mpo = parse_arguments([*flags, "--bf16", "False"])  # refuses a flag that the entry point lacks
    assert model.model_name_or_path == f"ckpt/{checkpoint}" and model.drop_path_rate == drop_path
    assert data.meta_path == f"MMPR-v1.{1 if '2_5' in checkpoint else 2}/meta.json" and data.max_seq_length == length
    assert (mpo.learning_rate, Path(mpo.deepspeed).name) == (rate, stage)
    assert mpo.gradient_accumulation_steps * mpo.per_device_train_batch_size * gpus == gpus
    assert mpo.save_strategy == "steps" and mpo.save_steps <= 200
    assert not mpo.overwrite_output_dir  # a launcher that is started again goes on
    assert mpo.loss_mixture().names == ("sigmoid", "bco_pair")
    nodes = gpus // 8
    expected = ["--ntasks-per-node=8", f"--nodes={nodes}", f"--ntasks={gpus}"]
    assert set(expected if launcher == "slurm" else ["--nproc_per_node=8", f"--nnodes={nodes}"]) <= set(head)


@pytest.mark.parametrize("launcher", ["slurm", "torchrun"])
def test_adapters_train_on_one_node(launcher, tmp_path, capsys):
    from_root, elsewhere = launch(LORA, LAUNCHER=launcher), launch(LORA, folder=tmp_path, LAUNCHER=launcher)
    assert from_root.stdout == elsewhere.stdout
    _, flags = command(from_root)
    model, _, mpo = parse_arguments([*flags, "--bf16", "False"])
    assert (model.use_llm_lora, model.use_backbone_lora, mpo.gradient_accumulation_steps) == (16, 16, 32)
    assert model.model_name_or_path == "ckpt/InternVL2_5-8B" and mpo.output_dir.endswith("mpo_lora")
    with pytest.raises(SystemExit, match="1"):  # refuses what does not fit in words, what is missing by its code
        footprint.main(["--gpus", "8", "--", *flags])
    assert "batch: 256 pairs a step = 8 GPUs x 1 x 32" in capsys.readouterr().out


def test_a_critic_is_trained_by_the_settings_that_were_published(tmp_path, capsys):
    from_root, elsewhere = launch(CRITIC, LAUNCHER="torchrun"), launch(CRITIC, folder=tmp_path, LAUNCHER="torchrun")
    assert from_root.stdout == elsewhere.stdout
    _, flags = command(from_root)
    model, data, mpo = parse_arguments([*flags, "--bf16", "False"])
    assert model.model_name_or_path == "ckpt/InternVL2_5-8B" and model.freeze_backbone and not model.freeze_mlp
    assert (data.max_seq_length, data.max_dynamic_patch) == (8192, 6)
    assert data.meta_path == "pairs/visualprm/prm_meta.json"  # that of visualprm_build.sh
    assert mpo.judges_steps and not mpo.loss_mixture().needs_reference and mpo.group_by == "prompt"
    assert mpo.gradient_accumulation_steps * 8 == 512 and mpo.num_train_epochs == 1
    assert (mpo.learning_rate, mpo.weight_decay, mpo.warmup_steps) == (1e-5, 0.05, 0.05)
    with pytest.raises(SystemExit, match="1"):
        footprint.main(["--gpus", "8", "--", *flags])
    assert "reference 0.0" in capsys.readouterr().out


def test_servers_are_asked_without_a_gpu_of_ones_own():
    settings = {"SERVERS": "http://a:1,http://b:2", "PROMPTS": "a.jsonl"}
    head, flags = command(launch("shell/mpo_data_construction/visualprm_sample.sh", **settings), DATA_MODULE)
    assert flags[:5] == ["--engine", "server", "--server", "http://a:1", "http://b:2"]
    assert head == ["true", "-u", "-m", DATA_MODULE]
    postprocess = launch("shell/mpo_data_construction/correctness_build_pairs.sh", **settings)
    assert "--server" not in postprocess.stdout and postprocess.returncode == 0


@pytest.mark.parametrize("engine", ["vllm", "lmdeploy"])
def test_a_server_is_started_here_or_one_per_node(engine, tmp_path):
    settings = {"ENGINE": engine, "TP": "4", "SESSION_LEN": "777", "PORT": "8123"}
    here = shlex.split(launch("shell/serve.sh", "ckpt/tiny-base", "--more", folder=tmp_path, **settings).stdout)
    nodes = shlex.split(launch("shell/serve.sh", "ckpt/tiny-base", "--more", NODES="2", **settings).stdout)
    assert {"777", "8123", "4", "ckpt/tiny-base", "--trust-remote-code"} <= set(here) and here[-1] == "--more"
    assert "127.0.0.1" in here and here[0] == "true" and nodes[0] == "srun"
    assert {"--nodes=2", "--ntasks-per-node=1", "--gres=gpu:4", "0.0.0.0"} <= set(nodes)
    if engine == "vllm":
        assert {"--trust-request-mm-kwargs", "--chat-template-content-format"} <= set(here)
    failed = launch("shell/serve.sh", ENGINE=engine)
    assert failed.returncode == 2 and "name a checkpoint" in failed.stderr


@pytest.mark.integration
def test_a_server_that_comes_up_is_written_down_and_ends_with_the_script(stand_in_vllm, tmp_path):
    port = str(free_port())
    place = {"PORT": port, "URLS": str(tmp_path / "urls.txt"), "PYTHON": sys.executable, "LAUNCHER": "local"}
    environment = {**os.environ, **place, "PYTHONPATH": str(stand_in_vllm)}
    serving = subprocess.Popen(["bash", str(ROOT / "shell/serve.sh"), "ckpt/tiny-base"], env=environment)
    try:
        while not (tmp_path / "urls.txt").exists():
            assert serving.poll() is None
            time.sleep(0.05)
        assert (tmp_path / "urls.txt").read_text() == f"http://127.0.0.1:{port}\n"
    finally:
        serving.terminate()
        serving.wait()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


@pytest.mark.parametrize("launcher", ["slurm", "torchrun"])
@pytest.mark.parametrize("script", DATA)
def test_a_data_launcher_passes_only_flags_that_its_pipeline_has(script, launcher, tmp_path, capsys):
    settings = {"LAUNCHER": launcher, "PROMPTS": "a.jsonl b.jsonl"}
    from_root, elsewhere = launch(script, **settings), launch(script, folder=tmp_path, **settings)
    assert from_root.stdout == elsewhere.stdout
    _, flags = command(from_root, DATA[script])
    with pytest.raises(SystemExit):
        importlib.import_module(DATA[script]).main(["--help"])
    known = set(re.findall(r"--[a-z][-a-z]+", capsys.readouterr().out))
    assert {flag for flag in flags if flag.startswith("--")} <= known


def test_prompt_files_are_sampled_at_the_tile_limit_of_their_data_set(tmp_path):
    names = {"nlvr2_en.jsonl": "1", "geos_en.jsonl": "6", "m3cot_train.jsonl": "6", "chartqa_trainval.jsonl": "12"}
    names |= {"SROIE_information.jsonl": "12", "docvqa_train.jsonl": "18", "infographics_qa.jsonl": "24"}
    result = launch("shell/mpo_data_construction/correctness_sample.sh", PROMPTS=" ".join(names), LAUNCHER="torchrun")
    found = {}
    for line in result.stdout.splitlines():
        words = shlex.split(line)
        files = words[words.index("--prompt-path") + 1 : words.index("--out-dir")]
        found |= dict.fromkeys(files, words[words.index("--max-num") + 1])
    assert found == names
    assert result.stdout.count(PIPELINES) == 5  # the engine starts once per limit


def test_a_failing_tile_limit_ends_the_sampling(tmp_path):
    script = "shell/mpo_data_construction/correctness_sample.sh"
    result = launch(script, PROMPTS="nlvr2.jsonl geos.jsonl", LAUNCHER="torchrun", GPUS="12")
    assert result.returncode == 2 and result.stderr.count("GPUS=12 do not fill nodes") == 1


def test_runs_write_to_folders_of_their_own():
    folders = set()
    for script in TRAINING:
        _, flags = command(launch(script))
        folders.add(flags[flags.index("--output_dir") + 1])
    assert len(folders) == len(TRAINING)


def test_there_are_no_other_launchers():
    assert {str(p.relative_to(ROOT)) for p in ROOT.glob("shell/internvl*/*/*.sh")} == {*TRAINING, LORA}
    assert {str(p.relative_to(ROOT)) for p in ROOT.glob("shell/visualprm/*.sh")} == {CRITIC}
    assert {str(p.relative_to(ROOT)) for p in ROOT.glob("shell/mpo_data_construction/*.sh")} == set(DATA)


def test_launchers_are_short_and_share_no_lines():
    """By the measure of lines that lie in a window of 4 equal ones; blanks and comments do not count."""
    texts = {path: path.read_text() for path in ROOT.glob("shell/**/*.sh")}
    lengths = sorted(text.count("\n") for text in texts.values())
    assert lengths[len(lengths) // 2] <= 10
    lines = {
        p: [" ".join(s.split()) for s in t.splitlines() if s.strip() and s.strip()[0] != "#"] for p, t in texts.items()
    }
    windows = {}
    for path, own in lines.items():
        for k in range(len(own) - 3):
            windows.setdefault(tuple(own[k : k + 4]), []).append((path, k))
    doubled = {(p, k + j) for places in windows.values() if len(places) > 1 for p, k in places for j in range(4)}
    assert len(doubled) <= 0.025 * sum(map(len, lines.values()))


@pytest.mark.parametrize("script", TRAINING)
def test_published_runs_fit_their_gpus(script, capsys):
    """The second half of a dry run, without starting an interpreter for each."""
    gpus = TRAINING[script][1]
    with pytest.raises(SystemExit, match="1"):
        footprint.main(["--gpus", str(gpus), "--", *command(launch(script, LAUNCHER="slurm"))[1]])
    text = capsys.readouterr().out
    assert f"batch: {gpus} pairs a step = {gpus} GPUs x 1 x 1" in text
    assert f"missing: ckpt/{TRAINING[script][0]}; hf download OpenGVLab/{TRAINING[script][0]} --local-dir" in text
    prepare = r"python tools/prepare_mmpr\.py --source OpenGVLab/\1 --out \.$"  # fetches, unpacks and checks
    assert re.search(rf"^missing: (MMPR-v1\.\d)/meta\.json; {prepare}", text, re.MULTILINE)


def estimate(gpus, flags):
    """Text of the estimate, None where the run does not fit."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            footprint.main(["--gpus", str(gpus), "--", *flags])
    except SystemExit as ended:
        return text.getvalue() if ended.code == 1 else None  # 1 alone: something is missing here
    return text.getvalue()


def table_row(script):
    """The line of a launcher in the table of docs/clusters.md."""
    checkpoint, gpus, _, stage, *_ = TRAINING[script]
    _, flags = command(launch(script, LAUNCHER="slurm"))
    words = r"parameters: (.*? B).*memory per GPU: (.*? GiB).*time: (.*? s) a step"
    parameters, memory, seconds = re.search(words, estimate(gpus, flags), re.S).groups()
    fewest = next(count for count in (1, 2, 4, 8, 16, 32, 64, 128) if estimate(count, flags))
    enough = "by the node's memory" if stage == OFFLOAD else fewest
    return f"| {checkpoint} | {parameters} | {gpus} | `{stage}` | {memory} | {seconds} | {enough} |"


def test_the_table_of_the_docs_is_what_the_dry_runs_say():
    table = [line for line in (ROOT / "docs" / "clusters.md").read_text().splitlines() if line.startswith("| InternVL")]
    assert table == [table_row(script) for script in TRAINING]


@pytest.mark.integration
def test_a_dry_run_ends_with_the_estimate():
    result = launch(EIGHT, "--max_steps", "7", PYTHON=sys.executable, LAUNCHER="slurm")
    assert result.returncode == 1, "checkpoint and data are missing"
    assert "memory per GPU" in result.stdout and "tools/prepare_mmpr.py --source OpenGVLab/MMPR-v1.1" in result.stdout
    refused = launch(EIGHT.replace("8b_internlm2_5_7b", "78b_qwen2_5_72b"), PYTHON=sys.executable, GPUS="8")
    assert refused.returncode == 1 and "does not fit into 80 GiB per GPU" in refused.stderr


def test_extra_flags_pass_through_and_win():
    _, flags = command(launch(EIGHT, "--learning_rate", "5e-6", "--output_dir=runs/a b", "--reference", "cache"))
    _, _, mpo = parse_arguments([*flags, "--bf16", "False"])
    assert (mpo.learning_rate, mpo.output_dir, mpo.reference) == (5e-6, "runs/a b", "cache")


def test_slurm_variables_become_srun_flags():
    settings = {
        "PARTITION": "vc",
        "QUOTA_TYPE": "reserved",
        "CPUS_PER_TASK": "12",
        "SRUN_ARGS": "--jobid=7 --exclude=n3",
    }
    head, _ = command(launch(EIGHT, LAUNCHER="slurm", **settings))
    assert head[0] == "srun" and "--kill-on-bad-exit=1" in head and "--gres=gpu:8" in head
    assert {"--partition=vc", "--quotatype=reserved", "--cpus-per-task=12", "--jobid=7", "--exclude=n3"} <= set(head)
    plain, _ = command(launch(EIGHT, LAUNCHER="slurm"))
    assert not [word for word in plain if "quotatype" in word or "partition" in word]  # stock srun has no --quotatype


@pytest.mark.parametrize(
    ("settings", "accumulation", "per_device"),
    [
        ({"GPUS": "8"}, 32, 1),
        ({"GPUS": "8", "PER_DEVICE_BATCH_SIZE": "4"}, 8, 4),
        ({"GPUS": "128", "BATCH_SIZE": "512"}, 4, 1),
        ({"LAUNCHER": "local", "BATCH_SIZE": "6", "PER_DEVICE_BATCH_SIZE": "3"}, 2, 3),
    ],
)
def test_gradient_accumulation_is_exact(settings, accumulation, per_device):
    _, flags = command(launch(EIGHT, **{"LAUNCHER": "slurm", **settings}))
    assert flags[flags.index("--gradient_accumulation_steps") + 1] == str(accumulation)
    assert flags[flags.index("--per_device_train_batch_size") + 1] == str(per_device)


def test_gpus_that_share_rows_count_once():
    _, flags = command(launch(EIGHT, "--sequence_parallel_size", "4", LAUNCHER="slurm", GPUS="64"))
    assert flags[flags.index("--gradient_accumulation_steps") + 1] == str(256 * 4 // 64)
    result = launch(EIGHT, "--sequence_parallel_size", "3", LAUNCHER="slurm", GPUS="64")
    assert "GPUS=64 is no multiple of --sequence_parallel_size 3" in result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"GPUS": "24"}, "BATCH_SIZE=256 is no multiple of the 24 pairs of GPUS=24 x PER_DEVICE_BATCH_SIZE=1"),
        ({"GPUS": "512"}, "BATCH_SIZE=256 is no multiple of the 512 pairs"),
        ({"GPUS": "12"}, "GPUS=12 do not fill nodes of GPUS_PER_NODE=8"),
        ({"GPUS": "0"}, "GPUS=0 is not a whole number of at least 1"),
        ({"PER_DEVICE_BATCH_SIZE": "1.5"}, "PER_DEVICE_BATCH_SIZE=1.5 is not a whole number"),
        ({"LAUNCHER": "mpi"}, "LAUNCHER=mpi is unknown: slurm, torchrun or local"),
        ({"LAUNCHER": "torchrun", "DRY_RUN": ""}, "GPUS=256 are 32 nodes.*NODE_RANK=0..31, or set GPUS=8 for one node"),
    ],
)
def test_what_cannot_be_started_is_refused_with_its_numbers(settings, message):
    result = launch(EIGHT, **{"LAUNCHER": "slurm", **settings})
    assert result.returncode == 2
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"GPUS": "8"}, "--standalone"),
        ({"GPUS": "16", "MASTER_ADDR": "n7", "NODE_RANK": "1"}, "--master_addr=n7"),
        ({"GPUS": "16", "MASTER_ADDR": "n7", "NODE_RANK": "1"}, "--node_rank=1"),
    ],
)
def test_torchrun_meets_on_one_node_by_itself_and_on_several_where_it_is_told(settings, word):
    head, _ = command(launch(EIGHT, LAUNCHER="torchrun", **settings))
    assert word in head


def test_without_slurm_several_gpus_mean_torchrun_and_one_means_alone(tmp_path):
    for name in ("bash", "dirname", "basename", "sh", "true"):
        (tmp_path / name).symlink_to(shutil.which(name))
    several = command(launch(EIGHT, PATH=str(tmp_path), GPUS="8"))[0]
    alone = command(launch(EIGHT, PATH=str(tmp_path), GPUS="1"))[0]
    assert "torch.distributed.run" in several and alone == ["true", "-u", "-m", "internvl_chat.train_mpo"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a module of some code that `python -m` finds; returns its name."""

    def make(code):
        (tmp_path / "small_program.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "small_program"

    return make


def run(module, folder, *flags, **settings):
    return subprocess.run(
        ["bash", str(ROOT / "shell/launch.sh"), module, "--output_dir", str(folder), *flags],
        env={**os.environ, "LAUNCHER": "local", "PYTHON": sys.executable, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_failed_run_fails_and_names_its_log(program, tmp_path):
    """The original piped into `tee` without pipefail: a failed run looked like a finished one."""
    result = run(program("import sys; print('half way'); sys.exit('no more disk')"), tmp_path / "out")
    assert result.returncode == 1
    log = tmp_path / "out" / "small_program.log"
    assert f"ended with exit code 1; see {log}" in result.stdout
    assert "half way" in log.read_text() and "no more disk" in log.read_text()


def test_console_and_log_hold_the_same_and_a_second_run_appends(program, tmp_path):
    first = run(program("print('a line')"), tmp_path / "out")
    second = run("small_program", tmp_path / "out")
    assert first.returncode == second.returncode == 0
    assert (tmp_path / "out" / "small_program.log").read_text() == first.stdout + second.stdout


WAITER = """
import pathlib, time
print('ready', flush=True)
while not pathlib.Path('go').exists():
    time.sleep(0.01)
for number in range(5):
    print('line', number, flush=True)
"""


def test_a_run_goes_on_when_nobody_reads_its_console_any_more(program, tmp_path):
    """A terminal is closed, `| head` has seen enough: the log is written to its end, and the exit code is the run's."""
    waiter = f"import os; os.chdir({str(tmp_path)!r})" + WAITER
    process = subprocess.Popen(
        ["bash", str(ROOT / "shell/launch.sh"), program(waiter), "--output_dir", str(tmp_path / "out")],
        env={**os.environ, "LAUNCHER": "local", "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
    )
    while "ready" not in process.stdout.readline():
        pass
    process.stdout.close()
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == 0
    log, deadline = tmp_path / "out" / "small_program.log", time.monotonic() + 60
    while "line 4" not in log.read_text() and time.monotonic() < deadline:  # `tee` may come after the launcher
        time.sleep(0.01)
    assert "line 4" in log.read_text()


SLEEPER = """
import signal, sys, time
def stop(number, frame):
    print('saved', flush=True); time.sleep(0.3); sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
print('ready', flush=True)
time.sleep(30)
"""


def test_a_signal_to_the_launcher_reaches_the_program_which_may_still_save(program, tmp_path):
    module, log = program(SLEEPER), tmp_path / "out" / "small_program.log"
    process = subprocess.Popen(
        ["bash", str(ROOT / "shell/launch.sh"), module, "--output_dir", str(tmp_path / "out")],
        env={**os.environ, "LAUNCHER": "local", "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
    )
    while "ready" not in process.stdout.readline():
        pass
    process.terminate()
    assert process.wait(20) == 143
    process.stdout.read()
    assert "saved" in log.read_text() and "ended with exit code 143" in log.read_text()


@pytest.fixture
def noting(tmp_path):
    """An interpreter that only notes its words; fails at those in `$FAIL`."""
    path = tmp_path / "noting"
    path.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/words\ncase "$*" in ${{FAIL:-none}}) exit 1 ;; esac\n')
    path.chmod(0o755)

    def start(module, **settings):
        result = run(module, tmp_path / "out", PYTHON=str(path), **settings)
        return result, (tmp_path / "words").read_text().splitlines()

    return start


@pytest.mark.parametrize(
    ("module", "settings", "is_reported"),
    [
        ("internvl_chat.train_mpo", {}, True),
        ("internvl_chat.train_mpo", {"REPORT": "0"}, False),
        ("internvl_chat.train_mpo", {"FAIL": "*train_mpo*"}, False),
        ("internvl_chat.train_mpo", {"NODE_RANK": "1"}, False),
        ("tools.evaluate", {}, False),
    ],
)
def test_a_complete_training_ends_with_its_report(noting, tmp_path, module, settings, is_reported):
    result, words = noting(module, **settings)
    assert result.returncode == (1 if "FAIL" in settings else 0)
    assert words[1:] == ([f"-m tools.report {tmp_path / 'out'}"] if is_reported else [])


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, "backend:cudaMallocAsync"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
    ],
)
def test_gpu_memory_comes_in_segments_that_grow_unless_the_user_says_otherwise(own, seen, tmp_path):
    path = tmp_path / "telling"
    path.write_text('#!/bin/sh\necho "memory: $PYTORCH_CUDA_ALLOC_CONF$PYTORCH_ALLOC_CONF"\n')
    path.chmod(0o755)
    result = run("tools.evaluate", tmp_path / "out", PYTHON=str(path), **own)
    assert f"memory: {seen}\n" in result.stdout


def test_a_report_that_fails_does_not_fail_the_training(noting):
    result, words = noting("internvl_chat.train_mpo", FAIL="*tools.report*")
    assert result.returncode == 0 and len(words) == 2 and "its report failed" in result.stdout


def test_a_dry_run_of_what_is_here_ends_well_and_a_check_says_nothing(tmp_path, capsys):
    (tmp_path / "meta.json").write_text('{"one": {"root": ".", "annotation": "a.jsonl"}}')
    flags = ["--model_name_or_path", str(ROOT / "ckpt/tiny-base"), "--output_dir", str(tmp_path / "run")]
    footprint.main(["--", *flags, "--meta_path", str(tmp_path / "meta.json")])
    assert "memory per GPU" in capsys.readouterr().out
    footprint.main(["--check", "--", *flags, "--meta_path", str(tmp_path / "meta.json")])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match=f"^missing: {tmp_path}/mine.json; name the meta.json of your mixture$"):
        footprint.main(["--check", "--", *flags, "--meta_path", str(tmp_path / "mine.json")])


def test_memory_refuses_a_start_only_where_the_gpu_is_known(tmp_path, monkeypatch):
    (tmp_path / "meta.json").write_text('{"one": {"root": ".", "annotation": "a.jsonl"}}')
    flags = ["--model_name_or_path", "ckpt/InternVL2_5-78B", "--output_dir", "run", "--bf16", "True", "--meta_path"]
    asked = ["--check", "--", *flags, str(tmp_path / "meta.json")]
    with pytest.raises(SystemExit, match="^missing: ckpt/InternVL2_5-78B"):
        footprint.main(asked)
    monkeypatch.setattr("tools.plan.estimate.seen_gpu_memory", lambda: 140.0)
    with pytest.raises(SystemExit, match="does not fit into 140 GiB"):
        footprint.main(asked)
    with pytest.raises(SystemExit, match="does not fit into 40 GiB"):
        footprint.main(["--gpu_memory", "40", *asked])


SRUN = f"""#!{sys.executable}
# As Slurm's: the words behind the flags, a task each; one that fails takes the others along; the highest code counts.
import itertools, os, signal, subprocess, sys, time
flags = list(itertools.takewhile(lambda word: word.startswith("--"), sys.argv[1:]))
words = sys.argv[1 + len(flags):]
if flags == ["--help"]:
    sys.exit(print("Usage: srun"))
print(*flags, sep="\\n", file=open(os.environ["WORDS"], "a"))
count = next(int(flag.partition("=")[2]) for flag in flags if flag.startswith("--ntasks="))
tasks = [subprocess.Popen(words, env=dict(os.environ, SLURM_PROCID=str(rank)), start_new_session=True)
         for rank in range(count)]
while any([task.poll() is None for task in tasks]):
    time.sleep(0.02)
    if any(task.returncode for task in tasks):
        [os.killpg(task.pid, signal.SIGTERM) for task in tasks if task.poll() is None]
        break
codes = [task.wait() for task in tasks]
if -signal.SIGUSR1 in codes:
    print("srun: error: n0: task 0: User defined signal 1", file=sys.stderr)
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A stand-in of srun that starts tasks on this machine, and of scontrol, which notes its words."""
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "$@" >>"$WORDS"\n'}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    words = tmp_path / "words"
    settings = {"LAUNCHER": "slurm", "GPUS": "2", "SLURM_JOB_ID": "77", "WORDS": str(words)}
    return words, {**settings, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


WARNED = """
import os, signal, time
if os.environ["SLURM_PROCID"] == "0":
    time.sleep(1)
    [os.kill(process, signal.{signal}) for process in {processes}]
    raise SystemExit(9)
time.sleep(20)
"""


@pytest.mark.parametrize(
    ("signal", "processes", "code"),
    [
        ("SIGUSR1", "(os.getppid(), os.getpid())", 138),  # as Slurm does it: every process of the task; nobody listens
        ("SIGUSR1", "(os.getppid(),)", 9),  # the module ends by what follows
        ("SIGTERM", "(os.getpid(),)", 143),
    ],
)
def test_a_job_that_is_warned_at_any_moment_goes_back_into_the_queue(program, slurm, tmp_path, signal, processes, code):
    """srun itself may report 143, of the tasks that it ended."""
    words, settings = slurm
    result = run(program(WARNED.format(signal=signal, processes=processes)), tmp_path / "out", **settings)
    assert result.returncode == code, result.stdout
    is_queued = "goes back into the queue" in result.stdout
    assert is_queued == ("requeue 77" in words.read_text()) == (signal == "SIGUSR1")
    assert not list((tmp_path / "out").glob(".task-*"))


def test_a_task_that_is_warned_before_it_could_note_it_is_told_by_srun(slurm, tmp_path):
    """PYTHON ends by the signal in place of the interpreter that would note it."""
    (tmp_path / "early").write_text('#!/bin/sh\ncase "$*" in *shell/task.py*) kill -USR1 $$ ;; esac\n')
    (tmp_path / "early").chmod(0o755)
    words, settings = slurm
    result = run("small_program", tmp_path / "out", **settings, PYTHON=str(tmp_path / "early"))
    assert "requeue 77" in words.read_text(), result.stdout


def test_the_exit_code_is_that_of_the_task_that_failed_first(program, slurm, tmp_path):
    code = "import os, sys, time\nif os.environ['SLURM_PROCID'] == '1':\n time.sleep(1); sys.exit(3)\ntime.sleep(20)"
    result = run(program(code), tmp_path / "out", **slurm[1])
    assert result.returncode == 3 and "ended with exit code 3" in result.stdout
    assert "requeue" not in slurm[0].read_text()


def test_words_in_quotes_stay_whole_and_a_site_without_quota_types_is_told(program, slurm, tmp_path):
    words, settings = slurm
    module = program("")
    assert run(module, tmp_path, **settings, SRUN_ARGS="--comment=\"my run\" --exclude='n[1-2]'").returncode == 0
    assert {"--comment=my run", "--exclude=n[1-2]"} <= set(words.read_text().splitlines())
    refused = run(module, tmp_path, **settings, SRUN_ARGS='--comment="my run')
    assert refused.returncode == 2 and "a quote is open" in refused.stderr
    refused = run(module, tmp_path, **settings, QUOTA_TYPE="spot")
    assert refused.returncode == 2 and "unset QUOTA_TYPE" in refused.stderr


def test_what_cannot_start_is_said_once_before_any_task(slurm, tmp_path):
    words, settings = slurm
    asked = ["--model_name_or_path", "ckpt/Typo-8B", "--meta_path", "gone.json"]
    result = run("internvl_chat.train_mpo", tmp_path / "out", *asked, **settings)
    assert result.returncode != 0 and not words.exists()
