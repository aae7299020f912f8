"""Model cards: a head that the hub reads, and a body by which others can judge what was done.

---
license: mit
base_model: OpenGVLab/InternVL2_5-8B
model-index: ...      the evaluation, with intervals in its metrics' names
---
# ...                 mixture with counts and skips, settings, curves, paired tests, decontamination, how to load
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from internvl_chat.publishing.contents import PublishError, read_json
from internvl_chat.publishing.secrets import scrub, scrub_text

TEMPLATE = Path(__file__).with_name("model_card.md")
TAGS = ("internvl", "custom_code", "mpo", "preference-optimization")
OWN_TERMS = {"license": "other", "license_name": "as-base-model"}
# Flags that tell how a run was made; whatever else settings.json holds does not leave.
_MODEL = "freeze_llm freeze_backbone freeze_mlp drop_path_rate use_backbone_lora use_llm_lora load_in_4bit"
_DATA = "conv_style max_seq_length force_image_size max_dynamic_patch dynamic_image_size"
_TRAINING = (
    "loss_type sigmoid_loss_weight bco_pair_loss_weight rpo_alpha beta reference learning_rate lr_scheduler_type "
    "warmup_ratio warmup_steps weight_decay adam_beta1 adam_beta2 max_grad_norm num_train_epochs max_steps "
    "per_device_train_batch_size gradient_accumulation_steps bf16 seed"
)
TOLD = {"model": _MODEL.split(), "data": _DATA.split(), "training": _TRAINING.split()}


@dataclass
class CardContent:
    """What a card says beyond what the run's own files tell.

    Attributes:
        repo_id: owner/name.
        base_model: name on the hub, None where it is not there.
        license: identifier of the hub; None says "as the base model".
        datasets: names on the hub.
        languages: codes, or "multilingual".
        results: the evaluation.
        verdicts: paired tests against the base, a sentence each.
        curves: name of the picture in the folder.
        decontamination: its report, see `tools/curate.py`.
    """

    repo_id: str
    base_model: str | None
    license: str | None = None
    datasets: Sequence[str] = ()
    languages: Sequence[str] = ("multilingual",)
    results: Sequence[EvalResult] = ()
    verdicts: Sequence[str] = ()
    curves: str | None = None
    decontamination: Mapping[str, Any] = field(default_factory=dict)


def check_repo_id(repo_id: str) -> str:
    """The name, owner/name; PublishError where the hub would not take it."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"--to {repo_id}: not a name of the hub: {error}") from error
    if repo_id.count("/") != 1:
        raise PublishError(f"--to {repo_id}: a name on the hub is owner/name")
    return repo_id


def model_card(run: Path, content: CardContent) -> ModelCard:
    """The card of a run's checkpoint.

    Args:
        run: output folder of the training, whose settings.json, ledger.json and results are read where they are there.
        content: the rest.

    Raises:
        PublishError: a file of the run is damaged.
    """
    settings = read_json(run / "settings.json")
    ledger = read_json(run / "ledger.json")
    more: dict[str, Any] = license_fields(content.license, content.base_model)
    if content.base_model:
        more["base_model_relation"] = relation(run)
    data = ModelCardData(
        language=list(content.languages),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=content.base_model,
        datasets=list(content.datasets) or None,
        tags=list(TAGS),
        model_name=content.repo_id.partition("/")[2],
        eval_results=list(content.results) or None,
        **more,
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = body.render(
        content=content,
        name=data.model_name,
        base=content.base_model or scrub_text(str(settings.get("model", {}).get("model_name_or_path", "its base"))),
        told=told_settings(settings),
        mixture=mixture_rows(settings.get("mixture", {}), ledger.get("data_sets", {})),
        sums={name: ledger.get(name) for name in ("promised", "used", "skipped")} if ledger else None,
        train=read_json(run / "train_results.json"),
        published_layout=is_published_layout(run),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{scrub_text(text)}")


def license_fields(license_id: str | None, base_model: str | None) -> dict[str, str]:
    """License of the head; without one the base model's, by a link."""
    if license_id:
        return {"license": license_id}
    return {**OWN_TERMS, **({"license_link": f"https://huggingface.co/{base_model}"} if base_model else {})}


def relation(run: Path) -> str:
    """How a checkpoint relates to its base: its own weights, or an adapter."""
    is_adapter = (run / "adapter_config.json").is_file() and not any(run.glob("model*.safetensors"))
    return "adapter" if is_adapter else "finetune"


def is_published_layout(run: Path) -> bool:
    """Whether the checkpoint is in the layout of the published models, or in transformers' own."""
    return read_json(run / "config.json").get("model_type") == "internvl_chat"


def told_settings(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of the flags that a card tells; what is not set is left out."""
    found = [(name, settings.get(group, {}).get(name)) for group, names in TOLD.items() for name in names]
    return [(name, scrub(value, name)) for name, value in found if value not in (None, "", False, 0)]


def mixture_rows(mixture: Mapping[str, Any], books: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data sets of a mixture with what became of their rows."""
    rows = []
    for name, part in mixture.items():
        book = books.get(name, {})
        rows.append(
            {
                "name": name,
                **part,
                "used": book.get("used"),
                "skipped": book.get("skipped"),
                "faults": book.get("faults") or {},
            }
        )
    return rows
