from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hqsam_server import file_lock
from hqsam_server.errors import BadRequestError, StoreError
from hqsam_server.store import embedding_store
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding
from hqsam_testing import image_files
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.models.fakes import Metrics

PRODUCER = "a" * 64
ENTRY_BYTES = 4 * (256 * 64 * 64 + 32 * 256 * 256)


def image_id(number: int) -> str:
    return f"{number:064x}"


def embedding(value: float = 1.0, size: tuple[int, int] = (400, 600)) -> Embedding:
    return Embedding(*image_files.embedding_arrays(value), size)


def open_store(folder: Path, metrics: Metrics | None = None, **options: Any) -> EmbeddingStore:
    metrics = metrics or Metrics()
    return EmbeddingStore(folder, options.pop("producer", PRODUCER), metrics.metrics, **options)


def entry_of(folder: Path, number: int) -> Path:
    return folder / f"{PRODUCER}-{image_id(number)}.safetensors"


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    written = Embedding(
        np.random.default_rng(0).random((1, 256, 64, 64), np.float32),
        np.random.default_rng(1).random((1, 32, 256, 256), np.float32),
        (123, 45),
    )
    assert store.get(image_id(1)) is None
    assert store.original_size(image_id(1)) is None
    store.put(image_id(1), written)

    assert store.original_size(image_id(1)) == (123, 45)
    read = open_store(tmp_path).get(image_id(1))
    assert read is not None
    assert read.original_size == (123, 45)
    assert np.array_equal(read.image_embeddings, written.image_embeddings)
    assert np.array_equal(read.hq_features, written.hq_features)


def test_an_entry_is_a_file_that_safetensors_reads(tmp_path: Path) -> None:
    open_store(tmp_path).put(image_id(1), embedding(2.0, (30, 40)))
    arrays = image_files.embedding_arrays(2.0)
    words = sum(int.from_bytes(array.tobytes()[:8], "little") * array.size // 2 for array in arrays)
    words %= 2**64
    with safe_open(entry_of(tmp_path, 1), "np") as file:
        assert file.metadata() == {
            "format": "hqsam-embedding-3",
            "producer": PRODUCER,
            "image_id": image_id(1),
            "height": "30",
            "width": "40",
            "check": f"30x40:{words:016x}",
        }
        assert (file.get_tensor("image_embeddings") == 2).all()
        assert (file.get_tensor("hq_features") == -2).all()


def test_an_entry_that_was_read_outlives_its_eviction(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(image_id(1), embedding(2.0))
    read = store.get(image_id(1))
    entry_of(tmp_path, 1).unlink()
    assert read is not None
    assert (read.hq_features == -2).all()


def test_half_precision_takes_half_the_space_and_is_read_by_any_store(tmp_path: Path) -> None:
    open_store(tmp_path, half_precision=True).put(image_id(1), embedding(0.1))
    assert entry_of(tmp_path, 1).stat().st_size < 0.51 * ENTRY_BYTES
    read = open_store(tmp_path).get(image_id(1))
    assert read is not None
    assert read.hq_features.dtype == np.float32
    assert np.allclose(read.hq_features, -0.1, rtol=1e-3)


def test_other_producers_never_see_an_entry(tmp_path: Path) -> None:
    open_store(tmp_path).put(image_id(1), embedding())
    assert open_store(tmp_path, producer="b" * 64).get(image_id(1)) is None
    assert open_store(tmp_path).get(image_id(1)) is not None


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 65, "é" * 64]
)
def test_an_image_id_that_is_not_a_digest_is_refused(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path)
    for use in (store.get, store.original_size, lambda it: store.put(it, embedding())):
        with pytest.raises(BadRequestError, match="expected 64 lower-case hex digits"):
            use(name)


def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    metrics = Metrics()
    store = open_store(tmp_path, metrics, max_bytes=3 * (ENTRY_BYTES + 4096))
    for number in (1, 2, 3):
        store.put(image_id(number), embedding())
        os.utime(entry_of(tmp_path, number), (number, number))
    assert store.get(image_id(1)) is not None  # which makes the second the oldest
    store.put(image_id(4), embedding())

    kept = [store.original_size(image_id(number)) is not None for number in (1, 2, 3, 4)]
    assert kept == [True, False, True, True]
    assert metrics["store_evictions_total"] == 1
    assert metrics["store_entries"] == 3
    assert metrics["store_bytes"] == sum(
        file.stat().st_size for file in tmp_path.glob("*.safetensors")
    )


