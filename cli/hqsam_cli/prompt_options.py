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

_PROMPT_KEYS = {"image", "points", "labels", "box"}


@dataclass(frozen=True)
class Prompt:
    """What one mask is asked for with, in original pixels."""

    points: list[Any] | None = None
    labels: list[Any] | None = None
    box: Sequence[float] | None = None


@dataclass(frozen=True)
class Job:
    """An image and the prompts for it."""

    image: str
    prompts: list[Prompt]


def add_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the prompts' options; returns their group."""
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--point",
        type=_numbers("X,Y", 2),
        action="append",
        metavar="X,Y",
        help="a point on the object; may be repeated",
    )
    prompts.add_argument(
        "--background",
        type=_numbers("X,Y", 2),
        action="append",
        metavar="X,Y",
        help="a point beside the object; may be repeated",
    )
    prompts.add_argument(
        "--box",
        type=_numbers("X0,Y0,X1,Y1", 4),
        action="append",
        metavar="X0,Y0,X1,Y1",
        help="a box around the object; each further one asks for another mask",
    )
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSON lines, one mask each, '-' for standard input: points, labels, box, and image "
        "unless images are given above",
    )
    return prompts


def jobs(args: argparse.Namespace) -> list[Job]:
    """Bring flags and prompt file together: for each image its prompts, in order."""
    flags = _flag_prompts(args)
    if args.prompts is None:
        if not args.images:
            raise OptionError("no image was given, expected one or more, or --prompts")
        if not flags:
            raise PromptError("no prompt was given, expected --point, --box or --prompts")
        return [Job(image, flags) for image in args.images]
    if flags:
        raise OptionError("--prompts stands instead of --point, --background and --box")
    found: dict[str, list[Prompt]] = {image: [] for image in args.images}
    for number, line in enumerate(_lines(args.prompts), 1):
        if not line.strip():
            continue
        where = f"{args.prompts}, line {number}"
        image, prompt = _parse(line, where)
        if (image is None) != bool(args.images):
            raise OptionError(f"{where}: the image is named here or on the command line, once")
        for name in args.images or [image]:
            found.setdefault(name, []).append(prompt)
    if not any(found.values()):
        raise PromptError(f"{args.prompts} is empty, expected a prompt on each line")
    return [Job(image, prompts) for image, prompts in found.items()]


def _numbers(form: str, count: int) -> Any:
    """Return a parser of so many numbers between commas."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
        return numbers

    return parse


def _flag_prompts(args: argparse.Namespace) -> list[Prompt]:
    foreground, background = args.point or [], args.background or []
    boxes = args.box or []
    points = [*foreground, *background] or None
    labels = [1] * len(foreground) + [0] * len(background) or None
    if len(boxes) > 1 and points:
        raise OptionError("--point and --background go with one --box: use --prompts for more")
    if not boxes:
        return [Prompt(points, labels)] if points else []
    return [Prompt(points, labels, box) for box in boxes]


def _lines(file: str) -> list[str]:
    if file == "-":
        return sys.stdin.read().split("\n")
    try:
        return Path(file).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read: {error}") from error


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
