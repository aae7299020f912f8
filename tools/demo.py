"""Ask several checkpoints the same question about an image and see the answers side by side, in a browser.

    python tools/demo.py --checkpoints ckpt/InternVL2_5-8B work_dirs/mpo
    python tools/demo.py --checkpoints ckpt/tiny-base work_dirs/quickstart/checkpoint --port 8000
    python tools/demo.py --checkpoints ckpt/base work_dirs/mpo --examples work_dirs/mpo/evaluation.json

The page asks step by step, in the words of --prompt-version that the pipelines use and MPO trains on, or as typed;
with two checkpoints it marks what one answer has and the other lacks, and it folds what stands in <think>..</think>.
An answer can be followed up, with further images. --examples offers questions with a known answer, and shows the
verdict of the pipelines' checks: of an evaluation (`tools/evaluate.py --against .. --out x.json`) those whose answer
became right or no longer is, or rows question, image, answer.
Answers come from `model.chat`, greedy unless a
temperature is given, or from an engine of the pipelines: `--engine vllm`, or `--engine server --server URL URL`, one
for each checkpoint. The page is served on this machine only, to requests whose Host header names it; from elsewhere,
`ssh -L 7860:127.0.0.1:7860 HOST` brings it. An image is opened within the bounds of training; a conversation has up
to 16 questions and 8 images, and one of more than --max-megabytes (images as base64, a third larger) is refused unread.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_chat.run.entry import Parser, at_least, enter
from tools.reasoning_data_pipeline.engines.opening import ENGINES
from tools.reasoning_data_pipeline.engines.server_arguments import add_servers
from tools.reasoning_data_pipeline.prompts.wording import AS_TYPED, VERSIONS

if TYPE_CHECKING:
    from tools.asking.server import DemoServer


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders or hub names, of either layout")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: %(default)s)")
    parser.add_argument("--port", type=at_least(0), default=7860, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1, ..")
    parser.add_argument("--max-new-tokens", type=at_least(1), default=1024, help="of an answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--engine", choices=("chat", *ENGINES), default="chat", help="(default: %(default)s)")
    parser.add_argument(
        "--prompt-version",
        choices=(AS_TYPED, *VERSIONS),
        default="en",
        help="words that the page puts a question in at first (default: %(default)s)",
    )
    parser.add_argument("--examples", type=Path, help="--out of tools/evaluate.py, or rows question, image, answer")
    add_servers(parser)
    parser.add_argument(
        "--max-megabytes", type=float, default=20, help="of a question with all images (default: %(default)s)"
    )
    return parser.parse_args(argv)


def build_server(args: argparse.Namespace) -> DemoServer:
    """The server, bound but not yet serving.

    Raises:
        FileNotFoundError, ValueError: a checkpoint cannot be loaded, or address or device are not to be had.
    """
    from tools.asking.contenders import open_contenders  # with torch, which takes seconds
    from tools.asking.examples import NONE, read_examples
    from tools.asking.server import DemoServer

    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.temperature > 0}
    if args.temperature > 0:
        settings["temperature"] = args.temperature
    words = args.prompt_version
    examples = read_examples(args.examples, words) if args.examples else NONE
    most = int(args.max_megabytes * 1e6)
    return DemoServer((args.host, args.port), open_contenders(args), settings, most, version=words, examples=examples)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    with build_server(parse_arguments(argv)) as server:
        server.run()


if __name__ == "__main__":
    enter(main)
