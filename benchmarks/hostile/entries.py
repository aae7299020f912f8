"""The entry points: how each is started on the folder of a case, and what it then says it used and left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from internvl_chat import training
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import Tiling, load_image
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.model.modeling_internvl import normalize_tiles
from internvl_chat.records.samples import SkippedRow
from tools import evaluate, validate, view_pairs
from tools.reasoning_data_pipeline import (
    mmpr_data_pipeline_correctness,
    mmpr_data_pipeline_correctness_postprocess,
    mmpr_data_pipeline_dropout_ntp,
    visualprm_data_pipeline,
    visualprm_data_pipeline_postprocess,
)
from tools.validation.faults import FAULTS

TILE = 56


@dataclass
class Account:
    """What an entry point did with the rows.

    Attributes:
        used: line of each row that was used, as often as it was.
        skipped: line -> reason, of rows that the ledger has.
        special_tokens: special tokens among the ids of the victim; what a clean one has, too, or text became some.
        texts: answers of the victim as the tokens spell them.
        foreign: outputs that belong to no row.
        rows: line of each row of the file that is not blank.
        refusal: what an entry point says that refuses its input by a report in place of an exception.
    """

    used: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    special_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    refusal: str = ""


@dataclass(frozen=True)
class EntryPoint:
    """`run` starts it on a folder; `account` reads afterwards what it did."""

    run: Callable[[Path], object]
    account: Callable[[Path, str], Account]


SEEN: list[tuple[int, Any]] = []
"""What the watched functions returned in this process: line and result."""


def watch_rows() -> None:
    """Note each sample that the data set makes and each pair that the page shows."""
    make_sample, view_pair = MixtureDataset.__getitem__, view_pairs.view_pair

    def noted_sample(self: MixtureDataset, place: int) -> Any:
        sample = make_sample(self, place)
        if not isinstance(sample, SkippedRow):
            SEEN.append((int(sample["row_id"].rpartition(":")[2]), _read_back(self, sample)))
        return sample

    def noted_view(spec: Any, line: int, *rest: Any, **how: Any) -> Any:
        view = view_pair(spec, line, *rest, **how)
        SEEN.append((line, view))
        return view

    MixtureDataset.__getitem__ = noted_sample  # type: ignore[method-assign]
    view_pairs.view_pair = noted_view


def _read_back(dataset: MixtureDataset, sample: dict[str, Any]) -> tuple[int, list[str]]:
    """Special tokens of a sample, and its answers as their ids spell them, without their end tokens."""
    tokenizer = dataset.rows.encoder.tokenizer
    special, texts = special_ids(tokenizer), []
    count = 0
    for answer in sample["answers"]:
        ids = [*sample["prompt_ids"].tolist(), *answer.tolist(), *sample["separator"].tolist()]
        count += sum(index in special for index in ids)
        texts.append(tokenizer.decode(answer[:-1], clean_up_tokenization_spaces=False))
    return count, texts


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that no text may become."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*tokenizer.all_special_ids, *added} - {tokenizer.unk_token_id})


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that a tool wrote."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def _flags(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def train(folder: Path) -> None:
    """One epoch of the three rows."""
    training.train(
        _flags(
            model_name_or_path=folder / "ckpt", meta_path=folder / "data" / "meta.json", output_dir=folder / "out",
            force_image_size=TILE, max_seq_length=512, per_device_train_batch_size=3, num_train_epochs=1,
            save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True, dataloader_num_workers=0,
            max_skipped_share=1,
        )
    )  # fmt: skip


def train_account(folder: Path, printed: str) -> Account:
    """From skipped.jsonl and the watched samples."""
    ledger = folder / "out" / "skipped.jsonl"
    skipped = {row["line"]: row["reason"] for row in _rows(ledger)} if ledger.exists() else {}
    account = Account(sorted(line for line, _ in SEEN), skipped)
    for line, (special, texts) in SEEN:
        if line == 2:
            account.special_tokens, account.texts = special, texts
    return account


def validate_rows(folder: Path) -> None:
    """Check what `train` would read."""
    flags = _flags(
        model_name_or_path=folder / "ckpt", meta_path=folder / "data" / "meta.json", output_dir=folder / "out",
        force_image_size=TILE, max_seq_length=512, num_workers=1,
    )  # fmt: skip
    validate.main(flags)


def validate_account(folder: Path, printed: str) -> Account:
    """From findings.jsonl: a row with an error is one that training would skip."""
    errors = [row for row in _rows(folder / "out" / "findings.jsonl") if FAULTS[row["fault"]].severity == "error"]
    skipped = {row["line"]: row["detail"] for row in reversed(errors) if row["line"]}
    refusal = "\n".join([row["detail"] for row in errors if not row["line"]][:3])
    return Account([line for line in rows_of(folder) if line not in skipped], skipped, refusal=refusal)


def view(folder: Path) -> None:
    """The page of the pairs of meta.json."""
    view_pairs.main(_flags(meta=folder / "data" / "meta.json", out=folder / "out" / "pairs.html", number=100))


def view_file(folder: Path) -> None:
    """The page of a file of pairs."""
    data = folder / "data"
    view_pairs.main(
        _flags(pairs=data / "rows.jsonl", root=data / "images", out=folder / "out" / "pairs.html", number=100)
    )


def view_account(folder: Path, printed: str) -> Account:
    """From the watched pairs, what the page says in the place of images, and what was printed."""
    page = (folder / "out" / "pairs.html").read_text(encoding="utf-8")
    account = Account(foreign=[mark for mark in ("<script>alert", "<img src=x") if mark in page])
    account.skipped = {int(line): reason for line, reason in re.findall(r"left out: .*?:(\d+): (.*)", printed)}
    for line, view in SEEN:
        problems = [picture.problem for picture in view.pictures if picture.problem]
        if problems:
            account.skipped[line] = problems[0]
        else:
            account.used.append(line)
    return account


def _sampling(folder: Path, engine: str, **more: object) -> list[str]:
    data = folder / "data"
    flags = {"prompt-path": data / "rows.jsonl", "out-dir": folder / "out", "engine": engine, "num-workers": 1}
    return [*_flags(**flags, **{"image-root": data / "images", **more}), "--dynamic"]


def correctness(folder: Path) -> None:
    """Two scripted answers to each prompt."""
    mmpr_data_pipeline_correctness.main(_sampling(folder, "scripted", **{"num-return-sequences": 2}))


def sample(folder: Path) -> None:
    """Two tokens of an answer to each prompt, by the checkpoint."""
    more = {"checkpoint": folder / "ckpt", "max-new-tokens": 2, "num-return-sequences": 1}
    mmpr_data_pipeline_correctness.main(_sampling(folder, "transformers", **more))


def dropout(folder: Path) -> None:
    """Continuations of the chosen answers, scripted."""
    mmpr_data_pipeline_dropout_ntp.main(_sampling(folder, "scripted"))


def visualprm(folder: Path) -> None:
    """Scores of the steps of the responses, scripted."""
    more = {"num-return-sequences": 1, "num-mc-sequences": 2}
    visualprm_data_pipeline.main(_sampling(folder, "scripted", **more))


def sampling_account(folder: Path, printed: str) -> Account:
    """From the merged file and rejects.jsonl."""
    [parts] = (folder / "out").glob("**/rows.parts")
    rejects, rows = _rows(parts / "rejects.jsonl"), _rows(parts.with_suffix(".jsonl"))
    account = _by_question(folder, [row.get("question_orig", row["question"]) for row in rows])
    account.skipped = {row["line"]: row["reason"] for row in rejects}
    account.used = sorted(set(account.used))  # each is answered as often as was asked for
    return account


def _by_question(folder: Path, questions: list[str]) -> Account:
    """The lines whose questions these are."""
    lines = dict(_questions(folder))
    account = Account()
    for question in questions:
        if question in lines:
            account.used.append(lines[question])
        else:
            account.foreign.append(question[:200])
    return account


def rows_of(folder: Path) -> list[int]:
    """Numbers of the lines of rows.jsonl that are not blank; none where it is no regular file."""
    path = folder / "data" / "rows.jsonl"
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [number for number, line in enumerate(lines, 1) if line.strip()]


def _questions(folder: Path) -> Iterator[tuple[str, int]]:
    """Each question of the rows, as it is and as it was asked for, with its line."""
    for number, line in enumerate((folder / "data" / "rows.jsonl").read_bytes().split(b"\n"), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield from ((row[key], number) for key in ("question_orig", "question") if isinstance(row.get(key), str))


def evaluate_rows(folder: Path) -> None:
    """Two tokens of an answer to each prompt, judged."""
    data = folder / "data"
    evaluate.main(
        _flags(
            checkpoint=folder / "ckpt", reasoned=data / "rows.jsonl", out=folder / "out" / "evaluation.json",
            **{"image-root": data / "images", "max-new-tokens": 2},
        )
    )  # fmt: skip


def evaluate_account(folder: Path, printed: str) -> Account:
    """An evaluation uses all rows or none."""
    report = json.loads((folder / "out" / "evaluation.json").read_text())
    lines = rows_of(folder)
    return Account(lines if report["reasoned"]["all"]["questions"] == len(lines) else [])


def pairs(folder: Path) -> None:
    """Pairs of the sampled answers."""
    flags = {"data-dir": folder / "data", "save-dir": folder / "out", "num-workers": 1}
    mmpr_data_pipeline_correctness_postprocess.main(_flags(**flags))


def prm_pairs(folder: Path) -> None:
    """Conversations and pairs of the scored steps."""
    visualprm_data_pipeline_postprocess.main(_flags(**{"data-dir": folder / "data", "save-dir": folder / "out"}))


def pairs_account(folder: Path, printed: str) -> Account:
    """From the answers that were right, the questions that nobody got right, conversations, and rejects.jsonl."""
    out = folder / "out"
    files = [*out.glob("pos_items/rows.jsonl"), *out.glob("neg_items/rows.jsonl"), *out.glob("raw/rows_prm.jsonl")]
    questions = []
    for row in (row for path in files for row in _rows(path)):
        told = row["conversations"][1]["value"] if "conversations" in row else ""
        found = re.search(r"### Question:\n(.*)\n\n### Solution", told, re.DOTALL)
        questions.append(found[1] if found else row["question"])
    account = _by_question(folder, questions)
    account.used.sort()
    account.skipped = {row["line"]: row["reason"] for row in _rows(out / "rejects.jsonl")}
    return account


def chat(folder: Path) -> None:
    """One question about the victim's image, or as chat.json says."""
    asked = json.loads((folder / "chat.json").read_text()) if (folder / "chat.json").exists() else {}
    model, tokenizer = load_model(folder / "ckpt"), load_tokenizer(folder / "ckpt")
    image = load_image(str(folder / "data" / "images" / "victim.png"))
    tiles = normalize_tiles(torch.from_numpy(Tiling(image_size=TILE, max_num=1).cut(image, (1, 1))))
    if "tiles" in asked:
        tiles = None if asked["tiles"] is None else torch.zeros(asked["tiles"])
    if "fill" in asked:
        tiles = torch.full_like(tiles, float(asked["fill"]))
    history = [tuple(turn) for turn in asked["history"]] if "history" in asked else None
    question = asked.get("question", "How many marks has the picture?")
    counts = asked.get("num_patches_list")
    model.chat(tokenizer, tiles, question, {"max_new_tokens": 2}, history, num_patches_list=counts)


def chat_account(folder: Path, printed: str) -> Account:
    """A chat has no rows."""
    return Account([1, 2, 3])


ENTRIES = {
    "train": EntryPoint(train, train_account),
    "train_internlm2": EntryPoint(train, train_account),
    "validate": EntryPoint(validate_rows, validate_account),
    "view": EntryPoint(view, view_account),
    "view_file": EntryPoint(view_file, view_account),
    "correctness": EntryPoint(correctness, sampling_account),
    "sample": EntryPoint(sample, sampling_account),
    "dropout": EntryPoint(dropout, sampling_account),
    "visualprm": EntryPoint(visualprm, sampling_account),
    "evaluate": EntryPoint(evaluate_rows, evaluate_account),
    "pairs": EntryPoint(pairs, pairs_account),
    "prm_pairs": EntryPoint(prm_pairs, pairs_account),
    "chat": EntryPoint(chat, chat_account),
}
