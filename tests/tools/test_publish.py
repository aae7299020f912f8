"""Publishing: what leaves and what does not, cards that the hub reads, a local hub, pairs as a data set."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from internvl_chat.publishing.secrets import is_secret_name, scrub, scrub_text
from tests.door import end_of
from tests.hub import local_hub
from tests.mmpr_sets import PREFIX, SHAPES, WRITERS, pair_rows, picture
from tools import import_pairs, prepare_mmpr, publish
from tools.publishing.evaluations import results

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "Ab1" * 11
OTHERS = {"github": "ghp_" + "x" * 36, "openai": "sk-proj-" + "y" * 24, "aws": "AKIA" + "Z" * 16}
REPORT = {
    "checkpoint": "/cluster/home/somebody/run",
    "settings": {"samples": 4},
    "reasoned": {
        "all": {
            "percent": 51.25,
            "interval": [46.1, 56.4],
            "questions": 100,
            "answers": 400,
            "correct": 205,
            "format_errors": 0,
            "undecided": 0,
            "majority": {"percent": 55.0, "interval": [45.2, 64.4], "correct": 55},
        },
        "counting": {"percent": 40.0, "interval": [30.0, 50.0], "questions": 50, "answers": 200, "correct": 80},
    },
    "comparison": {
        "reasoned": {
            "questions": 100,
            "before": 40.0,
            "after": 51.25,
            "difference": 11.25,
            "interval": [2.0, 20.5],
            "better": 30,
            "worse": 12,
            "test": "paired permutation",
            "p": 0.012,
        }
    },
}


@pytest.fixture
def run(tmp_path):
    """Output folder of a training with all that a run leaves, and secrets in every corner of it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (ROOT / "ckpt/tiny-base").iterdir():
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "/cluster/home/somebody/ckpt/base"}))
    training = {
        "learning_rate": 1e-6,
        "loss_type": "sigmoid,bco_pair",
        "hub_token": TOKEN,
        "output_dir": "/cluster/home/somebody/run",
        "run_name": f"key {OTHERS['aws']}",
        "lr_scheduler_type": f"cosine {TOKEN}",
    }
    settings = {
        "model": {"model_name_or_path": "/cluster/home/somebody/ckpt/InternVL2_5-8B"},
        "data": {"meta_path": "/cluster/data/MMPR-v1.1/meta.json", "max_seq_length": 8192},
        "training": training,
        "mixture": {"shapes|rules": {"rows": 100, "drawn": 50, "repeat_time": 0.5}},
        "environment": {"WANDB_API_KEY": "0123456789abcdef" * 2, **OTHERS},
    }
    books = {"annotation": "/cluster/data/shapes.jsonl", "used": 49, "skipped": 1, "faults": {"image_missing": 1}}
    ledger = {"promised": 50, "used": 49, "skipped": 1, "data_sets": {"shapes|rules": books}}
    files = {
        "settings.json": settings,
        "ledger.json": ledger,
        "evaluation.json": REPORT,
        "train_results.json": {"train_loss": 0.5, "train_runtime": 7200.0},
        "trainer_state.json": {"log_history": [{"loss": 1.0 / step, "step": step} for step in (1, 2, 3)]},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "skipped.jsonl",
        "pytorch_model.bin",
        "runs/events",
        "checkpoint-3/model.safetensors",
        "resume/optimizer.safetensors",
        "reference_cache/x.npy",
        ".env",
        "evaluation.answers.jsonl",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"state {TOKEN}")
    return folder


def published(run, tmp_path, *flags, code=0):
    out = tmp_path / "published"
    assert end_of(publish.main, run, "--to", "me/mine", "--dry_run", "--out", out, *flags) == code
    return out


def test_only_what_others_need_leaves(run, tmp_path):
    out = published(run, tmp_path)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    source = {path.name for path in (ROOT / "ckpt/tiny-base").iterdir()}
    proof = {f"mpo/{name}" for name in ("curves.png", "evaluation.json", "ledger.json", "settings.json")}
    assert names == source | proof | {"README.md"}


