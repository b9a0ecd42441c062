"""The store is lost, damaged or unusable while clients click: no mask is wrong, and clicks go on.

`tests/server/test_whole_repository.py` kills backend processes, and `tests/models/test_store.py`
fills the disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam, ServerFailedError
from hqsam_testing.api import new_png
from hqsam_testing.waiting import TIMEOUT_S
from safetensors.numpy import load_file, save_file

from tests.faults.conftest import World


def test_the_folder_is_deleted(world: World) -> None:
    with world.clicks() as clicks:
        for _ in range(3):
            shutil.rmtree(world.store, ignore_errors=True)
            clicks.go_on()
    # A write may fail in a folder that is being deleted.
    assert not set(clicks.errors) - {"ServerFailedError"}
    assert world.entry(0).exists()


@pytest.mark.slow
def test_the_folder_becomes_a_file(world: World) -> None:
    with world.clicks() as clicks:
        aside = world.store.rename(world.store.with_name("aside"))
        world.store.write_text("a file where the folder should be")
        with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
            with pytest.raises(ServerFailedError, match="cannot be written"):
                sam.open(new_png())
            world.store.unlink()
            aside.rename(world.store)
            sam.open(new_png())
    assert not set(clicks.errors) - {"ServerFailedError"}


def test_the_folder_is_read_only(world: World) -> None:
    with world.clicks() as clicks:
        world.store.chmod(0o500)
        try:
            if os.access(world.store, os.W_OK):
                pytest.skip("this user can write in spite of the mode")
            with (
                HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam,
                pytest.raises(ServerFailedError, match="cannot be written"),
            ):
                sam.open(new_png())
            clicks.go_on()  # stored images are served
        finally:
            world.store.chmod(0o700)
    assert not clicks.errors


@pytest.mark.slow
def test_the_disk_is_filled(start: Callable[..., World], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=45m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        world = start(disk / "store", HQSAM_STORE_BYTES="100000000")
        with world.clicks() as clicks:
            with suppress(OSError), (disk / "others").open("wb") as others:
                while True:
                    others.write(bytes(1_000_000))
            clicks.go_on()
            # It replaces another image, which is then encoded again.
            with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
                sam.open(new_png())
        assert not set(clicks.errors) - {"NotFoundError"}
        assert world.server.stop(15) == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def truncated(entry: Path) -> None:
    os.truncate(entry, 5_000_000)


def emptied(entry: Path) -> None:
    os.truncate(entry, 0)


def flipped(entry: Path) -> None:
    with entry.open("r+b") as file:
        file.seek(7_000_000)
        byte = file.read(1)
        file.seek(7_000_000)
        file.write(bytes([byte[0] ^ 4]))


def of_another_dtype(entry: Path) -> None:
    tensors = {name: array.astype(np.float64) for name, array in load_file(entry).items()}
    save_file(tensors, entry)


def of_the_other_image(entry: Path) -> None:
    other = next(it for it in entry.parent.glob("*.safetensors") if it != entry)
    shutil.copyfile(other, entry)


@pytest.mark.parametrize(
    "damage",
    [truncated, emptied, flipped, of_another_dtype, of_the_other_image],
    ids=lambda damage: damage.__name__,
)
def test_an_entry_is_damaged_in_place(world: World, damage: Callable[[Path], None]) -> None:
    before = world.server.instances()
    with world.clicks() as clicks:
        for _ in range(3):
            while True:  # until the clients have brought the entry back
                try:
                    damage(world.entry())
                    break
                except (OSError, ValueError, StopIteration):
                    clicks.go_on(1)
            clicks.go_on()
    assert not clicks.errors
    assert world.server.instances() == before


@pytest.mark.slow
def test_the_clock_is_set_back(start: Callable[..., World]) -> None:
    # Entries from before the clock was set back: room for three, all of them from tomorrow.
    world = start(HQSAM_STORE_BYTES=str(3 * 12_600_000))
    tomorrow = time.time() + 86400
    with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
        for _ in range(3):
            sam.open(new_png())
        for entry in world.store.glob("*.safetensors"):
            os.utime(entry, (tomorrow, tomorrow))
        new = [sam.open(new_png()) for _ in range(3)]
        assert [image.embed() for image in new] == [True] * 3
        with world.clicks() as clicks:
            pass
    assert not clicks.errors
    assert len(list(world.store.glob("*.safetensors"))) <= 3
    assert world.server.stop(15) == 0


def digest(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_writes_is_started_again(
    start: Callable[..., World], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    world = start(store)
    files = [new_png() for _ in range(3)]
    with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
        kept = sam.open(files[0]).segment(points=[(20, 20)])
    # A writer that died left half of an entry under its temporary name.
    (entry,) = store.glob("*.safetensors")
    half = entry.with_name(entry.name.replace(digest(files[0]), digest(files[1])))
    half.with_suffix(f".{1:016x}.writing").write_bytes(entry.read_bytes()[:6_000_000])
    world.server.stop(9)
    world = start(store)
    assert not list(store.glob("*.writing"))
    with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
        image = sam.open(files[0])
        assert image.embed()
        again = image.segment(points=[(20, 20)])
        assert np.array_equal(again.low_res_logits, kept.low_res_logits)
        sam.open(files[1]).segment(points=[(20, 20)])
    assert world.server.stop(15) == 0
