"""What users of the tools around a training get wrong: checking, evaluating, showing, converting, publishing."""

import socket

from data import make_process_rows, make_visual_reasoning
from tests.mistakes.mistake import Mistake, each, write
from tools import (
    compose,
    convert,
    curate,
    demo,
    environment,
    evaluate,
    evaluate_critic,
    footprint,
    make_tiny_checkpoint,
    merge_lora,
    mpo,
    plot_curves,
    prepare_mmpr,
    publish,
    report,
    score_steps,
    serve,
    validate,
    view_pairs,
)
from tools.evaluation import split, table
from tools.scoring import critic

UNANSWERED = write("e.jsonl", '{"question": "What?"}\n')
LOST = write("e.jsonl", '{"image": "x.png", "question": "a", "answer": "b"}\n')
ADAPTER = write("run/adapter/adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "ckpt"})
ROWS = "--direct data/rows.jsonl --image-root data/images"
CHECKED = "--meta_path data/meta.json --model_name_or_path ckpt"


@each(
    Mistake("no_meta", "", ("--meta_path is empty",)),
    Mistake("no_such_meta", "--meta_path none.json", ("none.json: no such file",)),
    Mistake("no_such_checkpoint", "--meta_path data/meta.json --model_name_or_path ckpt/x", ("ckpt/x: no such", "hf ")),
    Mistake("misspelt_flag", "--meta_pth data/meta.json", ("did you mean --meta_path",)),
    Mistake("workers", "--meta_path data/meta.json --num_workers=-1", ("--num_workers -1",)),
    Mistake("share", "--meta_path data/meta.json --max_skipped_share 50", ("--max_skipped_share 50",)),
    Mistake("template", f"{CHECKED} --conv_style x --force_image_size 56", ("x",)),
    Mistake("tile", f"{CHECKED} --force_image_size 50", ("50", "multiple of")),
    Mistake("out_a_file", "--meta_path data/meta.json --output_dir data/rows.jsonl", ("data/rows.jsonl",)),
    Mistake("strict_in_words", "--meta_path data/meta.json --strict very", ("--strict", "very")),
)
def test_validate(mistake, refused):
    refused(validate.main, mistake)


SCORED = "--critic ckpt --data-dir data --save-dir out"


@each(
    Mistake("no_critic", "--data-dir data --save-dir out", ("--critic",)),
    Mistake("no_such_critic", f"{SCORED} --image-root data/images --critic none", ("none: no such", "hf download")),
    Mistake("no_such_folder", f"{SCORED} --data-dir none", ("--data-dir none: no such folder",)),
    Mistake("over_itself", f"{SCORED} --save-dir data", ("--save-dir data is --data-dir",)),
    Mistake("no_steps", f"{SCORED} --max-steps 0", ("--max-steps", "at least 1")),
    Mistake("rule", f"{SCORED} --score-by median", ("--score-by", "median", "mean")),
)
def test_scores(mistake, refused):
    refused(score_steps.main, mistake)


@each(
    Mistake("no_critic", "", ("critic",)),
    Mistake("no_such_critic", "none", ("none: no such", "hf download")),
)
def test_look_at_a_critic(mistake, refused):
    refused(critic.main, mistake)


ASKED = "--checkpoint ckpt --max-new-tokens 2 --max-num 1 --engine scripted"


@each(
    Mistake("nothing_asked", "", ("nothing to measure", "--reasoned")),
    Mistake("no_such_prompts", "--reasoned none.jsonl", ("none.jsonl: no such file",)),
    Mistake("no_rows", "--reasoned e.jsonl", ("e.jsonl",), write("e.jsonl", "")),
    Mistake("no_answer", "--direct e.jsonl", ("e.jsonl", "answer"), UNANSWERED),
    Mistake(
        "no_picture",
        "--direct e.jsonl",
        ("x.png",),
        write("e.jsonl", '{"image": "x.png", "question": "a", "answer": "b"}\n'),
    ),
    Mistake("image_root", "--direct data/rows.jsonl --image-root none", ("none",)),
    Mistake("no_such_pairs", "--pairs none.json", ("none.json",)),
    Mistake(
        "no_such_checkpoint",
        f"{ROWS} --checkpoint x --engine auto",
        ("x: no such",),
    ),
    Mistake(
        "adapter_alone",
        f"{ROWS} --checkpoint run --engine auto",
        ("run: an adapter, not a whole checkpoint", "tools/merge_lora.py --adapter run"),
        ADAPTER,
    ),
    Mistake("samples", "--direct data/rows.jsonl --samples 4", ("--samples 4", "--temperature")),
    Mistake("one_to_choose", f"{ROWS} --critic ckpt", ("--critic ckpt chooses among several", "--samples 8")),
    Mistake("no_such_critic", f"{ROWS} --critic x --samples 2 --temperature 1", ("x: no such", "hf download")),
    Mistake("nothing_to_choose", "--pairs data/meta.json --critic ckpt --samples 2 --temperature 1", ("--reasoned",)),
    Mistake("no_such_answers", f"{ROWS} --answers a.json", ("a.json: no such file", "--out")),
    Mistake("greedy_alone", f"{ROWS} --first-greedy", ("--first-greedy with --samples 1", "2 or more")),
    Mistake("two_to_compare", "--direct data/rows.jsonl --before a.json --against ckpt", ("--before and --against",)),
    Mistake("no_such_before", "--direct data/rows.jsonl --before a.json", ("a.json: no such file", "--out")),
    Mistake("broken_before", "--direct data/rows.jsonl --before a.json", ("a.json: not JSON",), write("a.json", "{")),
    Mistake("plot", f"{ROWS} --plot a.docx", ("a.docx|docx", "png")),
    Mistake("no_group", f"{ROWS} --max-num 0", ("--max-num", "at least 1")),
    Mistake("beta", "--pairs data/meta.json --beta 0", ("--beta 0",)),
    Mistake("wording", "--reasoned data/rows.jsonl --prompt-version fr", ("--prompt-version",)),
    Mistake(
        "no_tokens",
        f"{ROWS} --max-new-tokens 0",
        ("--max-new-tokens", "at least 1"),
    ),
)
def test_evaluate(mistake, refused):
    refused(evaluate.main, mistake, ASKED)


JUDGED = '{"question": "a", "response": {"steps": ["b", "c"], "process_correctness": [1%s]}}\n'


NEUTRAL = write("e.jsonl", JUDGED % ", 0")


@each(
    Mistake("no_such_rows", "--critic ckpt --benchmark none.jsonl", ("none.jsonl: no such file",)),
    Mistake("no_rows", "--critic ckpt --benchmark e.jsonl", ("e.jsonl: no rows",), write("e.jsonl", "")),
    Mistake("other_rows", "--critic ckpt --benchmark data/rows.jsonl", ("data/rows.jsonl:1", "steps", "--leave-out")),
    Mistake(
        "unequal",
        "--critic ckpt --benchmark e.jsonl",
        ("e.jsonl:1: 2 steps but 1 judgements", "--leave-out"),
        write("e.jsonl", JUDGED % ""),
    ),
    Mistake(
        "no_such_critic",
        "--critic none --benchmark e.jsonl",
        ("none: no such", "hf "),
        NEUTRAL,
    ),
    Mistake("nobody_scores", "--benchmark e.jsonl", ("--critic", "--scores"), NEUTRAL),
    Mistake("no_such_scores", "--scores none.jsonl --benchmark e.jsonl", ("none.jsonl",), NEUTRAL),
    Mistake("threshold", "--scores a --benchmark e.jsonl --threshold 85", ("--threshold", "0 to 1")),
    Mistake("share", "--scores a --benchmark e.jsonl --sweep-share 1", ("--sweep-share", "below 1")),
)
def test_evaluate_critic(mistake, refused):
    refused(evaluate_critic.main, mistake)


@each(
    Mistake("no_such_answers", "--answers none.jsonl --out o.jsonl", ("none.jsonl: no such file",)),
    Mistake(
        "another_world",
        "--answers e.jsonl --out o.jsonl",
        ("e.jsonl:1: field 'right_response'", "world's own prompts"),
        write("e.jsonl", '{"question": "a", "response": "b"}\n'),
    ),
)
def test_make_process_rows(mistake, refused):
    refused(make_process_rows.main, mistake)


@each(
    Mistake("no_words", "", ("reports",)),
    Mistake("no_such_report", "none.json", ("none.json: no such file", "tools/evaluate.py")),
    Mistake("another_file", "data/meta.json", ("data/meta.json: no report",)),
)
def test_table(mistake, refused):
    refused(table.main, mistake)


@each(
    Mistake("no_such_prompts", "--prompts none.jsonl --out o", ("none.jsonl: no such file",)),
    Mistake("share", "--prompts data/rows.jsonl --share 2 --out o", ("--share 2", "between 0 and 1")),
    Mistake(
        "no_answer", "--prompts e.jsonl --out o", ("e.jsonl", "answer"), write("e.jsonl", '{"question": "What?"}\n')
    ),
    Mistake("no_rows", "--prompts e.jsonl --out o", ("e.jsonl",), write("e.jsonl", "")),
)
def test_split(mistake, refused):
    refused(split.main, mistake)


@each(
    Mistake("no_such_run", "none", ("none/trainer_state.json: no such log",)),
    Mistake("no_steps", "run", ("none of its 0 entries",), write("run/trainer_state.json", '{"log_history": []}')),
    Mistake("broken_log", "run", ("run/trainer_state.json: not JSON",), write("run/trainer_state.json", "{")),
    Mistake("no_such_evaluation", "run --evaluation a.json", ("a.json: no such file",)),
    Mistake("other_evaluation", "run --evaluation data/meta.json", ("data/meta.json: no report",)),
    Mistake("broken_settings", "run", ("settings.json: not JSON",), write("run/settings.json", "{")),
    Mistake("out_a_folder", "run --out data", ("data",)),
)
def test_report(mistake, refused):
    refused(report.main, mistake)


@each(
    Mistake("no_such_run", "--run none --out a.png", ("none/trainer_state.json: no such log",)),
    Mistake("window", "--run run --out a.png --window 0", ("--window", "at least 1")),
    Mistake("format", "--run run --out a.docx", ("a.docx|docx", "png")),
    Mistake("out_left_out", "--run run", ("--out",)),
)
def test_curves(mistake, refused):
    refused(plot_curves.main, mistake)


@each(
    Mistake("nothing_named", "", ("--meta", "--pairs")),
    Mistake("no_such_meta", "--meta none.json", ("none.json: no such file",)),
    Mistake("no_such_pairs", "--pairs none.jsonl", ("none.jsonl",)),
    Mistake("number", "--meta data/meta.json --number 0", ("--number", "at least 1")),
    Mistake("out_a_folder", "--meta data/meta.json --out data", ("data",)),
)
def test_view_pairs(mistake, refused):
    refused(view_pairs.main, mistake)


@each(
    Mistake("no_such_checkpoint", "--checkpoint none --out o", ("none: no such", "hf download")),
    Mistake("out_is_taken", "--checkpoint ckpt --out ckpt", ("ckpt",)),
    Mistake("out_a_file", "--checkpoint ckpt --out data/rows.jsonl", ("data/rows.jsonl",)),
)
def test_convert(mistake, refused):
    refused(convert.main, mistake)


@each(
    Mistake("no_adapter", "--adapter ckpt --out o", ("ckpt", "adapter")),
    Mistake("no_such_folder", "--adapter none --out o", ("none",)),
    Mistake("broken_adapter", "--adapter run --out o", ("run/adapter",), write("run/adapter/adapter_config.json", "{")),
    Mistake("over_its_base", "--adapter run --base ckpt --out ckpt", ("--out ckpt is the folder of --base",), ADAPTER),
    Mistake("over_itself", "--adapter run --base ckpt --out run", ("--out run is the folder of --adapter",), ADAPTER),
)
def test_merge(mistake, refused):
    refused(merge_lora.main, mistake)


@each(
    Mistake("out_is_taken", "--llm x --vision_size 1:48:2 --out ckpt", ("ckpt",)),
    Mistake("no_such_model", "--llm none --vision_size 1:48:2 --out o", ("none",)),
    Mistake("no_tower", "--llm none --out o", ("--vision",)),
    Mistake("size_in_words", "--llm none --vision_size small --out o", ("--vision_size",)),
)
def test_compose(mistake, refused):
    refused(compose.main, mistake)


@each(
    Mistake("out_is_taken", "--out ckpt", ("ckpt",)),
    Mistake("no_corpus", "--out o --corpus none.jsonl", ("none.jsonl",)),
    Mistake("family", "--out o --family llama", ("--family", "llama")),
)
def test_tiny_checkpoint(mistake, refused):
    refused(make_tiny_checkpoint.main, mistake)


@each(
    Mistake("share", "--out o --slips 2", ("--slips",)),
    Mistake("below_zero", "--out o --pairs=-1", ("at least 0",)),
    Mistake("out_a_file", "--out data/rows.jsonl --pairs 1 --held_out 0", ("data/rows.jsonl",)),
)
def test_visual_reasoning(mistake, refused):
    refused(make_visual_reasoning.main, mistake)


PLAN = "--model_name_or_path ckpt/InternVL2_5-8B --meta_path data/meta.json --output_dir o"


@each(
    Mistake("unknown_checkpoint", "--gpus 8 -- --model_name_or_path ckpt/none --meta_path m.json", ("none",)),
    Mistake("gpus", f"--gpus 0 -- {PLAN}", ("--gpus", "at least 1")),
    Mistake("misspelt_flag", f"--gpu 8 -- {PLAN}", ("--gpu",)),
    Mistake("flag_of_training", f"-- {PLAN} --lerning_rate 1", ("did you mean --learning_rate",)),
    Mistake("deepspeed_file", f"-- {PLAN} --deepspeed none.json", ("none.json",)),
)
def test_footprint(mistake, refused):
    refused(footprint.main, mistake)


@each(
    Mistake("no_such_source", "--source none --out o", ("--source none",)),
    Mistake("unknown_set", "--source data --out o --sets MMPR-v9", ("MMPR-v9", "MMPR-v1.1")),
    Mistake("nothing_in_it", "--source data --out o", ("data",)),
    Mistake("hub_without_network", "--source OpenGVLab/MMPR-Tiny --out o", ("hf download",)),
    Mistake("misspelt_flag", "--sorce data --out o", ("--source",)),
    Mistake("no_zip", "--source MMPR-v1.1 --out o", ("MMPR-v1.1: holds no files",), write("MMPR-v1.1/meta.json", {})),
    Mistake("threads", "--source data --out o --num_threads 0", ("--num_threads", "at least 1")),
)
def test_prepare_mmpr(mistake, refused):
    refused(prepare_mmpr.main, mistake)


@each(
    Mistake("no_such_meta", "--meta_path none.json --out o", ("none.json: no such file",)),
    Mistake("shares", "--meta_path data/meta.json --out o --least_right 0.9", ("--least_right 0.9",)),
    Mistake("most_longer", "--meta_path data/meta.json --out o --most_longer 0.2", ("--most_longer 0.2",)),
    Mistake("a_prompt", "--meta_path data/meta.json --out o --pairs_per_prompt 0", ("--pairs_per.*at least 1",)),
    Mistake("language", "--meta_path data/meta.json --out o --languages english", ("english",)),
    Mistake("no_such_evaluation", "--meta_path data/meta.json --out o --held_out none.jsonl", ("none.jsonl",)),
    Mistake("no_such_samples", "--meta_path data/meta.json --out o --sampled none", ("none",)),
    Mistake("workers", "--meta_path data/meta.json --out o --num_workers 0", ("--num_workers", "at least 1")),
    Mistake("out_a_file", "--meta_path data/meta.json --out data/rows.jsonl", ("data/rows.jsonl",)),
)
def test_curate(mistake, refused):
    refused(curate.main, mistake)


@each(
    Mistake("no_owner", "ckpt --to mine --dry_run", ("owner/name",)),
    Mistake("no_such_run", "none --to me/mine --dry_run", ("none",)),
    Mistake("no_weights", "run --to me/mine --dry_run", ("run",)),
    Mistake("no_such_meta", "none.json --to me/mine --dry_run --license mit", ("none.json",)),
    Mistake("out_is_taken", "ckpt --to me/mine --dry_run --out data", ("--out data",)),
    Mistake("no_such_evaluation", "ckpt --to me/mine --dry_run --base_model a/b --evaluation e.json", ("e.json",)),
)
def test_publish(mistake, refused):
    refused(publish.main, mistake)


@each(
    Mistake("no_such_checkpoint", "--checkpoints none --port 0", ("none: no such", "hf download")),
    Mistake("port", "--checkpoints ckpt --port 99999", ("99999",)),
    Mistake("host", "--checkpoints ckpt --port 0 --host no.such.host.invalid", ("no.such.host.invalid",)),
    Mistake("device", "--checkpoints ckpt --port 0 --device cuda:9", ("--device cuda:9",)),
    Mistake("examples", "--checkpoints ckpt --port 0 --examples e.json", ("e.json: no such file; --examples names",)),
    Mistake(
        "evaluation_alone",
        "--checkpoints ckpt --port 0 --examples e.json",
        ("e.json: no e.answers.jsonl beside it",),
        write("e.json", {"checkpoint": "ckpt"}),
    ),
)
def test_demo(mistake, refused):
    refused(demo.main, mistake)


def test_a_port_in_use(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(demo.main, Mistake("port", f"--checkpoints ckpt --port {port}", (str(port), "--port")))


@each(
    Mistake("misspelt_word", "trian", ("trian is no command", "did you mean train", "mpo --help")),
    Mistake("no_word_but_a_flag", "--checkpoint ckpt", ("--checkpoint is no command", "mpo --help")),
    Mistake("flag_of_the_word", "merge --adapter a --outt b", ("mpo merge: ", "--help|--out")),
)
def test_mpo(mistake, refused):
    refused(mpo.main, mistake)


def test_environment(refused):
    refused(environment.main, Mistake("flag", "--verbose", ("unknown flag --verbose",)))


def test_serve(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "SCRIPT", tmp_path / "none.sh")
    refused(serve.main, Mistake("no_clone", "ckpt", ("none.sh is not here", "shell/serve.sh", "docs/clients.md")))
