"""The `hqsam` command: finds the subcommand, imports what it needs, runs it."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple, NoReturn

from hqsam_client.errors import HQSamError, printable

from hqsam_cli.options import UsageError


class Command(NamedTuple):
    """A subcommand: its module, which has `add_arguments` and `run`, and the extra it needs."""

    module: str
    help: str
    extra: str | None = None


COMMANDS = {
    "fetch": Command("hqsam_cli.commands.fetch", "download a checkpoint and verify it", "export"),
    "export": Command(
        "hqsam_cli.commands.export", "convert a checkpoint into a Triton model repository", "export"
    ),
    "validate": Command(
        "hqsam_cli.commands.validate", "check exported files against contract and model", "export"
    ),
    "clean": Command("hqsam_cli.commands.clean", "remove what export generated"),
    "serve": Command("hqsam_cli.commands.serve", "start Triton on a model repository", "server"),
    "small": Command("hqsam_cli.commands.small", "write the small model as a model repository"),
    "ui": Command("hqsam_cli.commands.ui", "serve a web page to click on images", "ui"),
    "segment": Command("hqsam_cli.commands.segment", "segment images through a server"),
    "everything": Command("hqsam_cli.commands.everything", "find all objects in images"),
    "embed": Command("hqsam_cli.commands.embed", "encode images ahead of time"),
    "evaluate": Command(
        "hqsam_cli.commands.evaluate", "score a server's masks against true ones", "evaluate"
    ),
    "demo-official": Command(
        "hqsam_cli.commands.demo_official", "segment the images of the authors' demonstration"
    ),
    "status": Command("hqsam_cli.commands.status", "show the state of each replica of a server"),
}
"""The subcommands by name. Their modules are imported when they run."""

_NEGATIVE_NUMBERS = re.compile(r"-[\d.][\d.,eE+-]*")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like those of the commands."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `hqsam` command line.

    Returns:
        the exit status: 0; 1 where the command failed, after one line on standard error that
        says what to do; 2 where the command line is wrong; 130 where it was interrupted.
    """
    arguments = _attach_negative_numbers(list(sys.argv[1:] if argv is None else argv))
    name = next((argument for argument in arguments if argument in COMMANDS), "")
    try:
        args, unknown = parser(name).parse_known_args(arguments)
        if unknown:
            raise UsageError(f"unknown arguments: {' '.join(unknown)}; see hqsam {name} --help")
        status: int = importlib.import_module(COMMANDS[name].module).run(args)
        sys.stdout.flush()
        return status
    except HQSamError as error:
        print(f"hqsam {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except ImportError as error:
        return _import_failed(name, error)
    except BrokenPipeError:
        # Whoever read the output has enough of it. The interpreter flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"hqsam {name}: {printable(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser(name: str = "") -> Parser:
    """Return the parser of `hqsam`, with the options of the subcommand `name`.

    Raises:
        ImportError: the subcommand needs a package that is not installed.
    """
    whole = Parser(
        prog="hqsam",
        description="HQ-SAM (Segment Anything in High Quality) on NVIDIA Triton.",
        epilog="hqsam COMMAND --help shows the options of a command.",
    )
    whole.add_argument(
        "--version", action="version", version=f"hqsam {metadata.version('hqsam-triton')}"
    )
    subparsers = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for known, command in COMMANDS.items():
        subparser = subparsers.add_parser(known, help=command.help, description=command.help)
        if known == name:
            add_arguments(name, subparser)
    return whole


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand `name` to a parser."""
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)


def _attach_negative_numbers(arguments: list[str]) -> list[str]:
    """Turn ``--point -3,20`` into ``--point=-3,20``: argparse takes -3,20 for an option."""
    attached: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return attached + arguments[index:]
        option = attached[-1] if attached else ""
        if _NEGATIVE_NUMBERS.fullmatch(argument) and option.startswith("--") and "=" not in option:
            attached[-1] = f"{option}={argument}"
        else:
            attached.append(argument)
    return attached


def _import_failed(name: str, error: ImportError) -> int:
    extra = COMMANDS[name].extra
    if extra is None or (error.name or "").startswith("hqsam"):
        raise error
    missing = isinstance(error, ModuleNotFoundError)
    what = f"the package {error.name} is missing" if missing else f"{error.name}: {error}"
    print(f"hqsam {name}: {what}: pip install 'hqsam-triton[{extra}]'", file=sys.stderr)
    return 1
