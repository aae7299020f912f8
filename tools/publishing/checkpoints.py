"""A trained checkpoint to a folder for the hub: its files, a card, and under mpo/ the proof of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl_chat.checkpoint.names import published_name
from internvl_chat.publishing.card import TOLD, CardContent, check_repo_id, model_card
from internvl_chat.publishing.contents import RUN_FOLDER, PublishError, collect, read_json, write_json
from internvl_chat.publishing.secrets import scrub
from tools.curves.log import LOG_NAME, read_log
from tools.evaluation.table import find_evaluation, verdicts
from tools.publishing.evaluations import results

PLOT_DPI = 90
KNOWN_DATA = ("MMPR-v1.2-prompts", "MMPR-v1.2", "MMPR-v1.1", "MMPR-Tiny", "MMPR")


def stage(args: argparse.Namespace, folder: Path) -> None:
    """Write all that leaves into `folder`.

    Raises:
        PublishError: the checkpoint lacks what is needed, or a file holds what must not leave.
    """
    run = args.checkpoint
    check_repo_id(args.to)
    settings = read_json(run / "settings.json")
    base = base_of(args, settings)
    check_given(args.evaluation, args.decontamination)
    path = args.evaluation or find_evaluation(run)
    evaluation = read_json(path) if path else {}
    decontamination = read_json(args.decontamination) if args.decontamination else {}
    content = CardContent(
        repo_id=args.to,
        base_model=base,
        license=args.license,
        datasets=args.datasets or named_data(str(settings.get("data", {}).get("meta_path", ""))),
        languages=args.languages,
        results=list(results(evaluation, args.evaluated_on)),
        verdicts=list(verdicts(evaluation)),
        decontamination=decontamination.get("decontamination") or {},
    )
    collect(run, folder)
    content.curves = draw(run, folder)
    write_run_files(run, folder, evaluation, decontamination)
    model_card(run, content).save(folder / "README.md")


def check_given(*paths: Path | None) -> None:
    """PublishError for a file that was named and is not there."""
    for path in filter(None, paths):
        if not path.is_file():
            raise PublishError(f"{path}: no such file; leave the flag out, or name what its help says")


def base_of(args: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """The hub's name of the model that was trained; PublishError where nobody tells it."""
    base = args.base_model or published_name(str(settings.get("model", {}).get("model_name_or_path", "")))
    if base is None:
        raise PublishError(
            f"{args.checkpoint}: which model of the hub it was trained from is not recorded: name it, "
            "--base_model owner/name"
        )
    return base


def named_data(meta_path: str) -> list[str]:
    """Hub names of the published sets that a path of a meta.json tells of."""
    parts = Path(meta_path).parts
    return [f"OpenGVLab/{name}" for name in KNOWN_DATA if name in parts]


def draw(run: Path, folder: Path) -> str | None:
    """The curves of a run as a picture in `folder`; its name, None where no step was logged."""
    if not (run / LOG_NAME).is_file():
        return None
    try:
        entries = read_log(run)
    except ValueError:  # no step was logged
        return None
    from tools.curves.panels import draw_curves, is_in, run_panels  # matplotlib: no other part of publishing needs it

    (folder / RUN_FOLDER).mkdir(exist_ok=True)
    name = f"{RUN_FOLDER}/curves.png"
    panels = [panel for panel in run_panels(entries) if is_in(panel, entries)]
    draw_curves(entries, panels).savefig(folder / name, dpi=PLOT_DPI)
    return name


def write_run_files(run: Path, folder: Path, evaluation: dict, decontamination: dict) -> None:
    """Settings, books, evaluation and decontamination as JSON files, scrubbed; settings by their list."""
    settings = read_json(run / "settings.json")
    told = {
        group: {name: settings[group][name] for name in names if name in settings.get(group, {})}
        for group, names in TOLD.items()
    }
    files = {
        "settings.json": {**told, "mixture": settings.get("mixture", {})} if settings else {},
        "ledger.json": read_json(run / "ledger.json"),
        "evaluation.json": evaluation,
        "decontamination.json": decontamination,
    }
    for name, value in files.items():
        if value:
            write_json(folder / RUN_FOLDER / name, scrub(json.loads(json.dumps(value))))
