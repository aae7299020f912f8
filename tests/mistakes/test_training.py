"""What users of the training get wrong: each is said in a few lines, before a step is made."""

import json

import pytest

from internvl_chat import train_mpo
from tests.critic.judged_rows import judged_row
from tests.mistakes.mistake import Mistake, change, each, remove, rows, write

TRAINING = (
    "--model_name_or_path ckpt --meta_path data/meta.json --output_dir out --force_image_size 56 --max_seq_length 512 "
    "--max_steps 1 --report_to none --save_strategy no --dataloader_num_workers 0 --disable_tqdm True"
)


def entry(**fields):
    """Spoils the data set's entry of meta.json."""
    return change("data/meta.json", circles={"root": "data/images", "annotation": "data/rows.jsonl", **fields})


def unmerged(folder):
    """Names of weights as in a checkpoint whose LoRA was never merged."""
    from safetensors.torch import load_file, save_file

    path = folder / "ckpt" / "model.safetensors"
    weights = {
        name.replace("language_model.", "language_model.base_model.model."): w for name, w in load_file(path).items()
    }
    save_file(weights, path)


judged = write("data/rows.jsonl", json.dumps(judged_row("How many?", ("Two.", 1.0))) + "\n")


@each(
    Mistake("misspelt_flag", "--lerning_rate 1e-6", ("--lerning_rate", "did you mean --learning_rate")),
    Mistake("flag_of_trl", "--max_length 1024", ("unknown flag --max_length",)),
    Mistake("no_dashes", "learning_rate 1e-6", ("learning_rate", "did you mean --learning_rate")),
    Mistake("equals", "learning_rate=1e-6", ("learning_rate=1e-6", "did you mean --learning_rate")),
    Mistake("name_elsewhere", "--batch_size 4", ("did you mean --per_device_train_batch_size",)),
    Mistake("rate_in_words", "--learning_rate fast", ("--learning_rate", "fast")),
    Mistake("rate_below_zero", "--learning_rate=-1e-4", ("learning_rate", "-0.0001")),
    Mistake("yes_or_maybe", "--freeze_llm maybe", ("--freeze_llm", "maybe")),
    Mistake("half_a_batch", "--per_device_train_batch_size 0", ("--per_device_train_batch_size 0",)),
    Mistake("accumulation_zero", "--gradient_accumulation_steps 0", ("gradient_accumulation_steps",)),
    Mistake("epochs_below_zero", "--max_steps -1 --num_train_epochs -1", ("num_train_epochs",)),
    Mistake("seed_below_zero", "--seed -1", ("--seed -1",)),
    Mistake("both_halves", "--bf16 True --fp16 True", ("bf16|fp16",)),
    Mistake("unknown_loss", "--loss_type dop,bco_pair", ("dop", "known are .*sigmoid")),
    Mistake("critic_and_pairs", "--loss_type prm,sigmoid", ("prm trains a critic and goes with no other loss",)),
    Mistake("critic_of_pairs", "--loss_type prm", ("'conversations'", "pairs are trained on without --loss_type prm")),
    Mistake("steps_of_pairs", "--step_thresholds 0.5", ("--step_thresholds 0.5 is of --loss_type prm",)),
    Mistake("threshold", "--loss_type prm --step_thresholds 50", ("--step_thresholds 50", "0..1")),
    Mistake("step_context", "--loss_type prm --step_context plus", ("--step_context plus", "right or judgements")),
    Mistake("step_layout", "--loss_type prm --step_layout turn", ("--step_layout turn", "turns or answer")),
    Mistake(
        "nothing_shown",
        "--loss_type prm --step_layout answer --step_context judgements",
        ("--step_layout answer shows no judgements", "leave --step_context out"),
    ),
    Mistake("step_loss", "--loss_type prm --step_loss two", ("--step_loss two", "vocabulary or words")),
    Mistake("step_targets", "--loss_type prm --step_targets mc", ("--step_targets mc", "labels or scores")),
    Mistake("pairs_of_steps", "", ("'question' is missing", "--loss_type prm"), judged),
    Mistake("weight_below_zero", "--sigmoid_loss_weight -1", ("sigmoid", ">= 0")),
    Mistake("beta_zero", "--beta 0", ("--?beta",)),
    Mistake("template", "--conv_style internvl2.5", ("internvl2.5", "internvl2_5")),
    Mistake("template_of_another", "--conv_style phi3-chat", ("--conv_style",)),
    Mistake("image_size", "--force_image_size 50", ("force_image_size 50", "14")),
    Mistake("no_tiles", "--max_dynamic_patch 0", ("max_dynamic_patch",)),
    Mistake("tiles_turned_round", "--min_dynamic_patch 6 --max_dynamic_patch 2", ("min_dynamic_patch|dynamic_patch",)),
    Mistake("no_such_layer", "--vision_select_layer -9", ("--vision_select_layer -9", "layers")),
    Mistake("drop_path", "--drop_path_rate 2", ("drop_path_rate",)),
    Mistake("attention", "--attn_implementation flash", ("flash", "sdpa")),
    Mistake("share_of_skips", "--max_skipped_share 5", ("max_skipped_share",)),
    Mistake("rank_of_adapters", "--use_llm_lora -4", ("use_llm_lora",)),
    Mistake("adapter_reference", "--reference adapter", ("--reference adapter", "use_llm_lora|LoRA")),
    Mistake("reference_word", "--reference frozen", ("--reference", "frozen")),
    Mistake("short_rows", "--max_seq_length 16", ("max_seq_length",)),
    Mistake("sharing", "--sequence_parallel_size 2", ("sequence_parallel_size",)),
    Mistake("saves_sometimes", "--save_strategy sometimes", ("sometimes",)),
    Mistake("evaluation_without_rows", "--eval_strategy steps", ("eval_meta_path",)),
    Mistake("best_model_unsaved", "--load_best_model_at_end True", ("load_best_model_at_end|strategy",)),
    Mistake("tracker", "--report_to wandb", ("wandb", "pip install")),
    Mistake("deepspeed_file", "--deepspeed zero_stage4.json", ("zero_stage4.json",)),
    Mistake("resume", "--resume_from_checkpoint out/checkpoint-5", ("out/checkpoint-5: no such folder",)),
    Mistake("schedule", "--lr_scheduler_type cosin", ("cosin",)),
)
def test_flags(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)


