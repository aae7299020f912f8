"""The flags of the server engine: pipelines, evaluation and demo share them. No torch."""

from __future__ import annotations

import argparse

from tools.reasoning_data_pipeline.engines.protocol import ServerOptions


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Flags of the server engine."""
    group = parser.add_argument_group("servers", "of --engine server; a key that they want is $SERVER_API_KEY")
    group.add_argument("--server", nargs="+", default=[], metavar="URL", help="one or more, such as http://node7:8000")
    group.add_argument("--server-model", default="", help="what they call the checkpoint, if not by its path")
    group.add_argument(
        "--media-root", default="", help="folder that they read images from by path (--allowed-local-media-path)"
    )
    group.add_argument("--in-flight", type=int, default=256, help="samples that one server works on at once")
    group.add_argument("--deadline", type=float, default=1800, help="seconds for one request")
    group.add_argument("--patience", type=float, default=60, help="seconds to wait for one when all servers are gone")


def server_options(args: argparse.Namespace) -> ServerOptions:
    """How servers are asked.

    Raises:
        ValueError: --engine server without a server, or values out of range.
    """
    urls = tuple(url for words in args.server for url in words.split(",") if url)
    if args.engine == "server" and not urls:
        raise ValueError("--engine server: name one or more with --server URL; shell/serve.sh starts some")
    if args.in_flight < 1 or args.deadline <= 0 or args.patience < 0:
        raise ValueError(
            f"--in-flight {args.in_flight} --deadline {args.deadline} --patience {args.patience}: too small"
        )
    return ServerOptions(
        urls=urls,
        model=args.server_model,
        media_root=args.media_root,
        in_flight=args.in_flight,
        deadline=args.deadline,
        patience=args.patience,
    )
