"""`mpo WORD ...`: one command for every stage, each the entry point that the documentation names.

    mpo                                  the words
    mpo train examples/full.yaml         as python -m internvl_chat.train_mpo examples/full.yaml
    python -m tools.mpo env              the same from a clone in which nothing is installed

A word stands for a module, which is imported when its word is asked for, so that `mpo validate --help` does not wait
for what `mpo train` needs. A new tool adds its line to WORDS.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from internvl_chat.run.entry import enter, versions

PIPELINES = "tools.reasoning_data_pipeline"
# Word: module whose `main` it is, and what it does. The order is that of the work.
WORDS = {
    "prepare": ("tools.prepare_mmpr", "fetch, unpack and check the published pairs (MMPR)"),
    "import": ("tools.import_pairs", "pairs as hubs and other trainers have them"),
    "sample": (f"{PIPELINES}.mmpr_data_pipeline_correctness", "sample answers to questions whose answer is known"),
    "pairs": (f"{PIPELINES}.mmpr_data_pipeline_correctness_postprocess", "pairs of right and wrong sampled answers"),
    "dropout": (f"{PIPELINES}.mmpr_data_pipeline_dropout_ntp", "rejected answers continued without the image"),
    "rewards": (f"{PIPELINES}.reward_pairs", "pairs from scored answers"),
    "sample-steps": (f"{PIPELINES}.visualprm_data_pipeline", "score the steps of answers by continuing them"),
    "steps": (f"{PIPELINES}.visualprm_data_pipeline_postprocess", "pairs or rows from scored steps"),
    "score": ("tools.score_steps", "score the steps of answers by a critic"),
    "curate": ("tools.curate", "leave out leaks, near duplicates and what is too easy"),
    "mixture": ("tools.mixture", "a meta.json from data sets and a recipe"),
    "validate": ("tools.validate", "look at every row before a GPU is taken"),
    "view": ("tools.view_pairs", "a page to look at pairs"),
    "plan": ("tools.footprint", "steps, memory and hours of a training"),
    "train": ("internvl_chat.train_mpo", "MPO training"),
    "curves": ("tools.plot_curves", "the curves of a run as a picture"),
    "evaluate": ("tools.evaluate", "accuracy, preferences and paired tests of a checkpoint"),
    "evaluate-critic": ("tools.evaluate_critic", "how well a critic tells right steps from wrong ones"),
    "report": ("tools.report", "a page about a run"),
    "demo": ("tools.demo", "ask checkpoints side by side in a browser"),
    "serve": ("tools.serve", "a server of a checkpoint, by vLLM or lmdeploy"),
    "merge": ("tools.merge_lora", "an adapter into its base"),
    "compose": ("tools.compose", "a checkpoint from a language model and a vision tower"),
    "convert": ("tools.convert", "between the published and the -hf layout"),
    "publish": ("tools.publish", "checkpoints and pairs to a hub, with their cards"),
    "tiny": ("tools.make_tiny_checkpoint", "a tiny checkpoint to try things with"),
    "env": ("tools.environment", "versions, devices and kernels: what an issue report needs"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command behind a word.

    Args:
        argv: the word and its flags; None for the command line.

    Raises:
        ValueError: there is no such word.
        SystemExit: with the exit code of the command.
    """
    word, *flags = [*(sys.argv[1:] if argv is None else argv), ""]
    if word in ("", "-h", "--help", "help"):
        print(overview())
    elif word in ("--version", "version"):
        print("\n".join(versions()))
    else:
        command = find_command(word)
        sys.argv = [f"mpo {word}", *flags[:-1]]
        enter(command)


def find_command(word: str) -> Callable[[], object]:
    """The `main` behind a word.

    Raises:
        ValueError: there is no such word; names the nearest.
    """
    if word not in WORDS:
        near = difflib.get_close_matches(word, WORDS, n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{word} is no command{meant}\nmpo --help lists the commands")
    main: Callable[[], object] = importlib.import_module(WORDS[word][0]).main
    return main


def overview() -> str:
    """The words and what they do."""
    lines = [f"  {word:16}{sentence}" for word, (_, sentence) in WORDS.items()]
    return "\n".join(
        [
            "usage: mpo WORD ...",
            "",
            *lines,
            "",
            "mpo WORD --help tells of its flags, mpo --version of versions. Several GPUs or nodes: shell/launch.sh.",
        ]
    )


def run() -> None:
    """The console script."""
    enter(main)


if __name__ == "__main__":
    run()