@each(
    Mistake("no_training", "--do_train False", ("--do_train False", "evaluate.py --checkpoint out --reference ckpt")),
    Mistake("evaluation_rows", "--eval_strategy steps --eval_meta_path none.json", ("none.json",)),
    Mistake("unknown_tracker", "--report_to wandbb", ("wandbb: no package of this name.*; did you mean wandb[?]$",)),
    Mistake("held_out_file", "--eval_prompts none.jsonl --eval_steps 1", ("--eval_prompts none.jsonl: no such file",)),
    Mistake("held_out_never", "--eval_prompts data/rows.jsonl", ("--eval_steps None", "--eval_prompts")),
    Mistake("held_out_zero", "--eval_prompts data/rows.jsonl --eval_steps 0", ("--eval_steps 0",)),
    Mistake("held_out_late", "--eval_prompts data/rows.jsonl --eval_steps 5", ("--eval_steps 5", "has 1 steps")),
    Mistake(
        "held_out_few", "--eval_prompts data/rows.jsonl --eval_steps 1 --eval_questions 2", ("--eval_questions 2",)
    ),
    Mistake(
        "held_out_version",
        "--eval_prompts data/rows.jsonl --eval_steps 1 --eval_prompt_version english",
        ("--eval_prompt_version english", "en_v2"),
    ),
    Mistake(
        "held_out_without_answer",
        "--eval_prompts questions.jsonl --eval_steps 1",
        ("questions.jsonl:1", "'answer' is missing"),
        write("questions.jsonl", '{"question": "How many?"}\n'),
    ),
    Mistake(
        "held_out_empty",
        "--eval_prompts questions.jsonl --eval_steps 1",
        ("questions.jsonl: no rows",),
        write("questions.jsonl", ""),
    ),
    Mistake(
        "held_out_shared_out",
        "--eval_prompts data/rows.jsonl --eval_steps 1 --fsdp True",
        ("--eval_prompts with --fsdp True", "evaluate.py"),
    ),
    Mistake("on_fall", "--on_fall stops", ("--on_fall stops", "stop or warn")),
)
def test_what_goes_together(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)


