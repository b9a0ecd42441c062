"""The `hqsam` command: finds the subcommand, imports what it needs, runs it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from hqsam_client.errors import HQSamError


class _Command(NamedTuple):
    """A subcommand: the module with its `add_arguments` and `run`, and the extra it needs."""

    module: str
    help: str
    extra: str | None = None


_COMMANDS = {
    "fetch": _Command("hqsam_cli.commands.fetch", "download a checkpoint and verify it", "export"),
    "export": _Command(
        "hqsam_cli.commands.export", "convert a checkpoint into a Triton model repository", "export"
    ),
    "validate": _Command(
        "hqsam_cli.commands.validate", "prove that exported files are right", "export"
    ),
    "clean": _Command("hqsam_cli.commands.clean", "remove what export generated", "export"),
    "serve": _Command("hqsam_cli.commands.serve", "start Triton on a model repository", "server"),
    "small": _Command("hqsam_cli.commands.small", "write the small model as a model repository"),
    "ui": _Command("hqsam_cli.commands.ui", "serve a web page to click on images", "ui"),
    "segment": _Command("hqsam_cli.commands.segment", "segment images through a server"),
    "embed": _Command("hqsam_cli.commands.embed", "have images encoded ahead of time"),
    "evaluate": _Command("hqsam_cli.commands.evaluate", "score masks against the right ones"),
    "demo-official": _Command(
        "hqsam_cli.commands.demo_official", "segment the images of the authors' demonstration"
    ),
    "status": _Command("hqsam_cli.commands.status", "show how each replica of a server is"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `hqsam` command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="hqsam", description="HQ-SAM (Segment Anything in High Quality) on NVIDIA Triton."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if arguments[:1] == [name]:
            importlib.import_module(command.module).add_arguments(subparser)
    args = parser.parse_args(arguments)
    command = _COMMANDS[args.command]
    try:
        status: int = importlib.import_module(command.module).run(args)
    except HQSamError as error:
        print(f"hqsam {args.command}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if command.extra is None:
            raise
        print(
            f"hqsam {args.command}: the package {error.name} is missing: "
            f"pip install 'hqsam-triton[{command.extra}]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return status
