"""Checkpoints that are whole or not there, and runs that go on as if they had never stopped."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl_chat.checkpoint.export import save_exact_weights
from internvl_chat.checkpoint.files import checksums, damage, publish
from internvl_chat.checkpoint.output import OutputError
from internvl_chat.checkpoint.resume import last_whole_checkpoint, load_weights
from internvl_chat.model import load_model
from internvl_chat.train_mpo import main
from tests.flags import as_flags
from tools.checkpoints.conversion import convert_to_hf

SPEED = ("pairs_per_second", "tokens_per_second", "peak_memory_gib", "eval_runtime")


def write_checkpoint(folder, step, content="weights"):
    fresh = folder / "saving" / f"checkpoint-{step}"
    (fresh / "resume").mkdir(parents=True)
    (fresh / "model.safetensors").write_text(content)
    (fresh / "resume" / "state").write_text(f"{step}")
    publish(fresh, folder / fresh.name, checksums(fresh))
    return folder / fresh.name


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: flip(folder / "resume" / "state"), "resume/state is not what was saved: its checksum differs"),
        (lambda folder: (folder / "model.safetensors").write_text("weigh"), "has 5 bytes instead of 7"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "checksums.json").unlink(), "was not written to its end"),
        (lambda folder: (folder / "checksums.json").write_text('{"saved": 1, "fi'), "was not written to its end"),
        (lambda folder: (folder / "checksums.json").write_text("[]"), "was not written to its end"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, spoil, words):
    older, newer = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    assert damage(newer) is None
    assert last_whole_checkpoint(tmp_path) == newer
    spoil(newer)
    assert words in damage(newer)
    assert last_whole_checkpoint(tmp_path) == older
    assert words in caplog.text
    assert last_whole_checkpoint(tmp_path / "none") is None


def test_the_checkpoint_of_a_new_run_comes_before_those_of_the_run_that_it_overwrote(tmp_path):
    write_checkpoint(tmp_path, 100)
    new = write_checkpoint(tmp_path, 2)
    assert last_whole_checkpoint(tmp_path) == new


def test_a_checkpoint_takes_the_place_of_a_damaged_one_of_its_name(tmp_path):
    folder = write_checkpoint(tmp_path, 2)
    (folder / "left_over").write_text("of other ranks")
    assert write_checkpoint(tmp_path, 2, "better ") == folder
    assert (folder / "model.safetensors").read_text() == "better "
    assert not (folder / "left_over").exists() and not (tmp_path / "saving").exists()


def test_only_weights_that_the_export_rounds_are_saved_again(tmp_path):
    model = torch.nn.ParameterDict({"fine": torch.ones(2), "rounded": torch.full((2,), 1 + 2**-20)})
    save_file({name: weight.bfloat16() for name, weight in model.items()}, tmp_path / "model.safetensors")
    save_exact_weights(model, tmp_path, tmp_path)
    path = tmp_path / "resume" / "weights.safetensors"
    assert list(load_file(path)) == ["rounded"]
    other = torch.nn.ParameterDict({"fine": torch.ones(2), "rounded": torch.ones(2)})
    load_weights(other, path)
    assert torch.equal(other["rounded"], model["rounded"])
    with pytest.raises(ValueError, match="the model has no weights"):
        load_weights(torch.nn.ParameterDict({"else": torch.ones(2)}), path)


@pytest.fixture
def flags(golden_folder, tmp_path, monkeypatch):
    """Function to the flags of a run of 20 rows, one of which cannot be used, in steps of 3; its model is bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")
    rows = (data / "mmpr_zh.jsonl").read_text().splitlines()
    unusable = json.dumps({**json.loads(rows[0]), "image": "gone.png"})
    (data / "mmpr_zh.jsonl").write_text("\n".join([*rows[1:], unusable]))
    model = shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "model")
    weights = {name: weight.bfloat16() for name, weight in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})

    def make(folder, **changes):
        settings = {
            "model_name_or_path": model,
            "meta_path": data / "meta.json",
            "output_dir": tmp_path / folder,
            "force_image_size": 56,
            "max_seq_length": 512,
            "drop_path_rate": 0.2,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 3,
            "learning_rate": 1e-4,
            "num_train_epochs": 2,
            "save_steps": 3,
            "logging_steps": 2,
            "report_to": "none",
            "disable_tqdm": True,
            "max_skipped_share": 0.5,
            **changes,
        }
        return as_flags(settings)

    return make


