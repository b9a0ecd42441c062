from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hqsam_server.errors import ServingError, StoreError
from hqsam_server.models import settings
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding
from hqsam_server.store.producer import producer
from hqsam_testing import configs, image_files

from tests.models.fakes import Metrics


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(folder: Path, **other_digests: str) -> None:
    models = ("encoder", "features", "prompt_decoder")
    files = {f"{name}/1/model.onnx": other_digests.get(name, "0" * 64) for name in models}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def open_store(repository: Path, **options: str) -> EmbeddingStore:
    parameters = configs.parameters("embed") | options
    return settings.open_store(parameters, repository, Metrics().metrics)


def test_the_environment_wins_over_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.number({"max_bytes": "10"}, "max_bytes") == 10
    monkeypatch.setenv("HQSAM_MAX_BYTES", "20")
    assert settings.number({"max_bytes": "10"}, "max_bytes") == 20


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e9", "many", "", "²"])
def test_a_number_that_is_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(ServingError, match=r"max_bytes is .* expected a whole number above 0"):
        settings.number({"max_bytes": value}, "max_bytes")


@pytest.mark.parametrize("value", ["-1", "20", "low", ""])
def test_a_niceness_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HQSAM_NICE")  # which would override it
    with pytest.raises(ServingError, match=r"nice is .* expected a whole number from 0 to 19"):
        settings.niceness({"nice": value})


def test_only_models_that_have_the_option_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQSAM_NICE", "5")
    assert settings.niceness({"nice": "19"}) == 5
    assert settings.niceness({}) == 0


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ServingError, match="max_bytes is missing"):
        settings.number({}, "max_bytes")


def test_what_embed_writes_segment_reads(repository: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "store")
    written = Embedding(*image_files.embedding_arrays(), (3, 4))
    open_store(repository, store_folder=folder).put("0" * 64, written)
    parameters = configs.parameters("segment") | {"store_folder": folder}
    reader = settings.open_store_to_read(parameters, repository, Metrics().metrics)
    assert reader.original_size("0" * 64) == (3, 4)


def test_the_store_keeps_to_its_options(repository: Path, tmp_path: Path) -> None:
    store = open_store(
        repository,
        store_folder=str(tmp_path / "store"),
        store_bytes="7000000",
        store_precision="fp16",
    )
    for number in range(2):
        store.put(f"{number:064x}", Embedding(*image_files.embedding_arrays(), (3, 4)))
    (entry,) = (tmp_path / "store").glob("*.safetensors")
    assert entry.stat().st_size < 7_000_000


def test_by_default_the_store_takes_a_quarter_of_the_free_space(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4_000_000))
    with pytest.raises(StoreError, match="may take 1000000 bytes"):
        open_store(repository, store_folder=str(tmp_path / "not" / "there"))
    (tmp_path / f"{0:064x}-{1:064x}.safetensors").write_bytes(bytes(1_000_000))
    with pytest.raises(StoreError, match="may take 1250000 bytes"):
        open_store(repository, store_folder=str(tmp_path))


def test_an_unknown_precision_is_refused(repository: Path) -> None:
    with pytest.raises(ServingError, match="expected fp32 or fp16"):
        open_store(repository, store_precision="int8")


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"store_folder": "auto"}
    user = os.getuid()
    assert str(user) in settings.store_folder(parameters).name
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    folder = settings.store_folder(parameters)
    folder.mkdir()
    try:
        with pytest.raises(StoreError, match="belongs to another user"):
            settings.store_folder(parameters)
    finally:
        folder.rmdir()


def test_a_store_that_changes_while_its_space_is_measured_can_be_opened(
    repository: Path, tmp_path: Path
) -> None:
    # A link to nowhere is listed and cannot be measured, as a file that is evicted in between.
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    open_store(repository, store_folder=str(tmp_path))


def test_other_weights_or_another_precision_are_another_producer(repository: Path) -> None:
    first = producer(repository, "openvino-fp32")
    assert producer(repository, "openvino-fp32") == first
    assert producer(repository, "openvino-bf16") != first
    for name in ("encoder", "features"):
        write_manifest(repository, **{name: "1" * 64})
        assert producer(repository, "openvino-fp32") != first
    # No embedding depends on the decoder.
    write_manifest(repository, prompt_decoder="1" * 64)
    assert producer(repository, "openvino-fp32") == first


def test_the_onnx_files_are_the_same_producer_with_and_without_their_manifest(
    tmp_path: Path,
) -> None:
    digests = {}
    for name in ("encoder", "features"):
        content = name.encode()
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    without = producer(tmp_path, "")
    write_manifest(tmp_path, **digests)
    assert producer(tmp_path, "") == without
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "features" / "1" / "model.onnx").write_bytes(b"other weights")
    assert producer(tmp_path, "") != without


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"files": {"a/1/model.onnx": ""}}'])
def test_weights_that_cannot_be_identified_are_refused(
    tmp_path: Path, manifest: str | None
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(StoreError, match=r"cannot be identified"):
        producer(tmp_path, "")


def test_images_in_progress_are_one_for_each_processor_and_three_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = configs.parameters("embed")
    for processors, expected in ((1, 3), (2, 3), (8, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        assert settings.bounds(parameters).workers == expected
    assert settings.bounds(parameters | {"encode_workers": "2"}).workers == 2
