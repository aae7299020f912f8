"""How many of our modules one pair and one prompt pass on their way: what a reader has to open to follow them.

    python benchmarks/count_modules.py

A module is passed where a function written in it runs. The way of a pair goes from meta.json to a checkpoint that has
its name: the data set is opened, one step of MPO against a reference model is trained, and saved. The way of a prompt
goes from prompts.jsonl to a file of pairs: the correctness pipeline samples answers, its postprocess judges and pairs
them. All runs in this process, with `ckpt/tiny-base` and a picture of the quickstart.

Counted apart is what every way in the program passes alike and what knows nothing of pairs or prompts (`BESIDE`). An
engine's model and its loading are not part of a prompt's way: most engines have them in another program. The rules by
which an answer is right count as one module (`ONE`): they lie behind one function of `checker`, and nobody needs them
to follow a prompt.

By this rule the ways had 34 and 25 modules at commit 824527c. With all that is counted apart, the model of a prompt's
engine and each file of the answers' rules, they had 40 and 46 there; `everything` has today's figures.
Writes results/modules.json.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from machine import write_results

from internvl_chat.arguments import MPOConfig
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.run.trainer import MultimodalDPOTrainer
from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness as sampler
from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness_postprocess as postprocess

ROOT = Path(__file__).parents[1]
BASE = ROOT / "ckpt/tiny-base"
BESIDE = {
    "internvl_chat.arguments": "flags",
    "internvl_chat.model.configuration_internvl_chat": "fields of config.json",
    "internvl_chat.model.file_kinds": "what a file is by its first bytes",
    "internvl_chat.records.durable": "how a file is written whole",
    "internvl_chat.records.objects": "where a file lies",
    "internvl_chat.run.entry": "what is said of a mistake",
    "internvl_chat.run.guards": "looks on: reads the log",
    "internvl_chat.checkpoint.names": "where a checkpoint lies",
    "internvl_chat.checkpoint.output": "what is said when a file cannot be written",
    "internvl_chat.run.process": "which rank this is",
    "internvl_chat.run.recipe": "what a run is made of, for its resume",
    "internvl_chat.run.progress": "looks on: writes the log",
    "internvl_chat.run.watchdog": "looks on",
    "tools.reasoning_data_pipeline.engines.gpus": "which process and GPUs this is",
    "tools.reasoning_data_pipeline.engines.server_arguments": "flags",
    "tools.reasoning_data_pipeline.engines.throughput": "looks on: writes the log",
    "tools.reasoning_data_pipeline.sampling.arguments": "flags",
}
ANSWERS = "tools.reasoning_data_pipeline.answers"
ONE = f"{ANSWERS}: its rules"  # all modules of answers but those that the ways enter them by
ENTERED = (f"{ANSWERS}.checker", f"{ANSWERS}.judging")


class Passed:
    """Collects the modules of some packages in which a function runs."""

    def __init__(self, *packages: str) -> None:
        """Watch the modules below these folders of the repository."""
        self.folders = tuple(f"{ROOT / package}/" for package in packages)
        self.files: set[str] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """All that runs inside counts, on threads that start there too."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # A module or a class body is a definition that runs when it is imported, not a function.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(self.folders):
            self.files.add(code.co_filename)

    def names(self) -> list[str]:
        """Dotted names of the modules passed so far."""
        return sorted(".".join(Path(file).relative_to(ROOT).with_suffix("").parts) for file in self.files)


def way_of_a_pair(work: Path) -> list[str]:
    """Modules of the library between meta.json and the checkpoint of its only step."""
    passed = Passed("internvl_chat")
    tokenizer = load_tokenizer(BASE)
    policy, reference = load_model(BASE), load_model(BASE)
    once = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    args = MPOConfig(output_dir=str(work / "run"), **once)
    with passed.watched():
        size = {"num_image_token": policy.num_image_token, "image_size": policy.config.force_image_size}
        dataset = MixtureDataset(work / "data/pairs.json", tokenizer, template=policy.config.template, **size)
    own = {"processing_class": tokenizer, "source": BASE, "train_dataset": dataset}
    trainer = MultimodalDPOTrainer(policy, reference, args, **own)
    with passed.watched():
        trainer.train()
    if not (work / "run/checkpoint-1/checksums.json").is_file():
        raise RuntimeError(f"{work / 'run'}: the step left no checkpoint")
    return passed.names()


def way_of_a_prompt(work: Path) -> list[str]:
    """Modules of library and tools between prompts.jsonl and its pairs."""
    passed = Passed("internvl_chat", "tools")
    sampling = ["--checkpoint", str(BASE), "--prompt-path", str(work / "data/train_en_prompts.jsonl")]
    sampling += ["--out-dir", str(work / "sampled"), "--num-return-sequences", "8", "--engine", "transformers"]
    pairing = ["--data-dir", str(work / "sampled"), "--save-dir", str(work / "pairs"), "--num-workers", "1"]
    with passed.watched():
        sampler.main([*sampling, "--max-num", "1", "--max-new-tokens", "96"])
        postprocess.main(pairing)
    if not any(path.stat().st_size for path in (work / "pairs/raw").iterdir()):
        raise RuntimeError(f"{work / 'pairs'}: the answers made no pair")
    return passed.names()


def one_by_one(way: str, names: Sequence[str]) -> dict[str, Any]:
    """The figures of a way that passes these modules."""
    apart = {name: BESIDE[name] for name in names if name in BESIDE}
    if way == "prompt":
        apart |= {name: "an engine's model" for name in names if name.startswith("internvl_chat.model.")}
    left = [name for name in names if name not in apart]
    passed = sorted({ONE if name.startswith(ANSWERS) and name not in ENTERED else name for name in left})
    return {"modules": len(passed), "passed": passed, "beside": apart, "everything": len(names)}


def count() -> dict[str, dict[str, Any]]:
    """Both ways: how many modules, which, and which stand beside."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        make = [sys.executable, str(ROOT / "data/make_visual_reasoning.py"), "--out", str(work / "data")]
        subprocess.run([*make, "--pairs", "1", "--held_out", "0"], check=True)
        return {"pair": one_by_one("pair", way_of_a_pair(work)), "prompt": one_by_one("prompt", way_of_a_prompt(work))}


def main() -> None:
    """Count both ways and write it down."""
    write_results("modules", count())


if __name__ == "__main__":
    main()