def test_no_secret_and_no_absolute_path_leaves(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "only-this-machine-knows")
    settings = json.loads((run / "settings.json").read_text())
    settings["mixture"]["only-this-machine-knows"] = {"rows": 1, "drawn": 1, "repeat_time": 1}
    (run / "settings.json").write_text(json.dumps(settings))
    out = published(run, tmp_path)
    planted = [TOKEN, *OTHERS.values(), "0123456789abcdef", "/cluster", "somebody", "only-this-machine-knows"]
    for path in filter(Path.is_file, out.rglob("*")):
        content = path.read_bytes()
        assert not [secret for secret in planted if secret.encode() in content], path


def test_a_file_that_cannot_be_changed_is_refused_by_name(run, tmp_path, capsys):
    (run / "modeling_own.py").write_text(f"TOKEN = '{TOKEN}'\n")
    published(run, tmp_path, code=2)
    assert "modeling_own.py: holds a token or key; take it out" in capsys.readouterr().err
    assert not (tmp_path / "published").exists()


def test_weights_that_tell_of_the_machine_are_refused(run, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    weights = load_file(run / "model.safetensors")
    save_file(weights, run / "model.safetensors", {"format": "pt", "from": "/cluster/home/somebody/x"})
    published(run, tmp_path, code=2)
    assert "its metadata hold a secret or a path of this machine" in capsys.readouterr().err


def test_the_card_is_read_by_the_hubs_library_with_its_required_values(run, tmp_path):
    card = ModelCard.load(published(run, tmp_path, "--license", "mit", "--languages", "en", "zh") / "README.md")
    card_data = card.data.to_dict()
    expected = {
        "license": "mit",
        "pipeline_tag": "image-text-to-text",
        "library_name": "transformers",
        "language": ["en", "zh"],
        "base_model": "OpenGVLab/InternVL2_5-8B",
        "base_model_relation": "finetune",
        "datasets": ["OpenGVLab/MMPR-v1.1"],
        "tags": ["internvl", "custom_code", "mpo", "preference-optimization"],
    }
    assert {key: card_data[key] for key in expected} == expected
    assert card.data.model_name == "mine"
    for text in (
        "| shapes/rules | 100 | 50 | 0.5 | 49 | 1 (image_missing: 1) |",
        "Of 50 rows",
        "| learning_rate | 1e-06 |",
        "p = 0.012",
        "![curves](mpo/curves.png)",
        "Mean loss 0.5000 in 2.0 h",
        "vllm serve me/mine",
        "lmdeploy serve",
    ):
        assert text in card.text


def test_the_evaluation_comes_back_from_the_card_as_it_went_in(run, tmp_path):
    card = ModelCard.load(published(run, tmp_path, "--evaluated_on", "MathVista testmini") / "README.md")
    wanted = list(results(REPORT, "MathVista testmini"))
    assert card.data.eval_results == wanted and len(wanted) == 3
    first, majority, counting = wanted
    assert (first.metric_value, first.dataset_type) == (51.25, "mathvista-testmini")
    assert (
        first.metric_name == "accuracy (step by step, pass@1 of 4 samples, 100 questions; 95 % interval 46.10 to 56.40)"
    )
    assert "majority of 4" in majority.metric_name and counting.dataset_name == "MathVista testmini, counting"


@pytest.mark.integration
def test_the_folder_computes_the_same_in_transformers_without_this_package(tmp_path, logits_elsewhere):
    import torch

    from internvl_chat.checkpoint.export import export_checkpoint
    from internvl_chat.model import load_model

    model = load_model(ROOT / "ckpt/tiny-base")
    export_checkpoint(model, ROOT / "ckpt/tiny-base", tmp_path / "trained")
    out = published(tmp_path / "trained", tmp_path, "--base_model", "me/base")
    context = model.img_context_token_id
    batch = {"tiles": torch.rand(2, 3, 56, 56), "ids": torch.tensor([[5, *[context] * 8, 6, 7]])}
    with torch.no_grad():
        ours = model(batch["tiles"], batch["ids"]).logits
    [theirs] = logits_elsewhere(batch, [out])
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-5)


