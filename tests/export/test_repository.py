"""Exports are all or nothing, are proved by `validate`, and are undone by `clean`."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hqsam_client import contract
from hqsam_export import (
    ExportError,
    VerificationError,
    checkpoint,
    exporter,
    onnx_files,
    repository,
    validate,
)
from hqsam_export.graphs import GRAPHS
from hqsam_export.modeling import Architecture, HQSamModel, ViT
from hqsam_testing import rebuilt
from torch import Tensor

from tests.export.command import files, hqsam

ONNX = {f"{spec.name}/1/model.onnx" for spec in exporter.SPECS}
TEMPLATE = {str(path) for path in repository.template_files()}


def test_an_export_writes_the_models_the_configs_and_a_manifest(tiny_repository: Path) -> None:
    assert files(tiny_repository).keys() == ONNX | TEMPLATE | {"manifest.json"}


def test_files_say_nothing_of_the_machine_that_wrote_them(tiny_repository: Path) -> None:
    home = str(Path(exporter.__file__).parents[2]).encode()
    for spec in exporter.SPECS:
        path = tiny_repository / spec.name / "1" / "model.onnx"
        assert home not in path.read_bytes()
        assert not any(node.metadata_props for node in onnx.load(path).graph.node)


def test_the_manifest_names_weights_files_and_versions(
    tiny_repository: Path, tiny_model: HQSamModel
) -> None:
    manifest = json.loads((tiny_repository / "manifest.json").read_text())
    assert manifest["weights_sha256"] == exporter.weights_digest(tiny_model)
    assert manifest["files"].keys() == ONNX
    assert manifest["fingerprint"] == repository.fingerprint(manifest["files"])
    assert manifest["opset"] == onnx_files.OPSET
    assert manifest["precision"] == "fp32"
    assert manifest["versions"].keys() >= {"torch", "onnx", "hqsam-triton"}
    opsets = onnx.load(tiny_repository / "encoder" / "1" / "model.onnx").opset_import
    assert {entry.domain: entry.version for entry in opsets}[""] == onnx_files.OPSET


def test_other_weights_have_another_digest(tiny_model: HQSamModel) -> None:
    other = checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY, seed=1))
    assert exporter.weights_digest(other) != exporter.weights_digest(tiny_model)


def broken(model: HQSamModel) -> HQSamModel:
    """A model whose results are no numbers, so that no file can agree with it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.image_encoder.neck[0].weight.fill_(torch.nan)  # type: ignore[operator]
    return model


def test_a_failed_verification_leaves_an_earlier_export_as_it_was(
    own_repository: Path, tiny_model: HQSamModel
) -> None:
    before = files(own_repository)
    with pytest.raises(VerificationError, match="image_embeddings differs from PyTorch"):
        exporter.export(broken(tiny_model), own_repository)
    assert files(own_repository) == before


def test_a_failed_first_export_leaves_nothing(tmp_path: Path, tiny_model: HQSamModel) -> None:
    with pytest.raises(VerificationError):
        exporter.export(broken(tiny_model), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_an_earlier_export_as_it_was(
    own_repository: Path, tiny_checkpoint: Path
) -> None:
    before = files(own_repository)
    result = hqsam(
        *("export", "--checkpoint", tiny_checkpoint, "--output", own_repository),
        largest_file_bytes=1_000_000,
    )
    assert result.returncode == 1, result.stderr
    assert "cannot write" in result.stderr
    assert "Nothing was changed" in result.stderr
    assert "Traceback" not in result.stderr
    assert files(own_repository) == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, tiny_model: HQSamModel) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot write"):
        exporter.export(tiny_model, tmp_path / "file" / "repository")


