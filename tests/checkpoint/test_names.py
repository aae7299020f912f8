"""Folder or hub name: one decision for training and every tool."""

from pathlib import Path

import pytest

from internvl_chat.checkpoint.names import local_checkpoint, published_name
from internvl_chat.model import load_config, load_model, load_tokenizer
from tools.asking.contenders import load_contender
from tools.checkpoints.merging import merge
from tools.convert import main as convert
from tools.evaluation.preference import measure_pairs
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, SamplingSettings

# In a folder that holds `work_dirs` and `ckpt`, none of these can be meant for the hub.
MISSING_FOLDERS = [
    "work_dirs/mpo",
    "ckpt/Typo",
    "./a/b",
    "./a",
    "/x/y",
    "~/x",
    "../up/x",
    "a",
    "a/b/c",
    "owner/x..y",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder of a user who has trained before; whoever asks the hub fails the test."""
    for name in ("work_dirs", "ckpt"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def ask_hub(*args, **kwargs):
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr("internvl_chat.checkpoint.names.snapshot_download", ask_hub)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", ask_hub)
    return tmp_path


def test_a_folder_that_is_there_stays_as_it_was_given(here):
    (here / "ckpt/base").mkdir()
    assert local_checkpoint("ckpt/base") == Path("ckpt/base")
    assert local_checkpoint(here / "ckpt") == here / "ckpt"


@pytest.mark.parametrize("name", MISSING_FOLDERS)
@pytest.mark.parametrize("read", [local_checkpoint, load_config, load_tokenizer])
def test_a_missing_folder_is_never_looked_for_on_the_hub(name, read):
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder; download one with 'hf download OpenGVLab/"):
        read(name)


def test_the_owner_of_a_hub_name_is_no_folder_here():
    with pytest.raises(AssertionError, match="the hub was asked for .*OpenGVLab/InternVL2_5-1B"):
        local_checkpoint("OpenGVLab/InternVL2_5-1B")
    Path("OpenGVLab").mkdir()
    with pytest.raises(FileNotFoundError, match="--local-dir OpenGVLab/InternVL2_5-1B"):
        local_checkpoint("OpenGVLab/InternVL2_5-1B")


@pytest.mark.parametrize("name", ["InternVL0", "InternVL2_5-1B"])
def test_a_hub_name_that_cannot_be_reached_says_how_to_download(monkeypatch, name):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cure = f"hf download OpenGVLab/{name} --local-dir ckpt/{name}"
    with pytest.raises(FileNotFoundError, match=f"no such checkpoint folder, and the hub did not bring it .*{cure}"):
        local_checkpoint(f"OpenGVLab/{name}")


@pytest.mark.parametrize(
    "use",
    [
        lambda name: open_engine("transformers", EngineOptions(name, SamplingSettings())),
        lambda name: measure_pairs(name, None, Path("meta.json"), beta=0.1, batch_size=1, max_tiles=1),
        lambda name: measure_pairs("ckpt", name, Path("meta.json"), beta=0.1, batch_size=1, max_tiles=1),
        lambda name: load_contender(name, "cpu"),
        lambda name: convert(["--checkpoint", name, "--out", "out"]),
        load_model,
    ],
    ids=["engine", "pairs", "reference", "demo", "convert", "load_model"],
)
def test_every_tool_says_the_same(use):
    cure = "download one with 'hf download OpenGVLab/NAME --local-dir work_dirs/mpo'"
    with pytest.raises(FileNotFoundError, match=f"^work_dirs/mpo: no such checkpoint folder; {cure}"):
        use("work_dirs/mpo")


def test_the_base_that_an_adapter_names_is_looked_for_likewise(here):
    adapter = here / "run/adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "ckpt/Typo", "target_modules": "x"}'
    )
    with pytest.raises(FileNotFoundError, match="^ckpt/Typo: no such checkpoint folder"):
        merge(here / "run", None, here / "out")


def test_the_name_by_which_others_find_a_checkpoint(here):
    (here / "owner/name").mkdir(parents=True)
    (here / "InternVL2_5-1B").mkdir()
    known = {"ckpt/InternVL2_5-8B": "OpenGVLab/InternVL2_5-8B", "/x/InternVL2_5-8B/": "OpenGVLab/InternVL2_5-8B"}
    known |= {"InternVL2_5-1B": "OpenGVLab/InternVL2_5-1B", "somebody/InternVL2-mine": "somebody/InternVL2-mine"}
    known |= dict.fromkeys(("/x/base", "work_dirs/mpo", "ckpt/mine", "owner/name", ""))
    assert {name: published_name(name) for name in known} == known


def test_folders_of_this_repository_are_no_owners_where_they_are_not(here):
    (here / "work_dirs").rmdir()
    assert published_name("work_dirs/mpo") is None
