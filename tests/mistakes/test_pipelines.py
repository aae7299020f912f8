"""What users of the data pipelines get wrong, from prompts to pairs."""

import json

import pytest

from tests.mistakes.mistake import Mistake, each, write
from tools import import_pairs, mixture
from tools.mm_reasoning_pipeline import internvl_lmdeploy_cot_postprocess
from tools.reasoning_data_pipeline import (
    mmpr_data_pipeline_correctness,
    mmpr_data_pipeline_correctness_postprocess,
    mmpr_data_pipeline_dropout_ntp,
    reward_pairs,
    visualprm_data_pipeline,
    visualprm_data_pipeline_postprocess,
)

SAMPLERS = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (mmpr_data_pipeline_correctness, mmpr_data_pipeline_dropout_ntp, visualprm_data_pipeline)
}
CONVERSIONS = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (
        internvl_lmdeploy_cot_postprocess,
        mmpr_data_pipeline_correctness_postprocess,
        reward_pairs,
        visualprm_data_pipeline_postprocess,
    )
}
SAMPLING = "--prompt-path data/rows.jsonl --image-root data/images --out-dir out --num-return-sequences 1"


@pytest.mark.parametrize("main", SAMPLERS.values(), ids=SAMPLERS)
@each(
    Mistake("prompts_missing", "--engine scripted --prompt-path none.jsonl", ("none.jsonl: no such file",)),
    Mistake("prompts_a_folder", "--engine scripted --prompt-path data", ("data: not a regular file",)),
    Mistake("no_checkpoint", "", ("--checkpoint is missing",)),
    Mistake("checkpoint_missing", "--checkpoint ckpt/none", ("ckpt/none: no such", "hf download")),
    Mistake("hub_without_network", "--checkpoint OpenGVLab/InternVL2_5-1B", ("InternVL2_5-1B", "hf download")),
    Mistake("engine_misspelt", "--engine vlm --checkpoint ckpt", ("--engine", "vlm", "vllm")),
    Mistake("engine_not_installed", "--engine lmdeploy --checkpoint ckpt", ("lmdeploy", "install|--engine")),
    Mistake("server_without_address", "--engine server --checkpoint ckpt", ("--server",)),
    Mistake("server_of_nothing", "--engine server --server localhost --checkpoint ckpt", ("localhost",)),
    Mistake("tiles_without_dynamic", "--engine scripted --max-num 1,6", ("--max-num", "needs --dynamic")),
    Mistake("no_tiles", "--engine scripted --max-num 0", ("--max-num", "from 1 on")),
    Mistake("tiles_in_words", "--engine scripted --max-num six", ("--max-num", "six")),
    Mistake("no_answers", "--engine scripted --num-return-sequences 0", ("--num-return-sequences 0", "at least 1")),
    Mistake("cold", "--engine scripted --temperature=-1", ("temperature", "-1")),
    Mistake("share_of_tokens", "--engine scripted --top-p 5", ("top-p|top_p", "5")),
    Mistake("no_tokens", "--engine scripted --max-new-tokens 0", ("max-new-tokens|max_new_tokens", "0")),
    Mistake("style", "--engine scripted --prompt-version fr", ("--prompt-version", "fr", "zh")),
    Mistake("misspelt_flag", "--engine scripted --max_nun 6", ("did you mean --max-num",)),
    Mistake("start_below_zero", "--engine scripted --sample-start-idx=-3", ("sample-start-idx", "-3")),
    Mistake("out_a_file", "--engine scripted --out-dir out.txt", ("out.txt",), write("out.txt", "")),
)
def test_sampling(main, mistake, refused):
    refused(main, mistake, SAMPLING)


@each(
    Mistake("two_of_a_name", "--prompt-path data/rows.jsonl data/../data/rows.jsonl", ("two of these would share",)),
    Mistake("gpus_not_there", "--tp 0", ("--tp", "0")),
)
def test_sampling_as_a_whole(mistake, refused):
    refused(mmpr_data_pipeline_correctness.main, mistake, f"{SAMPLING} --engine scripted")


@each(Mistake("whole_answer", "--start-ratio 1.5", ("--start-ratio must be in 0..1, not 1.5",)))
def test_dropout(mistake, refused):
    refused(mmpr_data_pipeline_dropout_ntp.main, mistake, f"{SAMPLING} --engine scripted")


@each(
    Mistake("no_steps", "--max-steps 0", ("--max-steps 0",)),
    Mistake("no_rollouts", "--num-mc-sequences 0", ("--num-mc-sequences 0",)),
)
def test_step_scores(mistake, refused):
    refused(visualprm_data_pipeline.main, mistake, f"{SAMPLING} --engine scripted")


