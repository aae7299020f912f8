"""The name of a reference cache: all that changes a log-prob, nothing else, and the same on every rank."""

import dataclasses
import os
import shutil

import pytest
import torch
from transformers import TrainingArguments

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.records.durable import stamp
from internvl_chat.reference import identity
from internvl_chat.reference.identity import (
    INDIFFERENT,
    data_name,
    open_cache,
    reference_name,
    reference_settings,
    weights_digest,
)
from internvl_chat.training import number_format, parse_arguments, run_config
from tests.flags import as_flags


@pytest.fixture
def source(golden_folder, tmp_path):
    return shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "source")


@pytest.fixture
def parse(source, golden_folder, tmp_path):
    """Function from changed flags to the three groups of arguments."""

    def make(**changes):
        settings = {
            "model_name_or_path": source,
            "meta_path": golden_folder / "data" / "meta.json",
            "output_dir": tmp_path / "run",
            "force_image_size": 56,
            "max_seq_length": 512,
            "report_to": "none",
            **changes,
        }
        return parse_arguments(as_flags(settings))

    return make


@pytest.fixture
def name_with(source, parse):
    """Function from changed flags to the name of the reference."""

    def name(**changes):
        model_args, data_args, mpo_args = parse(**changes)
        config = run_config(source, model_args, data_args)
        dtype = number_format(model_args, mpo_args)
        return reference_name(reference_settings(config, model_args, data_args, mpo_args, dtype=dtype), "weights")

    return name


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize_type": "clip"},
        {"normalize_type": "siglip"},
        {"bf16": True},
        {"fp16": True},
        {"vision_select_layer": -2},
        {"ps_version": "v1"},
        {"conv_style": "internlm2-chat"},
        {"system_prompt": "thinking"},
        {"max_dynamic_patch": 6},
        {"min_dynamic_patch": 2},
        {"use_thumbnail": False},
        {"fast_resize": True},
        {"dynamic_image_size": False},
        {"dynamic_image_size": False, "pad2square": True},
        {"force_image_size": 112},
        {"down_sample_ratio": 0.25},
        {"max_seq_length": 256},
        {"max_num_frame": 16},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_what_may_change_a_log_prob_changes_the_name(name_with, changes):
    assert name_with(**changes) != name_with()


def test_each_number_format_has_its_name(name_with, parse):
    lora = {"use_llm_lora": 4, "reference": "cache"}
    formats = [{}, {"bf16": True}, {"fp16": True}, {**lora, "bf16": True}, {**lora, "fp16": True}]
    assert len({name_with(**changes) for changes in formats}) == len(formats)


def test_a_language_model_in_four_bits_has_its_name(source, parse):
    model_args, data_args, mpo_args = parse(use_llm_lora=4, reference="cache")
    config = run_config(source, model_args, data_args)
    in_four_bits = dataclasses.replace(model_args, load_in_4bit=True)
    names = {
        reference_name(reference_settings(config, groups, data_args, mpo_args, dtype=torch.bfloat16), "weights")
        for groups in (model_args, in_four_bits)
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.3, "loss_type": "ipo", "learning_rate": 1e-3, "output_dir": "other"},
        {"freeze_backbone": True, "unfreeze_vit_layers": 1},
        {"drop_path_rate": 0.2},
        {"meta_path": "other/meta.json"},
        {"per_device_train_batch_size": 4, "group_prompts": True},
    ],
    ids=str,
)
def test_a_sweep_reads_one_cache(name_with, changes):
    assert name_with(**changes) == name_with()


def test_other_weights_and_another_layout_have_other_names(monkeypatch):
    assert reference_name({}, "a") != reference_name({}, "b")
    before = reference_name({}, "a")
    monkeypatch.setattr(identity, "LAYOUT_VERSION", identity.LAYOUT_VERSION + 1)
    assert reference_name({}, "a") != before


def test_a_flag_that_is_not_listed_counts():
    """The list says what does not matter: forgetting a new flag costs a second filling, not wrong log-probs."""
    known = {field.name for group in (ModelArguments, DataArguments) for field in dataclasses.fields(group)}
    assert known >= INDIFFERENT


