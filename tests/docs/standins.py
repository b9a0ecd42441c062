"""Stands in for commands of the documentation that cannot run as they are in a test.

Run as `python -m tests.docs.standins COMMAND ARGUMENTS…` by the scripts that `install`
writes, it does as much of a command as a test can:

| command | what is done instead |
|---|---|
| `hqsam serve` | it starts for real, on free ports of loopback, and is told to end |
| `hqsam serve --backend-directory` | needs Triton's image: its options are checked |
| `hqsam export` | it runs; the same once more is a copy of what the first one wrote |
| `hqsam ui` | it starts for real, on a free port, and is told to end |
| `hqsam fetch` | no download: prints the path of a tiny checkpoint |
| `python examples/…service, …backend` | start for real, on a free port, and are told to end |
| `python -m training.unseen` | two scenes are written |
| `python -m training.…` | takes hours: its options are checked |
| `pip install` | no second installation: the extras are checked |
| `make` | a dry run of the target |
| `docker`, `kubectl` | not installed: the files that they are given are checked |
| `git clone` | no download: makes the folder that the next command reads |
| `grpcurl` | the same call by gRPC's Python library |

All other commands run as they are, and so does every option that is not named here.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from hqsam_cli.main import main as hqsam
from hqsam_testing.command import Command
from hqsam_testing.waiting import TIMEOUT_S
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMANDS = ("hqsam", "python", "pip", "make", "docker", "kubectl", "git", "grpcurl")


def install(folder: Path) -> None:
    """Write a script for each command into a folder, for `PATH`."""
    folder.mkdir()
    for command in COMMANDS:
        script = folder / command
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m {__spec__.name} '
            f'{command} "$@"\n'
        )
        script.chmod(0o755)


def main(command: str, arguments: list[str]) -> int:
    """Run a command, or what stands in for it; returns the exit status."""
    if command == "hqsam":
        return _hqsam(arguments)
    if command == "python":
        return _python(arguments)
    if command == "make":
        return subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT).returncode
    {
        "pip": _check_extras,
        "docker": _check_files,
        "kubectl": _check_files,
        "git": _clone,
        "grpcurl": _grpcurl,
    }[command](arguments)
    return 0


def _hqsam(arguments: list[str]) -> int:
    if arguments == ["fetch"]:
        print(Path("sam_hq_vit_b.pth").absolute())
        return 0
    if arguments[0] == "export" and "--help" not in arguments:
        return _export(arguments)
    if arguments[0] not in ("serve", "ui"):
        return hqsam(arguments)
    main = "import sys; from hqsam_cli.main import main; sys.exit(main())"
    run = ["-c", main, arguments[0]]
    if arguments[0] == "ui":
        return _start_and_end([*run, "--port=0", *arguments[1:]], "HQ-SAM page on ")
    if "--backend-directory" in arguments:
        _check_options(run, arguments)
        return 0
    ports = [f"--{service}-port=0" for service in ("grpc", "http", "metrics")]
    loopback = ["127.0.0.1" if it == "0.0.0.0" else it for it in arguments[1:]]  # noqa: S104
    return _start_and_end([*run, *ports, *loopback], "serving ")


def _export(arguments: list[str]) -> int:
    """Export the tiny checkpoint, unless another page did so with the same options."""
    where = arguments.index("--output") + 1
    output, options = Path(arguments[where]), [*arguments[1 : where - 1], *arguments[where + 1 :]]
    name = " ".join(Path(option).name for option in options)
    known = Path(os.environ["XDG_CACHE_HOME"], "exports", name)
    if not known.exists() and (status := hqsam(["export", *options, "--output", str(known)])):
        return status
    shutil.copytree(known, output, dirs_exist_ok=True)
    return 0


def _python(arguments: list[str]) -> int:
    if re.search(r"(service|backend)\.py$", arguments[0]):
        return _start_and_end([*arguments, "--port", "0"], "Uvicorn running on")
    if arguments[:2] == ["-m", "training.unseen"]:
        arguments = [*arguments, "--count=2"]
    elif arguments[0] == "-m" and arguments[1].startswith("training."):
        _check_options(["-m", arguments[1]], arguments[2:])
        return 0
    return subprocess.run([sys.executable, *arguments]).returncode


def _start_and_end(arguments: list[str], ready: str) -> int:
    """Start a server, wait for its line that says it is ready, and end it."""
    with Command([sys.executable, *arguments]) as server:
        server.line(ready)
        status = server.stop(signal.SIGTERM)
        if status in (0, -signal.SIGTERM):
            return 0
        print(server.output(), file=sys.stderr)
        return 1


def _check_options(command: list[str], arguments: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    unknown = [it for it in arguments if it.startswith("--") and it not in shown]
    assert not unknown, f"{command} has no {unknown}"


def _check_extras(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    extras = re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for wanted in arguments[1:]:
        found = re.fullmatch(r"(?:\.|hqsam-triton)(?:\[([a-z,]+)\])?", wanted)
        assert found, f"{wanted} is not this package"
        assert not found[1] or set(found[1].split(",")) <= set(extras), f"{wanted}: no such extra"


def _check_files(arguments: list[str]) -> None:
    flags = ("--file", "--kustomize")
    files = [value for flag, value in itertools.pairwise(arguments) if flag in flags]
    assert files, f"{arguments} names no file"
    for file in files:
        assert (ROOT / file).exists(), f"{file} does not exist"


def _clone(arguments: list[str]) -> None:
    assert arguments[-1] == "https://github.com/SysCV/sam-hq", arguments
    folder = Path("sam-hq/demo/input_imgs")
    folder.mkdir(parents=True)
    for number in range(8):
        Image.open("photo.jpg").resize((1024, 1024)).save(folder / f"example{number}.png")


def _grpcurl(arguments: list[str]) -> None:
    import grpc
    from google.protobuf import json_format
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    option = dict(itertools.pairwise(arguments))
    assert option["-proto"] == "grpc_service.proto" and option["-d"] == "@", arguments
    address, method = arguments[-2:]
    assert method == "inference.GRPCInferenceService/ModelInfer", method
    name, value = option["-H"].split(": ")
    request = json_format.Parse(sys.stdin.read(), service_pb2.ModelInferRequest())
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request, metadata=[(name, value)], timeout=TIMEOUT_S)
    print(json.dumps(json_format.MessageToDict(answer)))


if __name__ == "__main__":
    # What a command starts finds the stand-ins no more.
    here = str(Path(shutil.which(sys.argv[1]) or "").parent)
    os.environ["PATH"] = os.environ["PATH"].replace(here + os.pathsep, "", 1)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
