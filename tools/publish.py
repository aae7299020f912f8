"""Publish a trained checkpoint, or pairs as a data set, with what lets others use and judge them.

    python tools/publish.py work_dirs/mpo --to owner/name --dry_run        writes the folder, offline; look at it
    python tools/publish.py work_dirs/mpo --to owner/name [--private]      the same, and sends it
    python tools/publish.py curated/meta.json --to owner/pairs --license cc-by-4.0 --judged "by the correctness rules"

What leaves lies in --out: of a checkpoint weights, configuration, tokenizer and code, README.md (model card: base,
mixture with counts and skips, settings, curves, evaluation with intervals and paired test, decontamination, loading)
and mpo/ (the same as JSON and picture); of pairs parquet files with the pictures, and README.md. Nothing else leaves:
no cache, no optimizer state, no log; tokens, keys and absolute paths are taken out, and what cannot be changed is
refused by name. The evaluation is looked for as `tools/report.py` does. Credentials: `hf auth login`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from internvl_chat.publishing.contents import PublishError
from internvl_chat.publishing.upload import upload
from internvl_chat.run.entry import Parser, enter


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="output folder of a training or a checkpoint, or a meta.json of pairs")
    add("--to", required=True, metavar="OWNER/NAME", help="repository on the hub")
    add("--out", type=Path, help="folder to write; default: published/<owner>/<name>")
    add("--dry_run", action="store_true", help="send nothing")
    add("--private", action="store_true", help="a repository that only its owner sees")
    add("--license", help="of the hub's list, such as mit; default: that of the base model")
    add("--languages", nargs="+", default=["multilingual"], help="codes of the card (default: %(default)s)")
    add("--base_model", metavar="OWNER/NAME", help="that was trained from; default: by the run's settings")
    add("--datasets", nargs="+", metavar="OWNER/NAME", help="on the hub; default: by the path of meta.json")
    add("--evaluation", type=Path, help="--out of tools/evaluate.py; default: looked for")
    add("--evaluated_on", default="held-out questions", help="what that asked, for the card (default: %(default)s)")
    add("--decontamination", type=Path, help="curation.json of tools/curate.py")
    add("--judged", default="", help="of pairs: how each was judged, for the card")
    return parser.parse_args(argv)


def publish(args: argparse.Namespace) -> Path:
    """Write the folder, and send it unless this is a dry run; the folder.

    Raises:
        PublishError: what is needed is not there, must not leave, or could not be sent.
    """
    folder = args.out or Path("published") / args.to
    is_data = args.checkpoint.suffix == ".json"
    check_replaceable(folder)
    # Each loads what the other does not need: `datasets`, or matplotlib.
    kind = import_module(f"tools.publishing.{'pair_sets' if is_data else 'checkpoints'}")
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    kind.stage(args, fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    if not args.dry_run:
        print(upload(folder, args.to, repo_type="dataset" if is_data else "model", private=args.private))
    return folder


def check_replaceable(folder: Path) -> None:
    """Raise PublishError where the folder to write holds something else than an earlier run of this command."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "README.md").is_file() or folder.is_file():
        raise PublishError(f"--out {folder}: is there, and nothing that was written here; name another folder")
    if (folder / ".git").exists() or folder.resolve() == Path.cwd():
        raise PublishError(f"--out {folder}: would be replaced whole; name a folder of its own")


def main(argv: Sequence[str] | None = None) -> None:
    """Publish, and print where the folder is; errors as of `publish`."""
    args = parse_arguments(argv)
    folder = publish(args)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{folder}: {size / 1e9:.2f} GB{', nothing was sent' if args.dry_run else ''}; its card: {folder / 'README.md'}"
    )


if __name__ == "__main__":
    enter(main)