def test_nobody_adds_a_flag_of_the_training_without_asking_whether_the_reference_depends_on_it():
    """These do not: they are about losses, steps and files. Number formats are in NUMBER_FORMAT."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name for field in dataclasses.fields(MPOConfig)} - theirs
    losses = "loss_type sigmoid_loss_weight bco_pair_loss_weight loss_weights rpo_alpha nll_mode beta label_smoothing"
    reference = "reference save_adapter_only reference_cache_dir sync_ref_model ref_model_mixup_alpha"
    batches = "ref_model_sync_steps group_by group_prompts sequence_parallel_size balance_ranks group_by_length"
    batches += " tokens_per_device given_accumulation"
    run = "max_skipped_share on_non_finite watchdog_seconds offload_activations overwrite_output_dir use_liger on_fall"
    older = "evaluation_strategy warmup_ratio grad_checkpoint"
    held_out = (
        "eval_prompts eval_questions eval_samples eval_prompt_version eval_max_new_tokens eval_image_root on_fall"
    )
    critic = "step_targets step_thresholds step_layout step_context step_loss balance_steps"
    assert ours == set(f"{losses} {reference} {batches} {run} {held_out} {critic} {older}".split())


def test_weights_are_read_once_and_again_when_they_change(source, tmp_path, monkeypatch):
    read = []
    checksum = identity.checksum
    monkeypatch.setattr(identity, "checksum", lambda path: read.append(path.name) or checksum(path))
    first = weights_digest(source, tmp_path / "caches")
    assert weights_digest(source, tmp_path / "caches") == first and read == ["model.safetensors"]
    weights = source / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = weights_digest(source, tmp_path / "caches")
    assert changed != first and len(read) == 2
    elsewhere = shutil.copytree(source, tmp_path / "elsewhere")
    assert weights_digest(elsewhere, tmp_path / "caches") == changed  # wherever they are
    [known, _] = sorted((tmp_path / "caches").glob("weights-*.json"))
    known.write_text("torn")
    assert weights_digest(source, tmp_path / "caches") == weights_digest(elsewhere, tmp_path / "caches") == changed


@pytest.fixture
def dataset(golden_folder, tokenizer, tmp_path):
    """The golden mixture in a folder of its own, and that folder."""
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "cache_dir": tmp_path / "lines"}
    return MixtureDataset(data / "meta.json", tokenizer, **options), data


def test_reading_a_file_does_not_change_the_name_of_the_data_and_writing_does(dataset):
    mixture, data = dataset
    path = data / "mmpr_en.jsonl"
    before, status = data_name([mixture], 0), path.stat()
    os.utime(path, ns=(status.st_atime_ns + 10**9, status.st_mtime_ns))
    assert data_name([mixture], 0) == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert data_name([mixture], 0) != before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert data_name([mixture], 0) == before != data_name([mixture], 1)
    with path.open("a") as file:
        file.write("\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert data_name([mixture], 0) != before


def test_a_stamp_is_size_and_time_of_change(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", ns=(7, 1_700_000_000_123_456_789))
    assert stamp(tmp_path / "a") == (5, 1_700_000_000_123_456_789)


def test_other_ranks_read_no_file_and_take_what_the_first_says(dataset, parse, source, tmp_path, monkeypatch):
    """They need not see the same files at all."""
    mpo_args = parse(reference_cache_dir=tmp_path / "caches")[2]
    first = open_cache(source, {}, mpo_args, [dataset[0]])
    first.cache.mark_filled(first.data)
    said = [(first.cache.folder, first.data), True]
    monkeypatch.setattr(identity, "gather_objects", lambda own: [said.pop(0), own])
    monkeypatch.setattr(identity, "stamp", lambda path: pytest.fail(f"{path} was looked at"))
    monkeypatch.setattr(MPOConfig, "process_index", 1)
    shutil.rmtree(first.cache.folder)  # a file system that shows files late
    other = open_cache(source, {}, mpo_args, [dataset[0]])
    assert (other.cache.folder, other.data, other.is_filled) == (first.cache.folder, first.data, True)
    assert other.cache.rank == 1