def test_decontamination_stands_in_the_card(run, tmp_path):
    report = tmp_path / "curation.json"
    report.write_text(
        json.dumps({"decontamination": {"headline": "1,000 evaluation questions against 9 training rows"}})
    )
    card = ModelCard.load(published(run, tmp_path, "--decontamination", str(report)) / "README.md")
    assert "1,000 evaluation questions against 9 training rows." in card.text


def test_a_folder_sent_to_a_local_hub_arrives_whole(run, tmp_path, monkeypatch, capsys):
    with local_hub(monkeypatch) as hub:
        publish.main([str(run), "--to", "me/mine", "--private", "--out", str(tmp_path / "published")])
    assert hub.repositories == [("model", "mine", True)]
    sent = {
        path.relative_to(tmp_path / "published").as_posix(): path.read_bytes()
        for path in (tmp_path / "published").rglob("*")
        if path.is_file()
    }
    assert {name: content for name, content in sent.items() if content} == {
        name: c for name, c in hub.files.items() if c
    }


def test_a_hub_that_refuses_leaves_the_folder_and_says_what_to_do(run, tmp_path, monkeypatch, capsys):
    with local_hub(monkeypatch) as hub:
        hub.refuses = "no"
        assert end_of(publish.main, run, "--to", "me/mine", "--out", tmp_path / "published") == 2
    assert "not sent" in (said := capsys.readouterr().err) and "hf auth login" in said
    assert (tmp_path / "published/README.md").is_file()


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (lambda run: (run / "model.safetensors").unlink(), [], "no weights in safetensors beside a config.json"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 50), [], "not a whole safetensors file"),
        (lambda run: (run / "settings.json").unlink(), [], "name it, --base_model owner/name"),
        (lambda run: (run / "ledger.json").write_text("{"), [], "ledger.json: not JSON"),
        (lambda run: None, ["--to", "nobody"], "a name on the hub is owner/name"),
        (lambda run: None, ["--out", "{run}"], "is there, and nothing that was written here"),
    ],
)
def test_refusals_by_name(run, tmp_path, capsys, spoil, flags, words):
    spoil(run)
    flags = [flag.format(run=run) for flag in flags]
    assert end_of(publish.main, run, "--to", "me/mine", "--dry_run", "--out", tmp_path / "out", *flags) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def pairs(tmp_path):
    """meta.json of the prepared MMPR-v1.2."""
    (tmp_path / "source").mkdir()
    WRITERS["MMPR-v1.2"](tmp_path / "source")
    prepare_mmpr.main(["--source", str(tmp_path / "source"), "--out", str(tmp_path)])
    return tmp_path / "MMPR-v1.2/meta.json"


def test_pairs_come_back_from_the_published_data_set(pairs, tmp_path):
    from datasets import Image, List, load_dataset

    out = tmp_path / "published"
    flags = ["--to", "me/pairs", "--dry_run", "--license", "cc-by-4.0", "--judged", "By the rules of a test."]
    publish.main([str(pairs), *flags, "--out", str(out)])
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("images", List(Image(decode=False)))
    shapes, prefix = pair_rows()
    wanted = [*shapes, *prefix[:3]]
    assert [(row["question"], row["chosen"], row["rejected"]) for row in rows] == [
        (r["question"], r["chosen"], r["rejected"]) for r in wanted
    ]
    assert [row["data_set"] for row in rows] == [SHAPES] * 5 + [PREFIX] * 3
    assert [image["bytes"] for image in rows[4]["images"]] == [picture(0), picture(1)] and rows[6]["images"] == []