def test_no_words_at_all(refused):
    refused(train_mpo.main, Mistake("none", "", ("--model_name_or_path is empty", "name a checkpoint")))


@each(
    Mistake("no_such_file", "run.yml", ("run.yml: no such file", "examples/")),
    Mistake("empty", "run.yaml", ("run.yaml: no flags",), write("run.yaml", "")),
    Mistake("tabs", "run.yaml", ("run.yaml",), write("run.yaml", "meta_path:\tdata\n\t- x: [")),
    Mistake("unknown_key", "run.yaml", ("run.yaml", "did you mean --meta_path"), write("run.yaml", "meta_pth: data")),
    Mistake("wrong_type", "run.yaml", ("run.yaml: learning_rate",), write("run.yaml", "learning_rate: fast")),
    Mistake("nested", "run.yaml", ("run.yaml: training", "flat"), write("run.yaml", "training:\n  seed: 1")),
    Mistake("begin_of_a_key", "run.yaml", ("did you mean --output_dir",), write("run.yaml", "output: x")),
    Mistake("key_twice", "run.yaml", ("seed is given twice",), write("run.yaml", "seed: 1\nseed: 2")),
    Mistake("behind_flags", "--seed 1 run.yaml", ("run.yaml: a file of flags stands first",), write("run.yaml", "")),
    Mistake("broken_json", "run.json", ("run.json: not a file of flags",), write("run.json", '{"seed": 1,}')),
)
def test_file_of_flags(mistake, refused):
    refused(train_mpo.main, mistake)


