"""Replacements for commands in the documentation that a test cannot run unchanged.

`install` writes scripts that run `python -m tests.docs.standins COMMAND ARGUMENTS…`. It does
as much of a command as a test can:

| command | in a test |
|---|---|
| `hqsam serve` | starts on free loopback ports, and stops when it is ready |
| the same command on the same models again | is known to work, and does nothing |
| `hqsam serve --backend-directory` | needs Triton's image: only its options are checked |
| `hqsam export` | runs; the same command again copies the first result |
| `hqsam ui` | starts on a free port, and stops when it is ready |
| `hqsam fetch` | prints the path of a tiny checkpoint, without a download |
| `python examples/…service` | starts on a free port, and stops when it is ready |
| `hqsam-label-studio`, `hqsam-x-anylabeling` | start on a free port, and stop when they are ready |
| `python -m training.unseen` | writes two scenes |
| `python -m training.…` | would take hours: only its options are checked |
| `pip install`, `pip wheel` | only the packages and the extras are checked |
| `make` | dry run of the target |
| `docker`, `kubectl`, `nuctl` | not installed: only the files in their arguments are checked |
| `cvat-cli`, `label-studio`, `napari`, `xanylabeling` | not installed, and not run |
| `git clone` | makes the folder that the next command reads, without a download |
| `grpcurl` | the same call with gRPC's Python library |
| `tritonserver` | needs Triton's image: only its options are checked |

All other commands and options run unchanged.
"""

from __future__ import annotations

import hashlib
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
from hqsam_server.launcher import distribution
from hqsam_testing import command as commands
from hqsam_testing.waiting import TIMEOUT_S
from PIL import Image

ROOT = Path(__file__).parents[2]
SERVICES = {
    "hqsam-label-studio": "hqsam_label_studio.service",
    "hqsam-x-anylabeling": "hqsam_x_anylabeling.service",
}
TOOLS = ("cvat-cli", "label-studio", "napari", "xanylabeling")
COMMANDS = (
    "hqsam", "python", "pip", "make", "docker", "kubectl", "nuctl", "git", "grpcurl",
    "tritonserver", *SERVICES, *TOOLS,
)  # fmt: skip


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
    """Run a command or its replacement, and return the exit status."""
    if command == "hqsam":
        return _hqsam(arguments)
    if command == "python":
        return _python(arguments)
    if command in TOOLS:
        return 0
    if command in SERVICES:
        folder = ROOT / "integrations" / SERVICES[command].partition(".")[0].removeprefix("hqsam_")
        os.environ["PYTHONPATH"] += os.pathsep + str(folder)
        # A console script of this module; without a terminal its output is buffered.
        service = [sys.executable, "-u", "-m", SERVICES[command], "--port=0", *arguments]
        return _start_and_stop(service, "Running on")
    if command == "make":
        return subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT).returncode
    {
        "pip": _check_extras,
        "docker": _check_files,
        "kubectl": _check_files,
        "nuctl": _check_files,
        "git": _clone,
        "grpcurl": _grpcurl,
        "tritonserver": _check_triton_options,
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
    if arguments[0] == "ui":
        return _start_and_stop(commands.hqsam("ui", "--port=0", *arguments[1:]), "HQ-SAM page on ")
    if "--backend-directory" in arguments:
        _check_options(commands.hqsam("serve"), arguments)
        return 0
    return _serve(arguments[1:])


def _serve(arguments: list[str]) -> int:
    """Start `hqsam serve`, unless the same command has started with the same models before."""
    common = [f"--{service}-port=0" for service in ("grpc", "http", "metrics")]
    if not any(it.startswith("--precision") for it in arguments):
        common.append("--precision=fp32")  # which the tests' own server has compiled already
    loopback = ["127.0.0.1" if it == "0.0.0.0" else it for it in arguments]  # noqa: S104
    if "--public" in arguments:
        common += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1"]
    manifest = Path("model_repository", "manifest.json")
    models = b"" if "--small" in arguments else manifest.read_bytes()
    key = hashlib.sha256(json.dumps(arguments).encode() + models).hexdigest()
    known = Path(os.environ["XDG_CACHE_HOME"], "starts", key)
    if known.exists():
        return 0
    status = _start_and_stop(commands.hqsam("serve", *common, *loopback), "serving ")
    if status == 0:
        known.parent.mkdir(exist_ok=True)
        known.touch()
    return status


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
    if arguments[0].endswith("service.py"):
        return _start_and_stop([sys.executable, *arguments, "--port=0"], "Uvicorn running on")
    if arguments[:2] == ["-m", "training.unseen"]:
        arguments = [*arguments, "--count=2"]
    elif arguments[0] == "-m" and arguments[1].startswith("training."):
        _check_options([sys.executable, "-m", arguments[1]], arguments[2:])
        return 0
    return subprocess.run([sys.executable, *arguments]).returncode


def _start_and_stop(arguments: list[str], ready: str) -> int:
    """Start a server, wait for the line that says it is ready, and stop it; both have limits."""
    with commands.Command(arguments) as server:
        server.line(ready)
        status = server.stop(signal.SIGTERM)
        print(server.output(), file=sys.stderr)
    return 0 if status in (0, -signal.SIGTERM) else 1


def _check_options(command: list[str], arguments: list[str]) -> None:
    shown = subprocess.run(
        [*command, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    _check_named(shown, arguments)


def _check_triton_options(arguments: list[str]) -> None:
    triton = distribution.find()
    # It exits with an error after it has printed its help.
    shown = subprocess.run(
        [triton.binary, "--help"], env=triton.environment(), capture_output=True, text=True
    )
    _check_named(shown.stdout + shown.stderr, arguments)


def _check_named(shown: str, arguments: list[str]) -> None:
    options = [it.partition("=")[0] for it in arguments if it.startswith("--")]
    unknown = [option for option in options if option not in shown]
    assert not unknown, f"there is no option {unknown}"


def _check_extras(arguments: list[str]) -> None:
    assert arguments[0] in ("install", "wheel")
    extras = re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    options = ("--no-deps", "--wheel-dir", "integrations/cvat/nuclio")
    for wanted in (it for it in arguments[1:] if it not in options):
        # The package of an integration, or a tool that the integration names.
        if (ROOT / wanted / "pyproject.toml").exists() or wanted.partition("[")[0] in TOOLS:
            continue
        found = re.fullmatch(r"(?:\.|hqsam-triton)(?:\[([a-z,]+)\])?", wanted)
        assert found, f"{wanted} is not this package"
        assert not found[1] or set(found[1].split(",")) <= set(extras), f"{wanted}: no such extra"


def _check_files(arguments: list[str]) -> None:
    flags = ("--file", "--kustomize", "--path")
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
    # A command that this one starts finds the real commands.
    here = str(Path(shutil.which(sys.argv[1]) or "").parent)
    os.environ["PATH"] = os.environ["PATH"].replace(here + os.pathsep, "", 1)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