@pytest.mark.parametrize("main", CONVERSIONS.values(), ids=CONVERSIONS)
@each(
    Mistake("no_flags", "", ("--data-dir",)),
    Mistake("no_such_folder", "--data-dir sampled --save-dir pairs", ("sampled",)),
    Mistake("a_file", "--data-dir data/rows.jsonl --save-dir pairs", ("data/rows.jsonl",)),
    Mistake("nothing_in_it", "--data-dir run --save-dir pairs", ("run", "jsonl")),
    Mistake("out_a_file", "--data-dir data --save-dir run/trainer_state.json", ("run/trainer_state.json",)),
    Mistake("misspelt_flag", "--data-dir data --save-dir pairs --num-pair-per-key 2", ("did you mean --num-pairs",)),
    Mistake("pairs_a_key", "--data-dir data --save-dir pairs --num-pairs-per-key=-1", ("--num-pairs.*at least 0",)),
)
def test_conversions(main, mistake, refused):
    refused(main, mistake)


@each(
    Mistake("margin", "--data-dir data --save-dir pairs --min-margin=-1", ("--min-margin", "at least 0")),
)
def test_rewards(mistake, refused):
    refused(reward_pairs.main, mistake)


@each(Mistake("threshold", "--data-dir data --save-dir pairs --mc-threshold high", ("--mc-threshold", "high")))
def test_thresholds(mistake, refused):
    refused(visualprm_data_pipeline_postprocess.main, mistake)


@each(
    Mistake("no_such_file", "--parquet none.parquet --out out", ("none.parquet: no such file",)),
    Mistake("rows_as_parquet", "--parquet data/rows.jsonl --out out", ("data/rows.jsonl", "[Pp]arquet")),
    Mistake("out_a_file", "--parquet data/rows.jsonl --out out.txt", ("out.txt|rows.jsonl",), write("out.txt", "")),
    Mistake("no_files", "--out out", ("--parquet or --rows",)),
    Mistake("no_out", "--rows data/rows.jsonl", ("--out",)),
    Mistake("no_such_rows", "--rows none.jsonl --out out", ("none.jsonl: no such file", "--rows")),
    Mistake("no_such_root", "--rows data/rows.jsonl --root none --out out", ("--root none: no such folder",)),
    Mistake(
        "table_as_rows",
        "--rows a.parquet --out out",
        ("a.parquet: .*parquet", "--parquet"),
        write("a.parquet", b"PAR1"),
    ),
    Mistake(
        "no_layout", "--rows a.json --out out", ("a.json: row 1: .* text;", "TRL"), write("a.json", [{"text": "a"}])
    ),
    Mistake("broken_list", "--rows a.json --out out", ("a.json: .*line 1",), write("a.json", '[{"text": "a"},]')),
    Mistake("broken_rows", "--rows a.json --out out", ("a.json: .*over several lines", "jq"), write("a.json", "{\n}")),
    Mistake(
        "own_rows_over_themselves",
        "--rows data/pairs.jsonl --out data",
        ("written over",),
        write("data/pairs.jsonl", ""),
    ),
    Mistake("misspelt_flag", "--rwos data/rows.jsonl --out out", ("did you mean --rows",)),
)
def test_import(mistake, refused):
    refused(import_pairs.main, mistake)


@each(
    Mistake("no_words", "", ("meta_path",)),
    Mistake("no_such_meta", "none.json", ("none.json: no such file",)),
    Mistake("half_a_rule", "data/meta.json --set circles", ("circles",)),
    Mistake("rule_in_words", "data/meta.json --set circles=some", ("some",)),
    Mistake("rule_below_zero", "data/meta.json --set circles=-1", ("-1",)),
    Mistake("fits_nothing", "data/meta.json --set squares=1", ("no data set is named squares",)),
    Mistake("too_many_rows", "data/meta.json --set circles=share:2", ("share:2",)),
    Mistake("no_such_recipe", "data/meta.json --recipe none.json", ("none.json: no such recipe",)),
    Mistake("broken_recipe", "data/meta.json --recipe r.json", ("r.json",), write("r.json", "{")),
    Mistake("recipe_is_a_mixture", "data/meta.json --recipe data/meta.json", ("data/meta.json",)),
    Mistake("nothing_left", "data/meta.json --set circles=0 --out m.json", ("no row is left",)),
    Mistake("no_batch", "data/meta.json --batch_size 0", ("--batch_size", "at least 1")),
    Mistake("out_a_folder", "data/meta.json --out data", ("data",)),
    Mistake("no_such_checkpoint", "data/meta.json --model_name_or_path ckpt/none", ("ckpt/none|none",)),
    Mistake("no_gpus", "data/meta.json --model_name_or_path ckpt --gpus 0", ("--gpus", "at least 1")),
)
def test_mixtures(mistake, refused):
    refused(mixture.main, mistake)


def test_rows_of_no_use_are_a_finding(refused, folder, capsys):
    """No mistake of the command: exit code 1, as the rows are looked at on the way."""
    write("data/rows.jsonl", json.dumps({"messages": []}) + "\n")(folder)
    with pytest.raises(AssertionError, match="1, "):
        refused(mmpr_data_pipeline_correctness.main, Mistake("-", "--engine scripted", ()), SAMPLING)
