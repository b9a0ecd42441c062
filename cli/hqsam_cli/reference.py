"""Writes the command-line reference: `python -m hqsam_cli.reference > docs/cli.md`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from hqsam_cli import main, options

_INTRODUCTION = """\
# Command line

<!-- Generated: python -m hqsam_cli.reference > docs/cli.md -->

After a command, `--help` prints the same; without one, `--version` prints the version. A command
that fails prints one line that says what to do and exits with status 1. If the command line itself
is wrong, the status is 2. Paths may start with `~`.
"""

_SERVER = "Options of a server"
_SEE_SERVER = f"{_SERVER}: see [below](#{_SERVER.lower().replace(' ', '-')}).\n"


def reference() -> str:
    """Return the reference of all commands, in Markdown."""
    parser = argparse.ArgumentParser()
    options.add_server_arguments(parser)
    server = _table("server", parser._action_groups[-1]._group_actions)  # noqa: SLF001
    commands = "\n".join(_command(name).replace(server, _SEE_SERVER) for name in main.COMMANDS)
    return f"{_INTRODUCTION}\n{commands}\n## {_SERVER}\n\n{server}"


def _command(name: str) -> str:
    parser = argparse.ArgumentParser()
    main.add_arguments(name, parser)
    sections = [f"## hqsam {name}\n", f"{_sentence(main.COMMANDS[name].help)}\n"]
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no public list of them
        actions = [a for a in group._group_actions if _documented(a)]  # noqa: SLF001
        if actions:
            sections.append(_table(group.title or "", actions))
    if parser.epilog:
        is_text = parser.formatter_class is not argparse.RawDescriptionHelpFormatter
        epilog = parser.epilog.rstrip() + "\n"
        sections.append(epilog if is_text else textwrap.indent(epilog, "    "))
    return "\n".join(sections)


def _documented(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS and action.dest != "help"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(group: str, actions: Iterable[argparse.Action]) -> str:
    titles = {"positional arguments": "Argument", "options": "Option"}
    rows = "".join(f"| {_form(action)} | {_help(action)} |\n" for action in actions)
    return f"| {titles.get(group, f'Option: {group}')} | |\n|---|---|\n{rows}"


def _form(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{value} ...`" if action.nargs in ("*", "+") else f"`{value}`"
    option = action.option_strings[-1]
    return f"`{option}`" if action.nargs == 0 else f"`{option} {value}`"


def _help(action: argparse.Action) -> str:
    default = action.default
    if isinstance(default, Path):
        default = str(default).replace(str(Path.home()), "~")
    text = (action.help or "") % {**vars(action), "default": default}
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