def record(folder):
    """What must be the same: the log, the books, and the weights."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    log = [{name: value for name, value in entry.items() if not name.endswith(SPEED)} for entry in history[:-1]]
    names = ("ledger.json", "ledger_rows.jsonl", "skipped.jsonl")
    return [entry for entry in log if "eval_loss" not in entry], [(folder / name).read_text() for name in names]


def total_loss(folder):
    """Of the 14 steps of a run, as far as it took them itself: its mean loss times these steps."""
    steps = [int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")]
    taken = 14 - min(steps) if folder.name.startswith("from-") else 14
    return json.loads((folder / "train_results.json").read_text())["train_loss"] * taken


def loss_until(folder, log, step):
    """Sum of the losses up to a step: two per entry of the log, and what the checkpoint has of the next entry."""
    state = json.loads((folder / f"checkpoint-{step}" / "preference_state.json").read_text())
    return sum(2 * entry["loss"] for entry in log if entry["step"] <= step) + state["unlogged"][0]["loss"]


def same_weights(one, other):
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"group_prompts": True, "eval_steps": 3, "eval_strategy": "steps"},
        {"group_by": "image", "tokens_per_device": 600},
    ],
    ids=str,
)
def test_from_any_checkpoint_a_run_is_the_run_that_was_never_stopped(flags, tmp_path, settings):
    """Two epochs of seven steps; checkpoints between two entries of the log, in the middle and at the end of one."""
    if "eval_steps" in settings:
        settings = {**settings, "eval_meta_path": tmp_path / "data" / "meta.json"}
    main(flags("whole", **settings))
    log, books = record(tmp_path / "whole")
    sums = json.loads(books[0])
    assert (sums["promised"], sums["used"], sums["skipped"], sums["adds_up"]) == (40, 38, 2, True)
    for step in (3, 12):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        main(flags(folder.name, **settings))
        assert record(folder) == (log, books)
        assert total_loss(folder) == pytest.approx(total_loss(tmp_path / "whole") - loss_until(folder, log, step))
        assert same_weights(folder / "model.safetensors", tmp_path / "whole" / "model.safetensors")
        exact = "checkpoint-14/resume/weights.safetensors"
        assert same_weights(folder / exact, tmp_path / "whole" / exact)


def test_a_run_from_the_hf_layout_goes_on_as_exactly(flags, tmp_path):
    """The stock Trainer loads none of its renamed weights again, and says so in a warning only."""
    convert_to_hf(tmp_path / "model", tmp_path / "hf")
    settings = {"model_name_or_path": tmp_path / "hf", "max_steps": 4, "save_steps": 2}
    main(flags("whole", **settings))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    main(flags("again", **settings))
    assert record(tmp_path / "again") == record(tmp_path / "whole")
    for name in ("model.safetensors", "checkpoint-4/resume/weights.safetensors"):
        assert same_weights(tmp_path / "again" / name, tmp_path / "whole" / name)
    trained = load_file(tmp_path / "again" / "model.safetensors")
    assert trained.keys() == load_file(tmp_path / "hf" / "model.safetensors").keys()
    assert not same_weights(tmp_path / "again" / "model.safetensors", tmp_path / "hf" / "model.safetensors")


def test_a_run_killed_after_its_last_checkpoint_only_exports(flags, tmp_path):
    main(flags("run", max_steps=3))
    exported = tmp_path / "run" / "model.safetensors"
    exported.replace(tmp_path / "before.safetensors")
    main(flags("run", max_steps=3))
    assert same_weights(exported, tmp_path / "before.safetensors")
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 3


def test_other_data_or_steps_are_refused(flags, tmp_path):
    main(flags("run", max_steps=3))
    with pytest.raises(ValueError, match="cannot be continued exactly: pairs of a step was 3, is 4"):
        main(flags("run", gradient_accumulation_steps=4))
    flip(tmp_path / "run" / "checkpoint-3" / "optimizer.pt")
    with pytest.raises(ValueError, match="optimizer.pt is not what was saved.*; name an older one"):
        main(flags("run", resume_from_checkpoint=tmp_path / "run" / "checkpoint-3"))


def test_rotation_waits_until_the_new_checkpoint_is_whole(flags, tmp_path, monkeypatch):
    seen = []

    def failing(fresh, final, files):
        seen.append(sorted(path.name for path in final.parent.glob("checkpoint-*")))
        if final.name == "checkpoint-6":
            raise OSError(28, "No space left on device")
        publish(fresh, final, files)

    monkeypatch.setattr("internvl_chat.run.resumable.publish", failing)
    with pytest.raises(OutputError, match="checkpoint-6: not written.*The last whole checkpoint is .*checkpoint-3"):
        main(flags("run", save_total_limit=1))
    assert seen == [[], ["checkpoint-3"]]
    assert last_whole_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    assert not (tmp_path / "run" / "saving").exists()
    load_model(tmp_path / "run" / "checkpoint-3")
