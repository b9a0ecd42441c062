"""What all commands have in common; no server is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hqsam_cli import options, reference
from hqsam_cli.main import COMMANDS
from hqsam_testing import command
from hqsam_testing.waiting import TIMEOUT_S

from tests.cli.command import hqsam

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_says_what_the_parsers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")  # which a default is made from
    expected = reference.reference()
    assert (DOCS / "cli.md").read_text("utf-8") == expected, (
        "write it again: python -m hqsam_cli.reference > docs/cli.md"
    )


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert hqsam("--version") == 0
    assert capsys.readouterr().out == f"hqsam {metadata.version('hqsam-triton')}\n"


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert hqsam("--help") == 0
    printed = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert name in printed
        assert entry.help in " ".join(printed.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hqsam(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: hqsam {name} ")


def test_the_command_starts_without_importing_what_its_subcommands_need() -> None:
    script = """
import sys
from hqsam_cli.main import main
try:
    main(["--help"])
finally:
    print(sorted({"torch", "grpc", "numpy", "PIL", "cv2", "hqsam_server"} & set(sys.modules)))
"""
    done = command.run([sys.executable, "-c", script])
    assert done.stdout.endswith("[]\n"), done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "hqsam: the following arguments are required: COMMAND; see hqsam --help"),
        ("segmnt", "invalid choice: 'segmnt'"),
        ("--verbose status", "hqsam"),
        ("export", "hqsam export: the following arguments are required: --checkpoint; see hqsam"),
        ("export --precision int8", "--precision: invalid choice: 'int8'"),
        ("validate", "hqsam validate: the following arguments are required: FOLDER"),
        ("small", "hqsam small: the following arguments are required: FOLDER"),
        ("clean a b", "hqsam clean: unknown arguments: b; see hqsam clean --help"),
        ("fetch --md5", "--md5: expected one argument"),
        ("status --metrics-port 99999", "--metrics-port: '99999' is not a port"),
        ("status --metrics-port http", "--metrics-port: 'http', expected an integer of at least 1"),
        ("status --timeout 0", "--timeout: '0' is not a time, expected seconds"),
        ("status --timeout nan", "--timeout: 'nan' is not a time, expected seconds"),
        ("evaluate set --clicks -1", "--clicks: '-1', expected an integer of at least 0"),
        ("evaluate set --limit 0", "--limit: '0', expected an integer of at least 1"),
        ("evaluate set --mode fast", "--mode: invalid choice: 'fast'"),
        ("demo-official", "hqsam demo-official: the following arguments are required: FOLDER"),
        ("demo-official a --output ~no-such-user/b", "--output: invalid path value"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam(*arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export --checkpoint none.pth", "/none.pth"),
        ("export --checkpoint empty.pth", "/empty.pth is empty: download it again"),
        ("export --checkpoint text.pth", "/text.pth"),
        ("export --checkpoint .", "has no config.json"),
        ("validate none", "/none has no manifest.json: export into it first"),
        ("validate text.pth", "/text.pth"),
        ("clean", "/model_repository has no manifest.json: export into it first"),
        ("fetch none.pth", "there is no file"),
        ("fetch text.pth --md5 123", "the MD5 is '123', expected 32 hex digits"),
        ("fetch ftp://host/sam.pth", "expected http:// or https://"),
        ("small text.pth/folder", "/text.pth"),
        ("segment a.png --point 1,2 --url nonsense", "expected host:port"),
        ("segment a.png --point 1,2 --url :8001", "expected host:port"),
        ("embed none.png --url nonsense", "expected host:port"),
        ("embed .", "no images in"),
        ("evaluate none", "/none is not a folder"),
        ("evaluate .", "has no image files"),
        ("evaluate . --images none", "/none is not a folder"),
        ("demo-official .", "lacks example0.png"),
        ("status --url nonsense", "expected host:port"),
        ("status --client-key none.pem", "belong together"),
        ("status --root-certificates text.pth", "/text.pth is not a PEM file"),
        ("ui --url nonsense", "expected host:port"),
    ],
)
def test_a_command_that_fails_is_one_line_and_status_1(
    tmp_path: Path,
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("not what it should be")
    assert hqsam(*arguments.split()) == 1
    printed = capsys.readouterr()
    assert printed.out + printed.err
    assert message in printed.out + printed.err
    assert (printed.out + printed.err).count("\n") == 1


@pytest.mark.parametrize("name", ["evaluate", "validate"])
def test_a_missing_extra_is_one_line_and_the_help_needs_none(tmp_path: Path, name: str) -> None:
    without = "import sys; sys.modules.update(cv2=None, onnx=None, torch=None); "
    for option, status in (("--help", 0), (".", 1)):
        done = command.run(command.hqsam(name, option, prelude=without), cwd=tmp_path)
        assert done.returncode == status, done.stderr
    assert done.stderr.startswith(f"hqsam {name}: the package ")
    assert done.stderr.endswith(f"pip install 'hqsam-triton[{COMMANDS[name].extra}]'\n")
    assert done.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command.hqsam("small", tmp_path / "small"),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_paths_are_absolute_and_a_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert options.path("folder/../file") == tmp_path / "folder" / ".." / "file"
    assert options.path("~/file") == tmp_path / "home" / "file"
    assert options.path("/file") == Path("/file")
    with pytest.raises(options.UsageError, match="no such home folder"):
        options.path("~no-such-user/file")
    with pytest.raises(options.UsageError, match="empty"):
        options.path("")
