"""What commands share: types of arguments, options of a server, a progress bar."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqsam_client.errors import HQSamError, OptionError, printable

if TYPE_CHECKING:
    from hqsam_client.windows import Windows

_RANGE = "LOW,HIGH"


class UsageError(OptionError):
    """The command line is wrong; the exit status is then 2."""


def path(text: str) -> Path:
    """Return an absolute path; a ``~`` that no shell expanded is the home folder, too.

    Raises:
        UsageError: it is empty, or nobody's home folder. As a type of argparse's it is a
            ``ValueError``.
    """
    if not text:
        raise UsageError("a path is empty")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{text} cannot be found: there is no such home folder") from error


def positive(text: str) -> int:
    """Return an integer of at least 1."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """Return an integer of at least 0."""
    return _at_least(0, text)


def port(text: str) -> int:
    """Return the number of a TCP port, 1 to 65535."""
    number = _at_least(1, text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, expected 1 to 65535")
    return number


def seconds(text: str) -> float:
    """Return a time in seconds, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time, expected seconds, such as 30")
    return number


def numbers(form: str, count: int) -> Callable[[str], tuple[float, ...]]:
    """Return a parser of `count` numbers separated by commas; `form` is for its message."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise argparse.ArgumentTypeError(f"{text!r}, expected numbers of the form {form}")
        return numbers

    return parse


def _value_range(text: str) -> Any:
    """Return a `ValueRange` of two values."""
    # NumPy is imported late: `hqsam --help` and `hqsam --version` do not need it.
    from hqsam_client.image_files import check_range

    low, high = numbers(_RANGE, 2)(text)
    try:
        check_range((low, high))
    except OptionError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected two finite numbers, the smaller first"
        ) from error
    return low, high


def _percentiles(text: str) -> Any:
    """Return a `ValueRange` of percentiles."""
    from hqsam_client.image_files import Percentiles

    try:
        return Percentiles(*numbers(_RANGE, 2)(text))
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how images are read: ``value_range``, a `ValueRange` or None."""
    group = parser.add_argument_group("images").add_mutually_exclusive_group()
    group.add_argument(
        "--value-range",
        type=_value_range,
        metavar=_RANGE,
        help="of images of more than 8 bits a value: which values become 0 and 255, such as 0,4095 "
        "for 12 bits (default: 0,65535 for 16 bits; of integers and floats the smallest and the "
        "largest)",
    )
    group.add_argument(
        "--percentiles",
        type=_percentiles,
        dest="value_range",
        metavar=_RANGE,
        help="the same as percentiles of each image's own values, such as 2,98",
    )


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer of at least {least}")
    return number


def add_windows(parser: Any) -> None:
    """Add the option that opens images in windows to a parser, or to a group of one."""
    # NumPy is imported late: `hqsam --help` and `hqsam --version` do not need it.
    from hqsam_client.windows import Windows

    parser.add_argument(
        "--windows",
        nargs="?",
        type=positive,
        const=Windows().size,
        metavar="PIXELS",
        help="open images in overlapping windows of so many pixels (%(const)s), for large images "
        "of small objects; TIFF files are then read in parts, which needs rasterio "
        "(pip install 'hqsam-triton[raster]')",
    )


def windows(args: argparse.Namespace) -> Windows | None:
    """Return the windows that are wanted; neighbours share a quarter.

    Raises:
        OptionError: they are too small.
    """
    from hqsam_client.windows import Windows

    return None if args.windows is None else Windows(args.windows, args.windows // 4)


def add_attention_biases(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what Light's attention is."""
    parser.add_argument(
        "--attention-biases",
        action="store_true",
        help="Light only: add the checkpoint's biases in attention, as the official demo does "
        "with its second eval(); by default they are zero, as build_sam_vit_t leaves them",
    )


def add_server_arguments(
    parser: argparse.ArgumentParser, one_timeout_s: float | None = None
) -> None:
    """Add the address, timeouts and credentials of a server.

    Args:
        parser: of a command.
        one_timeout_s: default of one ``--timeout`` for all answers; None for the client's own
            defaults, which give an encode more time.
    """
    # gRPC is imported late: `hqsam --help` and `hqsam --version` do not need it.
    from hqsam_client.shared.base import DEFAULT_EMBED_TIMEOUT_S, DEFAULT_TIMEOUT_S, DEFAULT_URL

    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("HQSAM_URL", DEFAULT_URL),
        help="host:port; several separated by commas; or a gRPC name such as "
        f"dns:///hqsam-headless:8001 (default: $HQSAM_URL, else {DEFAULT_URL})",
    )
    which = "an answer that needs no encoding" if one_timeout_s is None else "each answer"
    group.add_argument(
        "--timeout",
        type=seconds,
        default=one_timeout_s or DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to wait for {which} (default: %(default)g)",
    )
    if one_timeout_s is None:
        group.add_argument(
            "--embed-timeout",
            type=seconds,
            default=DEFAULT_EMBED_TIMEOUT_S,
            metavar="SECONDS",
            help="how long to wait for an image to be encoded (default: %(default)g)",
        )
    group.add_argument(
        "--tls",
        action="store_true",
        help="encrypt the connection; $HQSAM_TOKEN, if set, is sent as a bearer token",
    )
    group.add_argument(
        "--root-certificates",
        type=path,
        metavar="PEM",
        help="check the server's certificate with these instead of the system's; implies --tls",
    )
    group.add_argument(
        "--client-certificate", type=path, metavar="PEM", help="for mutual TLS; implies --tls"
    )
    group.add_argument("--client-key", type=path, metavar="PEM", help="its private key")


def client_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `HQSam` and `AsyncHQSam`, without `url` and `authority`."""
    return {
        "timeout_s": args.timeout,
        "embed_timeout_s": getattr(args, "embed_timeout", args.timeout),
        "tls": args.tls,
        "root_certificates": args.root_certificates,
        "client_certificate": args.client_certificate,
        "client_key": args.client_key,
        "token": os.environ.get("HQSAM_TOKEN"),
    }


def print_failure(command: str, name: object, error: HQSamError) -> None:
    """Print that one of several inputs failed, and name it once."""
    message, shown = str(error), printable(str(name))
    if shown not in message:
        message = f"{shown}: {message}"
    print(f"hqsam {command}: {message}", file=sys.stderr)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int, int], object]]:
    """Show a progress bar if tqdm is installed and standard error is a terminal.

    Args:
        unit: what is counted.

    Returns:
        what to call after each step, with the number that is done and the number of all.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total: None
        return
    with tqdm(unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def each(show: Callable[[int, int], object], total: int) -> Callable[..., object]:
    """Return what to call after each of `total` steps; what it is called with does not count."""
    done = itertools.count(1)
    return lambda *_: show(next(done), total)
