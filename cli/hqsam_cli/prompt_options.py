"""Prompts on the command line: flags, or a file of JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqsam_client.errors import OptionError, PromptError

from hqsam_cli import options
from hqsam_cli.options import UsageError

_PROMPT_KEYS = {"image", "points", "labels", "box"}


@dataclass(frozen=True)
class Prompt:
    """The prompt for one mask, in original pixels."""

    points: list[Any] | None = None
    labels: list[Any] | None = None
    box: Sequence[float] | None = None


@dataclass(frozen=True)
class Job:
    """An image and its prompts.

    Attributes:
        image: the file's name, as it was given.
        prompts: one for each mask.
    """

    image: str
    prompts: list[Prompt]

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return options.path(self.image)


def add_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the options of prompts, and return their group."""
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--point",
        type=options.numbers("X,Y", 2),
        action="append",
        metavar="X,Y",
        help="a point on the object; may be repeated",
    )
    prompts.add_argument(
        "--background",
        type=options.numbers("X,Y", 2),
        action="append",
        metavar="X,Y",
        help="a point outside the object; may be repeated",
    )
    prompts.add_argument(
        "--box",
        type=options.numbers("X0,Y0,X1,Y1", 4),
        action="append",
        metavar="X0,Y0,X1,Y1",
        help="a box around the object; may be repeated, for a mask each",
    )
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="a file of JSON lines, '-' for standard input. Each line is one mask, with points, "
        "labels, box, and image unless images are named on the command line",
    )
    return prompts


def jobs(args: argparse.Namespace) -> list[Job]:
    """Return the images and their prompts, from flags or from a prompt file, in order."""
    flags = _flag_prompts(args)
    if args.prompts is None:
        if not args.images:
            raise UsageError("no image was given, expected one or more, or --prompts")
        if not flags:
            raise UsageError("no prompt was given, expected --point, --box or --prompts")
        return [Job(image, flags) for image in args.images]
    if flags:
        raise UsageError(
            "--prompts replaces --point, --background and --box: give one or the other"
        )
    found: dict[str, list[Prompt]] = {image: [] for image in args.images}
    for number, line in enumerate(_lines(args.prompts), 1):
        if not line.strip():
            continue
        where = f"{args.prompts}, line {number}"
        image, prompt = _parse(line, where)
        if (image is None) != bool(args.images):
            raise OptionError(f"{where}: name the image either here or on the command line")
        for name in args.images or [image]:
            found.setdefault(name, []).append(prompt)
    if not any(found.values()):
        raise PromptError(f"{args.prompts} is empty, expected a prompt on each line")
    return [Job(image, prompts) for image, prompts in found.items()]


def _flag_prompts(args: argparse.Namespace) -> list[Prompt]:
    foreground, background = args.point or [], args.background or []
    boxes = args.box or []
    points = [*foreground, *background] or None
    labels = [1] * len(foreground) + [0] * len(background) or None
    if len(boxes) > 1 and points:
        raise UsageError(
            "--point and --background go with one --box, not with several: use --prompts"
        )
    if not boxes:
        return [Prompt(points, labels)] if points else []
    return [Prompt(points, labels, box) for box in boxes]


def _lines(file: str) -> list[str]:
    if file == "-":
        return sys.stdin.read().split("\n")
    try:
        return options.path(file).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise OptionError(f"{file} cannot be read: {reason}") from error


def _parse(line: str, where: str) -> tuple[str | None, Prompt]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where}: not JSON: {error}") from error
    if not isinstance(entry, dict) or not set(entry) <= _PROMPT_KEYS:
        raise PromptError(f"{where}: expected an object with {', '.join(sorted(_PROMPT_KEYS))}")
    if not isinstance(entry.get("image", ""), str):
        raise PromptError(f"{where}: image is {entry['image']!r}, expected a path")
    if not entry.get("points") and not entry.get("box"):
        raise PromptError(f"{where}: expected points, a box, or both")
    prompt = Prompt(entry.get("points"), entry.get("labels"), entry.get("box"))
    return entry.get("image"), prompt