def test_published_pairs_are_imported_as_the_rows_that_they_were(pairs, tmp_path):
    out, back, rules = tmp_path / "published", tmp_path / "back", {"score": 0.5, "rules": ["a", {"b": None}]}
    annotation = next((pairs.parent / "annotations").glob("shapes*.jsonl"))
    rows = [{**json.loads(line), "kept": rules} for line in annotation.read_text().splitlines()]
    annotation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    publish.main([str(pairs), "--to", "me/pairs", "--dry_run", "--out", str(out)])
    assert import_pairs.main(["--parquet", *map(str, (out / "data").glob("*")), "--out", str(back)]) == 0
    shapes, prefix = pair_rows()
    wanted = [{**row, "kept": rules, "data_set": SHAPES} for row in shapes]
    wanted += [{**row, "data_set": PREFIX} for row in prefix[:3]]
    found = [json.loads(line) for line in (back / "pairs.jsonl").read_text().splitlines()]
    for row, was in zip(found, wanted, strict=True):
        now, then = row.pop("image", None), was.pop("image", None)
        assert type(now) is type(then)  # one picture is no list of one
        paths, names = ([image] if isinstance(image, str) else image or [] for image in (now, then))
        pictures = [picture(int(name.removesuffix(".png"))) for name in names]
        assert [(back / "images" / path).read_bytes() for path in paths] == pictures
    assert found == wanted


def test_the_data_card_is_read_with_its_required_values(pairs, tmp_path):
    out = tmp_path / "published"
    publish.main([str(pairs), "--to", "me/pairs", "--dry_run", "--license", "cc-by-4.0", "--out", str(out)])
    card = DatasetCard.load(out / "README.md")
    found = card.data.to_dict()
    assert found["license"] == "cc-by-4.0" and found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["visual-question-answering", "image-text-to-text"]
    assert "preference-optimization" in found["tags"]
    assert found["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    ]
    assert f"| {SHAPES} | 5 | - |" in card.text and "8 preference pairs" in card.text


def test_a_pair_with_a_token_does_not_leave(pairs, tmp_path, capsys):
    path = next((pairs.parent / "annotations").glob("*.jsonl"))
    row = {"question": "What is it?", "chosen": f"It is {TOKEN}.", "rejected": "No."}
    path.write_text(json.dumps(row) + "\n")
    assert end_of(publish.main, pairs, "--to", "me/pairs", "--dry_run", "--out", tmp_path / "published") == 2
    assert f"{path}:1: the row holds a token or key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see /data/ckpt/InternVL2_5-8B and ~/runs/one", "see InternVL2_5-8B and one"),
        ("https://huggingface.co/OpenGVLab/InternVL2_5-8B", "https://huggingface.co/OpenGVLab/InternVL2_5-8B"),
        ("and/or 1/2, rows 3/4", "and/or 1/2, rows 3/4"),
        ("C:\\Users\\me\\x.json", "x.json"),
        (f"login {TOKEN}!", "login [withheld]!"),
        ("https://me:pass@host/x", "https://[withheld]@host/x"),
        ("WANDB_API_KEY=0123456789abcdef0123", "WANDB_API_KEY=[withheld]"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer [withheld]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[withheld]"),
        ("max_new_tokens=1024", "max_new_tokens=1024"),
    ],
)
def test_what_is_taken_out_of_texts(text, left):
    assert scrub_text(text) == left


def test_fields_with_a_telling_name_lose_their_value():
    assert scrub(
        {"hub_token": "x", "api_key": "y", "max_new_tokens": 5, "pad_token": "<pad>", "deep": [{"password": "z"}]}
    ) == {
        "hub_token": "[withheld]",
        "api_key": "[withheld]",
        "max_new_tokens": 5,
        "pad_token": "<pad>",
        "deep": [{"password": "[withheld]"}],
    }
    assert not any(map(is_secret_name, ("tokenizer", "num_image_token", "eos_token", "bos_token", "author", "keyword")))


def test_help_needs_no_torch():
    code = "import sys, tools.publish; assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_tokenizer_leaves_as_it_was(run, tmp_path):
    out = published(run, tmp_path)
    assert json.loads((out / "tokenizer_config.json").read_text()) == json.loads(
        (run / "tokenizer_config.json").read_text()
    )
    assert (out / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