def test_asking_for_the_size_counts_as_use(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_bytes=2 * (ENTRY_BYTES + 4096))
    for number in (1, 2):
        store.put(image_id(number), embedding())
        os.utime(entry_of(tmp_path, number), (number, number))
    store.original_size(image_id(1))
    store.put(image_id(3), embedding())
    assert store.get(image_id(1)) is not None
    assert store.get(image_id(2)) is None


def test_entries_of_other_producers_count_and_are_evicted(tmp_path: Path) -> None:
    open_store(tmp_path, producer="b" * 64).put(image_id(1), embedding())
    open_store(tmp_path, max_bytes=ENTRY_BYTES + 4096).put(image_id(1), embedding())
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert open_store(tmp_path).get(image_id(1)) is not None


def test_writing_an_entry_again_evicts_nothing(tmp_path: Path) -> None:
    metrics = Metrics()
    store = open_store(tmp_path, metrics, max_bytes=2 * (ENTRY_BYTES + 4096))
    for number in (1, 2, 1):
        store.put(image_id(number), embedding())
    assert metrics["store_evictions_total"] == 0


def test_a_bound_below_one_entry_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="raise store_bytes"):
        open_store(tmp_path, max_bytes=10**6)


def truncated(entry: Path) -> None:
    os.truncate(entry, entry.stat().st_size - 1)


def emptied(entry: Path) -> None:
    os.truncate(entry, 0)


def zeroed(entry: Path) -> None:
    entry.write_bytes(bytes(entry.stat().st_size))


def longer(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes() + b"0")


def of_a_flipped_bit(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)


def of_a_lost_page(entry: Path) -> None:
    with entry.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def of_a_flipped_height(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes().replace(b'"height":"400"', b'"height":"500"'))


def not_safetensors(entry: Path) -> None:
    entry.write_bytes(b"\x08\0\0\0\0\0\0\0[[[[[[[[")


def huge_header(entry: Path) -> None:
    entry.write_bytes(b"\xff" * 8 + entry.read_bytes())


def nested(entry: Path) -> None:
    header = b"[" * 4000
    entry.write_bytes(len(header).to_bytes(8, "little") + header)


def of_no_size(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes().replace(b'"height":"400"', b'"height":"-40"'))


def of_swapped_tensors(entry: Path) -> None:
    content = (
        entry.read_bytes()
        .replace(b"hq_features", b"@")
        .replace(b"image_embeddings", b"hq_features")
    )
    entry.write_bytes(content.replace(b"@", b"image_embeddings"))


def of_another_image(entry: Path) -> None:
    open_store(entry.parent).put(image_id(9), embedding())
    entry_of(entry.parent, 9).replace(entry)


def of_another_producer(entry: Path) -> None:
    other = EmbeddingStore(entry.parent, "b" * 64, Metrics().metrics)
    other.put(image_id(1), embedding())
    (entry.parent / f"{'b' * 64}-{image_id(1)}.safetensors").replace(entry)


def without_metadata(entry: Path) -> None:
    image_embeddings, hq_features = image_files.embedding_arrays()
    save_file({"image_embeddings": image_embeddings, "hq_features": hq_features}, entry)


def of_other_shapes(entry: Path) -> None:
    metadata = {"format": "hqsam-embedding-3", "producer": PRODUCER, "image_id": image_id(1)}
    tensors = {name: np.zeros((1, 2), np.float32) for name in ("image_embeddings", "hq_features")}
    save_file(tensors, entry, {**metadata, "height": "1", "width": "1"})


def of_other_dtypes(entry: Path) -> None:
    metadata = {"format": "hqsam-embedding-3", "producer": PRODUCER, "image_id": image_id(1)}
    names = ("image_embeddings", "hq_features")
    arrays = dict(zip(names, image_files.embedding_arrays(), strict=True))
    tensors = {name: array.astype(np.int32) for name, array in arrays.items()}
    save_file(tensors, entry, {**metadata, "height": "1", "width": "1"})


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        emptied,
        zeroed,
        longer,
        of_a_flipped_bit,
        of_a_lost_page,
        of_a_flipped_height,
        not_safetensors,
        huge_header,
        nested,
        of_no_size,
        of_swapped_tensors,
        of_another_image,
        of_another_producer,
        without_metadata,
        of_other_shapes,
        of_other_dtypes,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_or_foreign_entry_is_a_miss_and_is_removed(tmp_path: Path, damage: Any) -> None:
    metrics = Metrics()
    store = open_store(tmp_path, metrics)
    # The numbers are looked at when they are needed.
    only_numbers = damage in (of_a_flipped_bit, of_a_lost_page)
    for read in (store.get,) if only_numbers else (store.get, store.original_size):
        store.put(image_id(1), embedding())
        damage(entry_of(tmp_path, 1))
        assert read(image_id(1)) is None
        assert not entry_of(tmp_path, 1).exists()
        assert metrics["store_entries"] == 0
    store.put(image_id(1), embedding())
    assert store.get(image_id(1)) is not None