@pytest.fixture
def instant_export(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `export` copy each graph from the tiny repository instead of tracing it again."""

    def write(graph: object, spec: contract.ModelSpec, inputs: object, path: Path) -> None:
        shutil.copyfile(tiny_repository / spec.name / "1" / "model.onnx", path)

    monkeypatch.setattr(onnx_files, "write", write)


@pytest.mark.usefixtures("instant_export")
def test_a_file_that_cannot_be_replaced_leaves_an_earlier_export_as_it_was(
    own_repository: Path, tiny_model: HQSamModel
) -> None:
    # `decoder` and `encoder` are replaced before `features`.
    obstacle = own_repository / "features" / "1" / "model.onnx"
    obstacle.unlink()
    (obstacle / "mine").mkdir(parents=True)
    (own_repository / "decoder" / "1" / "model.onnx").write_bytes(b"of an earlier export")
    before = files(own_repository)
    with pytest.raises(ExportError, match=r"features/1/model\.onnx.* Nothing was changed"):
        exporter.export(tiny_model, own_repository)
    assert files(own_repository) == before
    assert (obstacle / "mine").is_dir()


@pytest.mark.usefixtures("instant_export")
def test_an_export_that_cannot_be_rolled_back_says_where_the_earlier_files_are(
    own_repository: Path, tiny_model: HQSamModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = own_repository / "decoder" / "1" / "model.onnx"
    decoder.write_bytes(b"of an earlier export")
    replace = Path.replace

    def replace_the_decoder_only(source: Path, target: Path) -> Path:
        if target != decoder or "earlier" in source.parts:
            raise OSError(errno.EIO, "Input/output error", str(target))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_the_decoder_only)
    with pytest.raises(
        ExportError, match=r"decoder/1/model\.onnx.* could not be put back"
    ) as raised:
        exporter.export(tiny_model, own_repository)
    assert "Nothing was changed" not in str(raised.value)
    folder = Path(str(raised.value).partition("The earlier files are in ")[2].partition(":")[0])
    assert (folder / "decoder" / "1" / "model.onnx").read_bytes() == b"of an earlier export"


def test_weights_over_the_limit_of_one_file_lie_beside_it(
    tmp_path: Path, tiny_model: HQSamModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real limit is 2 GB, which only ViT-H exceeds.
    monkeypatch.setattr(onnx_files, "_SINGLE_FILE_BYTES", 100_000)
    spec = contract.FEATURES
    inputs = {
        tensor.name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        for tensor in spec.inputs
    }
    path = tmp_path / "model.onnx"
    onnx_files.write(GRAPHS[spec.name](tiny_model), spec, inputs, path)
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    expected = exporter.references(tiny_model, spec, inputs)
    onnx_files.check(path, spec)
    onnx_files.compare(onnx_files.run(path, inputs), expected, spec, 1e-4)
    onnx_files.halve(path)
    onnx_files.compare(onnx_files.run(path, inputs), expected, spec, 5e-2)


def test_validate_passes_what_export_wrote(tiny_repository: Path, tiny_model: HQSamModel) -> None:
    lines: list[str] = []
    validate.validate(tiny_repository, tiny_model, report=lines.append)
    assert lines[0] == "manifest: every file has its digest"
    for spec in exporter.SPECS:
        assert f"{spec.name}: valid, and as in the contract" in lines
        assert any(line.startswith(f"{spec.name}: within") for line in lines)
    assert lines[-1].startswith("features and prompt_decoder: within")


def test_validate_finds_a_changed_file(own_repository: Path) -> None:
    with (own_repository / "features" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VerificationError, match="was changed: its SHA-256 is"):
        validate.validate(own_repository)


def test_validate_finds_a_missing_file(own_repository: Path) -> None:
    (own_repository / "decoder" / "1" / "model.onnx").unlink()
    with pytest.raises(VerificationError, match="is missing: export again"):
        validate.validate(own_repository)


def test_validate_finds_that_the_checkpoint_is_another(own_repository: Path) -> None:
    other = checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY, seed=1))
    with pytest.raises(VerificationError, match="exported from other weights"):
        validate.validate(own_repository, other)


def forge(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a model and let the manifest agree, so that only deeper checks can find it."""
    path = folder / name / "1" / "model.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    manifest = repository.read_manifest(folder)
    manifest["files"][f"{name}/1/model.onnx"] = repository.file_digest(path)
    repository.write_manifest(folder, manifest)


def test_validate_finds_a_graph_that_breaks_the_contract(own_repository: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"

    forge(own_repository, "features", change)
    with pytest.raises(VerificationError, match=r"breaks the contract of features: outputs are"):
        validate.validate(own_repository)


def test_validate_finds_a_file_that_is_not_onnx(own_repository: Path) -> None:
    path = own_repository / "encoder" / "1" / "model.onnx"
    path.write_text("not a graph")
    manifest = repository.read_manifest(own_repository)
    manifest["files"]["encoder/1/model.onnx"] = repository.file_digest(path)
    repository.write_manifest(own_repository, manifest)
    with pytest.raises(VerificationError, match="is not valid ONNX"):
        validate.validate(own_repository)


def test_validate_finds_features_of_another_model(own_repository: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for weight in model.graph.initializer:
            values = onnx.numpy_helper.to_array(weight)
            if values.ndim == 2:
                weight.CopyFrom(onnx.numpy_helper.from_array(values * 1.5, weight.name))

    forge(own_repository, "features", change)
    with pytest.raises(VerificationError, match="together differ from decoder"):
        validate.validate(own_repository)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExportError, match="is not a manifest of hqsam export"):
        validate.validate(tmp_path)


def test_clean_removes_all_that_export_wrote(own_repository: Path) -> None:
    result = hqsam("clean", own_repository)
    assert result.returncode == 0, result.stderr
    assert not own_repository.exists() or not any(own_repository.iterdir())


def test_clean_keeps_what_was_changed_and_what_is_foreign(own_repository: Path) -> None:
    changed = own_repository / "encoder" / "config.pbtxt"
    changed.write_text(changed.read_text() + "# tuned\n")
    foreign = own_repository / "decoder" / "1" / "model.plan"
    foreign.write_bytes(b"an engine")
    results = dict(repository.clean(own_repository))
    assert results[changed] is False
    assert files(own_repository).keys() == {"encoder/config.pbtxt", "decoder/1/model.plan"}


def test_clean_without_an_export_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"has no manifest\.json"):
        repository.clean(tmp_path)
    assert files(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("linked", ["", "encoder", "encoder/1"])
def test_clean_refuses_a_folder_that_is_a_link(
    own_repository: Path, tmp_path: Path, linked: str
) -> None:
    # It removed what is as it was generated, also where the link led to another repository.
    folder = own_repository / linked
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=f"{folder} is a link, and nothing was removed"):
        repository.clean(own_repository)
    assert files(tmp_path / "elsewhere") == before
    assert repository.read_manifest(own_repository)


def test_clean_never_leaves_the_repository(own_repository: Path, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.write_text("mine")
    manifest = repository.read_manifest(own_repository)
    manifest["files"]["../mine"] = repository.file_digest(outside)
    repository.write_manifest(own_repository, manifest)
    with pytest.raises(ExportError, match="is not a manifest of hqsam export"):
        repository.clean(own_repository)
    assert outside.read_text() == "mine"


@pytest.mark.long
def test_a_larger_model_exports_into_a_checkout_whose_configs_follow_its_width(
    tmp_path: Path,
) -> None:
    checkout = tmp_path / "model_repository"
    for path in repository.template_files():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository.template() / path, checkout / path)
    before = files(checkout)

    # Wider than ViT-B, whose width the template has, but nowhere near as deep as ViT-L.
    width = 784
    cut = Architecture(ViT(width, 1, 1, global_blocks=(0,)))
    tensors: dict[str, Tensor] = rebuilt.state_dict(cut)
    exporter.export(checkpoint.build_model(tensors), checkout)
    for name in ("encoder", "decoder", "features"):
        text = (checkout / name / "config.pbtxt").read_text()
        assert f"dims: [ 4, 1, 64, 64, {width} ]" in text
    inputs, _ = onnx_files.shapes(checkout / "features" / "1" / "model.onnx")
    assert inputs[1].shape == (4, 1, 64, 64, width)

    repository.clean(checkout)
    assert files(checkout) == before


@pytest.mark.usefixtures("instant_export")
def test_the_next_export_keeps_what_its_user_changed_and_drops_what_is_no_longer_needed(
    own_repository: Path, tiny_model: HQSamModel
) -> None:
    config = own_repository / "segment" / "config.pbtxt"
    config.write_text(config.read_text() + "# tuned\n")
    (own_repository / "embed" / "config.pbtxt").unlink()
    # As a larger model leaves behind.
    weights = own_repository / "encoder" / "1" / "model.onnx.data"
    weights.write_bytes(b"weights")
    manifest = repository.read_manifest(own_repository)
    manifest["files"]["encoder/1/model.onnx.data"] = repository.file_digest(weights)
    repository.write_manifest(own_repository, manifest)

    exporter.export(tiny_model, own_repository)
    assert not weights.exists()
    assert config.read_text().endswith("# tuned\n")
    assert (own_repository / "embed" / "config.pbtxt").is_file()
