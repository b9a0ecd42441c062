"""What a server owns on this machine, beside files of others in a folder that all can write to."""

from __future__ import annotations

import os
import resource
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_server import file_lock
from hqsam_server.launcher import cleanup
from hqsam_server.launcher.process import many_files
from hqsam_server.launcher.workspace import Workspace


@pytest.fixture
def prefix() -> Iterator[str]:
    """The prefix of a server in shared memory; its files are removed after the test."""
    prefix = f"hqsam-{secrets.token_hex(8)}-"
    yield prefix
    for path in cleanup.SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink() if not path.is_dir() else path.rmdir()


def opened_and_closed() -> None:
    """Do what a server does at its start and its end."""
    workspace = Workspace()
    workspace.open()
    workspace.close()


def named(name: str) -> Path:
    return cleanup.SHARED_MEMORY / name


def test_what_a_killed_server_left_is_removed(prefix: str) -> None:
    left = [named(f"{prefix}{name}") for name in ("lock", "region-1", "region-2")]
    for file in left:
        file.touch()
    opened_and_closed()
    assert not any(file.exists() for file in left)


def test_what_a_living_server_has_stays(prefix: str) -> None:
    region = named(f"{prefix}region")
    region.touch()
    with file_lock.locked(named(f"{prefix}lock"), 60):
        opened_and_closed()
    assert region.exists()


def test_a_link_that_looks_like_a_lock_is_not_followed(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    named(f"{prefix}lock").symlink_to(tmp_path / "mine")
    named(f"{prefix}region").touch()
    opened_and_closed()
    assert (tmp_path / "mine").read_text() == "mine"
    assert named(f"{prefix}region").exists()
    assert named(f"{prefix}lock").is_symlink()


def test_a_pipe_that_looks_like_a_lock_does_not_keep_a_server_from_starting(prefix: str) -> None:
    # Everybody could make one, and every start waited for ever.
    os.mkfifo(named(f"{prefix}lock"))
    opened_and_closed()
    assert named(f"{prefix}lock").is_fifo()


def test_a_lock_of_another_name_makes_nobody_lose_anything(prefix: str) -> None:
    # The name was taken for a pattern: all memory of all servers was removed.
    others = [named(f"{prefix}{name}") for name in ("region", "x-lock")]
    for file in others:
        file.touch()
    wild = named("hqsam-*-lock")
    wild.touch()
    try:
        opened_and_closed()
        assert all(file.exists() for file in (*others, wild))
    finally:
        wild.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_user_stay(prefix: str) -> None:
    for name in ("lock", "region"):
        named(f"{prefix}{name}").touch()
        os.chown(named(f"{prefix}{name}"), 12345, 12345)
    opened_and_closed()
    assert named(f"{prefix}region").exists()
    # Nor does a file of another user's go with a server of this user's.
    os.chown(named(f"{prefix}lock"), 0, 0)
    opened_and_closed()
    assert not named(f"{prefix}lock").exists()
    assert named(f"{prefix}region").exists()


def test_a_server_may_open_as_many_files_as_the_hard_limit_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with many_files():
            shell = subprocess.run(["sh", "-c", "ulimit -n"], capture_output=True, check=True)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = 2**20 if hard == resource.RLIM_INFINITY else min(hard, 2**20)
    assert int(shell.stdout) == most