@each(
    Mistake(
        "no_such_folder",
        "--model_name_or_path ckpt/InternVL2_5-8B",
        ("ckpt/InternVL2_5-8B: no such", "'hf download OpenGVLab/InternVL2_5-8B --local-dir ckpt/InternVL2_5-8B'"),
    ),
    Mistake("hub_without_network", "--model_name_or_path OpenGVLab/InternVL2_5-1B", ("OpenGVLab", "hf download")),
    Mistake("empty_folder", "--model_name_or_path run", ("run: no config.json",)),
    Mistake("no_tokenizer", "", ("tokenizer",), remove("ckpt/tokenizer.json", "ckpt/vocab.json", "ckpt/merges.txt")),
    Mistake("no_weights", "", ("ckpt: no .*safetensors",), remove("ckpt/model.safetensors")),
    Mistake(
        "pickle",
        "",
        ("only pickled weights", "safetensors"),
        lambda folder: (folder / "ckpt/model.safetensors").rename(folder / "ckpt/pytorch_model.bin"),
    ),
    Mistake(
        "lfs_pointer",
        "",
        ("model.safetensors", "git lfs pull|hf download"),
        write("ckpt/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    Mistake("cut_short", "", ("cut short", "download it again"), write("ckpt/model.safetensors", b"\x10" * 64)),
    Mistake(
        "a_shard_missing",
        "",
        ("1 of 1 weight files are missing",),
        write("ckpt/model.safetensors.index.json", {"weight_map": {"a": "model-00001-of-00002.safetensors"}}),
    ),
    Mistake("another_model", "", ("model_type 'qwen2'",), change("ckpt/config.json", model_type="qwen2")),
    Mistake("broken_config", "", ("config.json: not JSON",), write("ckpt/config.json", "{")),
    Mistake("adapter_alone", "", ("adapter",), write("ckpt/adapter_config.json", "{}")),
    Mistake("unmerged", "", ("not merged", "tools/merge_lora.py"), unmerged),
)
def test_checkpoint(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)


@each(
    Mistake("no_such_meta", "--meta_path nowhere.json", ("nowhere.json: no such file", "data/README.md")),
    Mistake("near_meta", "--meta_path data/mata.json", ("data/mata.json: no such file", "did you mean data/meta.json")),
    Mistake("a_folder", "--meta_path data", ("data: not a regular file", "meta.json")),
    Mistake("rows_as_meta", "--meta_path data/rows.jsonl", ("data/rows.jsonl", "these are rows", "data/README.md")),
    Mistake("empty", "", ("data/meta.json",), write("data/meta.json", "")),
    Mistake("broken", "", ("data/meta.json", "line 1"), write("data/meta.json", "{'circles': {}}")),
    Mistake(
        "nothing_in_it",
        "",
        ("must be an object of data sets", "found no pair", "summary.json"),
        write("data/meta.json", "{}"),
    ),
    Mistake("no_annotation", "", ("circles", "'annotation' must be a path"), entry(annotation=None)),
    Mistake("root_is_missing", "", ("circles", "data/imgs"), entry(root="data/imgs")),
    Mistake("near_root", "", ("data/Images", "did you mean data/images"), entry(root="data/Images")),
    Mistake("annotation_is_missing", "", ("data/nowhere.jsonl",), entry(annotation="data/nowhere.jsonl")),
    Mistake(
        "near_annotation", "", ("data/rwos.jsonl", "did you mean .*rows.jsonl"), entry(annotation="data/rwos.jsonl")
    ),
    Mistake("annotation_a_folder", "", ("circles", "data/images"), entry(annotation="data/images")),
    Mistake("repeat", "", ("'repeat_time' must be", "'0.5'"), entry(repeat_time="0.5")),
    Mistake("tiles", "", ("'max_dynamic_patch' must be",), entry(max_dynamic_patch="12")),
    Mistake("augment", "", ("'data_augment' must be true or false",), entry(data_augment="no")),
    Mistake("evaluation", "--eval_meta_path none.json", ("none.json: no such file",)),
)
def test_mixture(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)


PAIR = {"image": "red.png", "question": "What?", "chosen": "Red.", "rejected": "Blue."}


@each(
    Mistake("no_rows", "", ("data/rows.jsonl",), write("data/rows.jsonl", "")),
    Mistake(
        "an_array", "", ("data/rows.jsonl", "JSON array|array"), write("data/rows.jsonl", json.dumps([PAIR, PAIR]))
    ),
    Mistake("commas", "", ("rows.jsonl", "line 1|:1"), write("data/rows.jsonl", json.dumps(PAIR)[:-1] + ",}\n")),
    Mistake("utf_16", "", ("data/rows.jsonl", "UTF"), write("data/rows.jsonl", json.dumps(PAIR).encode("utf-16"))),
    Mistake("no_pictures", "", ("rows.jsonl", "red2.png"), rows({**PAIR, "image": "red2.png"})),
    Mistake("messages", "", ("rows.jsonl", "question"), rows({"messages": [], "rejected_response": "x"})),
    Mistake("prompt_for_question", "", ("question",), rows({"prompt": "What?", "chosen": "a", "rejected": "b"})),
    Mistake("no_rejected", "", ("rejected",), rows({**PAIR, "rejected": None})),
    Mistake("equal_answers", "", ("rows.jsonl", "same|equal"), rows({**PAIR, "rejected": "Red."})),
    Mistake("too_many_marks", "", ("<image>",), rows({**PAIR, "question": "<image><image> What?"})),
)
def test_rows(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)


def test_rows_of_which_most_are_of_no_use_are_a_finding(refused, folder):
    """No mistake of the command: exit code 1, as a row is looked at when its turn comes; told in a line as well."""
    rows(PAIR, *({**PAIR, "rejected": "", "question": str(n)} for n in range(9)))(folder)
    with pytest.raises(AssertionError, match=r"(?s)^\(1, .*rows could not be used") as ended:
        refused(train_mpo.main, Mistake("-", "--max_steps 4", ()), TRAINING)
    assert "Traceback" not in str(ended.value)


@each(
    Mistake("a_file", "--output_dir out.txt", ("out.txt",), write("out.txt", "")),
    Mistake("the_checkpoint_itself", "--output_dir ./ckpt", ("--output_dir ./ckpt is the folder of --model_name",)),
    Mistake("below_a_file", "--output_dir out.txt/run", ("out.txt",), write("out.txt", "")),
    Mistake("nobody_may_write", "--output_dir /proc/mpo", ("/proc/mpo",)),
    Mistake("left_out", "--output_dir=", ("output_dir",)),
)
def test_output_folder(mistake, refused):
    refused(train_mpo.main, mistake, TRAINING)