def test_an_entry_outlives_a_moment_of_too_many_open_files(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(image_id(1), embedding())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for read in (store.get, store.original_size):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(StoreError, match="raise the limit on open files"):
                read(image_id(1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert read(image_id(1)) is not None


def test_a_folder_that_is_missing_has_no_entries(tmp_path: Path) -> None:
    assert embedding_store.entries(tmp_path / "missing") == []


def test_files_that_are_not_entries_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    store = open_store(tmp_path, max_bytes=ENTRY_BYTES + 4096)
    store.put(image_id(1), embedding())
    store.put(image_id(2), embedding())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def as_files_of_others(folder: Path) -> list[Path]:
    """Make files in a store's folder whose names only look like its own; return them."""
    names = (
        "model.safetensors",
        "notes.writing",
        f"{PRODUCER}-{image_id(8)}.safetensors.bak",
        f"{PRODUCER}-{'A' * 64}.safetensors",
        f"{PRODUCER}-{image_id(8)}.writing",
        f"x{PRODUCER}-{image_id(8)}.{0:016x}.writing",
    )
    files = [folder / name for name in names]
    for file in files:
        file.write_bytes(bytes(ENTRY_BYTES))
        os.utime(file, (1, 1))  # the first to be evicted
    return files


def test_files_of_the_user_are_neither_evicted_nor_counted(tmp_path: Path) -> None:
    # A model of the user's was evicted from a folder that he gave as --store-folder.
    files = as_files_of_others(tmp_path)
    metrics = Metrics()
    store = open_store(tmp_path, metrics, max_bytes=ENTRY_BYTES + 4096)
    for number in (1, 2):
        store.put(image_id(number), embedding())
    assert store.get(image_id(2)) is not None
    assert metrics["store_entries"] == 1
    assert metrics["store_bytes"] < 2 * ENTRY_BYTES
    assert all(file.stat().st_size == ENTRY_BYTES for file in files)


def linked(path: Path, mine: Path) -> None:
    path.symlink_to(mine)


def piped(path: Path, mine: Path) -> None:
    os.mkfifo(path)


def of_another_user(path: Path, mine: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    shutil.copyfile(mine, path)
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("make", [linked, piped, of_another_user], ids=lambda make: make.__name__)
def test_an_entry_that_is_no_file_of_this_user_is_a_miss_and_left_alone(
    tmp_path: Path, make: Any
) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    store.put(image_id(1), embedding())
    mine = tmp_path / "mine"
    entry_of(folder, 1).rename(mine)
    before = mine.stat()
    for path in (entry_of(folder, 1), folder / f"{PRODUCER}-{image_id(2)}.{1:016x}.writing"):
        make(path, mine)
    assert store.get(image_id(1)) is None
    assert store.original_size(image_id(1)) is None
    assert embedding_store.entries(folder) == []
    store.put(image_id(2), embedding())
    assert len(list(folder.glob(f"{PRODUCER}-*"))) == 3
    # The entry is replaced where it is; what a link leads to is not.
    store.put(image_id(1), embedding(2))
    assert store.get(image_id(1)) is not None
    assert (mine.stat().st_mtime_ns, mine.stat().st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize("make", [linked, piped, of_another_user], ids=lambda make: make.__name__)
def test_a_lock_that_is_no_file_of_this_user_is_refused_at_the_start(
    tmp_path: Path, make: Any
) -> None:
    (tmp_path / "mine").touch()
    (tmp_path / "store").mkdir()
    make(tmp_path / "store" / ".write.lock", tmp_path / "mine")
    with pytest.raises(StoreError, match="it is a link, no file, or another user's"):
        open_store(tmp_path / "store")


def test_entries_and_a_new_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(tmp_path / "store")
        store.put(image_id(1), embedding())
        with store.exclusive(image_id(1)):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "store").iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def _hold_all(folder: Path, held: Any) -> None:
    with open_store(folder).exclusive(image_id(1)), file_lock.locked(folder / ".write.lock", 60):
        held.set()
        multiprocessing.Event().wait()


def test_a_process_that_is_stopped_with_all_locks_keeps_nobody_waiting_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stopped process froze its peers on a shared store for ever.
    monkeypatch.setattr(embedding_store, "_ENCODE_LOCK_S", 0.1)
    monkeypatch.setattr(embedding_store, "_WRITE_LOCK_S", 0.1)
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    holder = spawn.Process(target=_hold_all, args=(tmp_path, held))
    holder.start()
    try:
        assert held.wait(60)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGSTOP)
        store = open_store(tmp_path, max_bytes=2 * (ENTRY_BYTES + 4096))
        for number in (1, 2, 3):
            with store.exclusive(image_id(number)):
                store.put(image_id(number), embedding(number))
        assert len(embedding_store.entries(tmp_path)) == 2
        assert store.get(image_id(3)) is not None
    finally:
        holder.kill()
        holder.join()
    with store.exclusive(image_id(1)):
        taken = subprocess.run(["flock", "-n", str(tmp_path / ".key-0.lock"), "true"], check=False)
        assert taken.returncode == 1, "once it is free again, the lock is held again"


def test_the_temporary_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    name = f"{PRODUCER}-{image_id(1)}.{1:016x}.writing"
    with file_lock.locked(tmp_path / name, 60):
        store.put(image_id(2), embedding())
        assert (tmp_path / name).exists()
    store.put(image_id(2), embedding())
    assert not (tmp_path / name).exists()


def test_a_writer_removes_the_temporary_file_of_a_dead_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    left = tmp_path / f"{PRODUCER}-{image_id(1)}.{0:016x}.writing"
    left.write_bytes(bytes(1000))
    store.put(image_id(2), embedding())
    assert not left.exists()


def test_the_temporary_file_of_a_dead_writer_is_removed_at_the_start(tmp_path: Path) -> None:
    left = tmp_path / f"{PRODUCER}-{image_id(1)}.{0:016x}.writing"
    left.write_bytes(bytes(1000))
    open_store(tmp_path)
    assert not left.exists()


def test_entries_from_the_future_go_first_where_the_clock_was_set_back(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_bytes=3 * (ENTRY_BYTES + 4096))
    tomorrow = time.time() + 86400
    for number in (1, 2):
        store.put(image_id(number), embedding())
        os.utime(entry_of(tmp_path, number), (tomorrow, tomorrow))
    for number in (3, 4, 5):
        store.put(image_id(number), embedding())
    assert [store.get(image_id(number)) is not None for number in range(1, 6)] == [
        *(False, False),
        *(True, True, True),
    ]


def test_a_store_outlives_its_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.put(image_id(1), embedding())
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    (tmp_path / "store").rmdir()
    assert store.get(image_id(1)) is None
    store.put(image_id(1), embedding())
    assert store.get(image_id(1)) is not None


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="set store_folder"):
        open_store(tmp_path / "file" / "store")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two entries and not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={int(2.5 * ENTRY_BYTES)}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_evicts_before_it_fails(small_disk: Path) -> None:
    metrics = Metrics()
    store = open_store(small_disk, metrics)
    for number in (1, 2, 3):
        store.put(image_id(number), embedding())
        os.utime(entry_of(small_disk, number), (number, number))
    assert store.get(image_id(1)) is None
    assert store.get(image_id(3)) is not None
    assert metrics["store_evictions_total"] == 1


def test_a_disk_that_others_have_filled_fails_the_request_with_its_reason(small_disk: Path) -> None:
    store = open_store(small_disk)
    (small_disk / "others").write_bytes(bytes(2 * ENTRY_BYTES))
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
        store.put(image_id(1), embedding())
    assert not list(small_disk.glob("*.writing"))


def _churn(folder: Path, seed: int, rounds: int) -> None:
    """Write and read entries whose arrays all hold the number of their image."""
    random = np.random.default_rng(seed)
    store = open_store(folder, max_bytes=3 * (ENTRY_BYTES + 4096))
    for _ in range(rounds):
        number = int(random.integers(6))
        found = store.get(image_id(number))
        if found is None:
            store.put(image_id(number), embedding(number, (number + 1, 1)))
        elif not (
            (found.image_embeddings == number).all()
            and (found.hq_features == -number).all()
            and found.original_size == (number + 1, 1)
        ):
            sys.exit(1)


def test_several_processes_see_whole_entries_or_none_and_keep_the_bound(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_churn, args=(tmp_path, seed, 40)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 1 <= len(list(tmp_path.glob("*.safetensors"))) <= 3
    assert not list(tmp_path.glob("*.writing"))


def _hold(folder: Path, held: Any) -> None:
    with open_store(folder).exclusive(image_id(1)):
        held.set()
        multiprocessing.Event().wait()


def test_the_right_to_encode_is_exclusive_and_ends_with_its_holder(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    holder = spawn.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(60)
    lock = next(tmp_path.glob(".key-*.lock"))
    taken = subprocess.run(["flock", "--nonblock", str(lock), "true"], check=False)
    assert taken.returncode == 1
    holder.kill()
    holder.join()
    with open_store(tmp_path).exclusive(image_id(1)):
        pass
