"""The pairs that arms train on, made when an arm first asks for them, by the tools that users run.

`own` pairs come from the base's own answers; the other kinds of SOURCES are chosen from these, or made by the other
pipelines of the same questions. Each is a function from settings and seed to a meta.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.study.files import lengths_of, read_meta, read_rows, write_meta, write_rows
from benchmarks.study.settings import Settings, once
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample_answers
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair_answers
from tools.reasoning_data_pipeline.mmpr_data_pipeline_dropout_ntp import main as continue_blind
from tools.reasoning_data_pipeline.visualprm_data_pipeline import main as score_steps
from tools.reasoning_data_pipeline.visualprm_data_pipeline_postprocess import main as pair_steps

FORMAT_PAIRS = "_format_rules"
ENGINE = "--engine transformers --dynamic --max-num 1 --max-new-tokens 96 --batch-size 16"
SCORED_ANSWERS, CONTINUATIONS = 4, 8  # per question, and per step of each answer


def own(settings: Settings, seed: int) -> Path:
    """Right and wrong answers of the base, which read differently; what the pipelines make of them."""
    return _sampled(settings, seed, "own", settings.base)


def second_round(settings: Settings, seed: int) -> Path:
    """The same of answers that the trained MPO arm draws to the same questions."""
    return _sampled(settings, seed, "second", settings.run_of(seed, "mpo"))


def gold(settings: Settings, seed: int) -> Path:
    """Right steps, and careless ones, as the generator of the data wrote them."""
    return settings.folder(seed) / "data" / "pairs.json"


def correctness(settings: Settings, seed: int) -> Path:
    """Own pairs without those whose rejected answer has no final line."""
    meta = own(settings, seed)
    kept = {name: entry for name, entry in read_meta(meta).items() if not name.endswith(FORMAT_PAIRS)}
    return write_meta(meta.with_name("meta_correctness.json"), kept)


def swapped(settings: Settings, seed: int) -> Path:
    """Own pairs with chosen and rejected exchanged."""
    meta = own(settings, seed)
    exchanged = {}
    for name, entry in read_meta(meta).items():
        annotation = Path(entry["annotation"])
        rows = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in read_rows(annotation)]
        exchanged[name] = {**entry, "annotation": str(write_rows(annotation.with_suffix(".swapped.jsonl"), rows))}
    return write_meta(meta.with_name("meta_swapped.json"), exchanged)


def dropout(settings: Settings, seed: int) -> Path:
    """DropoutNTP: the chosen answers of the correctness pairs, and their first halves continued without the picture."""
    folder = settings.folder(seed) / "dropout"
    once(folder.with_suffix(".json"), lambda: _dropout(settings, seed, folder))
    return folder / "meta.json"


def both(settings: Settings, seed: int) -> Path:
    """Correctness pairs and DropoutNTP pairs, as the paper mixes them."""
    blind = dropout(settings, seed)
    return write_meta(blind.with_name("meta_both.json"), {**read_meta(correctness(settings, seed)), **read_meta(blind)})


def steps(settings: Settings, seed: int) -> Path:
    """Answers told apart by the first step of unequal Monte-Carlo score."""
    folder = settings.folder(seed) / "steps"
    once(folder.with_suffix(".json"), lambda: _steps(settings, seed, folder))
    return folder / "pairs" / "meta.json"


SOURCES: dict[str, Callable[[Settings, int], Path]] = {
    "own": own,
    "gold": gold,
    "swapped": swapped,
    "correctness": correctness,
    "dropout": dropout,
    "both": both,
    "steps": steps,
    "second": second_round,
}


def _sampled(settings: Settings, seed: int, name: str, policy: Path) -> Path:
    folder = settings.folder(seed) / name
    once(folder.with_suffix(".json"), lambda: _correctness(settings, seed, folder, policy))
    return folder / "pairs" / "meta.json"


def _correctness(settings: Settings, seed: int, folder: Path, policy: Path) -> dict[str, int]:
    _sample(sample_answers, settings, seed, folder, policy, f"--num-return-sequences {settings.samples}")
    limits = f"--num-pairs-per-key {settings.pairs_per_prompt} --num-workers 1"
    pair_answers(["--data-dir", str(folder / "sampled"), "--save-dir", str(folder / "pairs"), *limits.split()])
    return lengths_of(folder / "pairs" / "meta.json")


def _steps(settings: Settings, seed: int, folder: Path) -> dict[str, int]:
    amounts = f"--num-return-sequences {SCORED_ANSWERS} --num-mc-sequences {CONTINUATIONS}"
    _sample(score_steps, settings, seed, folder, settings.base, amounts)
    limits = f"--num-pairs-per-key {settings.pairs_per_prompt}"
    pair_steps(["--data-dir", str(folder / "sampled"), "--save-dir", str(folder / "pairs"), *limits.split()])
    return lengths_of(folder / "pairs" / "meta.json")


def _dropout(settings: Settings, seed: int, folder: Path) -> dict[str, int]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    meta = correctness(settings, seed)
    (entry,) = read_meta(meta).values()
    rows = ({**row, "rejected": None} for row in read_rows(Path(entry["annotation"])))
    prompts = write_rows(folder / "chosen.jsonl", rows)
    words = ["--prompt-path", prompts, "--image-root", entry["root"], "--out-dir", folder / "sampled"]
    continue_blind([*map(str, [*words, "--checkpoint", settings.base, "--seed", seed]), *ENGINE.split()])
    (made,) = (folder / "sampled").rglob(prompts.name)
    own_rows = {**entry, "annotation": str(made), "length": len(read_rows(made))}
    return lengths_of(write_meta(folder / "meta.json", {"dropout_ntp": own_rows}))


def _sample(
    pipeline: Callable[[list[str]], None], settings: Settings, seed: int, folder: Path, policy: Path, amounts: str
) -> None:
    """Answers of a policy to the questions of the seed, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    prompts = settings.folder(seed) / "data" / "train_en_prompts.jsonl"
    words = ["--prompt-path", prompts, "--out-dir", folder / "sampled", "--checkpoint", policy, "--seed", seed]
    pipeline([*map(str, words), *ENGINE.split(), *amounts.split()])
