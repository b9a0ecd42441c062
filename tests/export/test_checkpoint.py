"""Checkpoints load strictly, or are refused with what is wrong with them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hqsam_export import CheckpointError, checkpoint
from hqsam_export.modeling import Architecture, HQSamModel, TinyViT, ViT
from torch import Tensor

from tests.export.command import files, hqsam

TENSOR = "mask_decoder.hf_token.weight"

PUBLISHED = {
    "light": Architecture(TinyViT()),
    "vit_b": Architecture(ViT(768, 12, 12, (2, 5, 8, 11))),
    "vit_l": Architecture(ViT(1024, 24, 16, (5, 11, 17, 23))),
    "vit_h": Architecture(ViT(1280, 32, 16, (7, 15, 23, 31))),
}


@pytest.mark.parametrize("architecture", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_published_sizes_are_recognised_from_their_tensors(architecture: Architecture) -> None:
    with torch.device("meta"):
        tensors = HQSamModel(architecture).state_dict()
    assert checkpoint.recognise(tensors) == architecture


def test_an_official_file_loads_every_tensor(
    tiny_checkpoint: Path, tiny_tensors: dict[str, Tensor]
) -> None:
    loaded = checkpoint.load_model(tiny_checkpoint).state_dict()
    assert loaded.keys() == tiny_tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_tensors.items())


def test_weights_stored_in_half_precision_are_computed_with_in_float32(
    tiny_tensors: dict[str, Tensor],
) -> None:
    model = checkpoint.build_model({name: t.half() for name, t in tiny_tensors.items()})
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_a_renamed_tensor_is_named_as_missing_and_as_unexpected(
    tiny_tensors: dict[str, Tensor],
) -> None:
    tensors = dict(tiny_tensors)
    tensors["mask_decoder.hq_token.weight"] = tensors.pop(TENSOR)
    with pytest.raises(CheckpointError, match=f"{TENSOR} is missing") as caught:
        checkpoint.build_model(tensors)
    assert "mask_decoder.hq_token.weight is unexpected" in str(caught.value)


def test_a_missing_tensor_is_named(tiny_tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor for name, tensor in tiny_tensors.items() if name != TENSOR}
    with pytest.raises(CheckpointError, match=f"{TENSOR} is missing"):
        checkpoint.build_model(tensors)


def test_a_tensor_of_a_wrong_shape_is_named_with_both_shapes(
    tiny_tensors: dict[str, Tensor],
) -> None:
    tensors = tiny_tensors | {TENSOR: torch.zeros(2, 256)}
    with pytest.raises(CheckpointError, match=r"has shape \[2, 256\], expected \[1, 256\]"):
        checkpoint.build_model(tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(
    tiny_tensors: dict[str, Tensor], value: float
) -> None:
    tensors = tiny_tensors | {TENSOR: torch.full((1, 256), value)}
    with pytest.raises(CheckpointError, match=f"{TENSOR} is not finite"):
        checkpoint.build_model(tensors)


def test_a_checkpoint_of_sam_without_hq_is_refused_and_the_list_stays_short(
    tiny_tensors: dict[str, Tensor],
) -> None:
    added = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfe")
    tensors = {
        name: tensor
        for name, tensor in tiny_tensors.items()
        if not name.startswith(tuple(f"mask_decoder.{part}" for part in added))
    }
    with pytest.raises(CheckpointError, match=r"hf_token.weight is missing.*; and \d+ more\. "):
        checkpoint.build_model(tensors)


@pytest.mark.parametrize("index", ["1000000000", "64", "9" * 18])
def test_an_absurd_number_of_blocks_is_refused_at_once(
    tiny_tensors: dict[str, Tensor], index: str
) -> None:
    # The export built a thousand million blocks before it looked for their tensors.
    name = f"image_encoder.blocks.{index}.attn.rel_pos_h"
    with pytest.raises(CheckpointError, match=f"blocks.{index}, expected at most 64 blocks"):
        checkpoint.build_model({**tiny_tensors, name: torch.zeros(27, 64)})


def test_a_block_whose_number_is_no_number_of_a_block_is_unexpected(
    tiny_tensors: dict[str, Tensor],
) -> None:
    name = f"image_encoder.blocks.{'9' * 5000}.attn.rel_pos_h"
    with pytest.raises(CheckpointError, match="is unexpected"):
        checkpoint.build_model({**tiny_tensors, name: torch.zeros(27, 64)})


def test_tensors_of_another_model_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no image_encoder\.pos_embed"):
        checkpoint.build_model({"layer.weight": torch.zeros(3)})


class _Harmful:
    """Makes a folder when it is unpickled: what an attack would do, without the harm."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("format_", ["pickle", "torch"])
def test_a_pickle_that_holds_code_is_refused_and_does_not_run(tmp_path: Path, format_: str) -> None:
    path, proof = tmp_path / "model.pth", tmp_path / "it_ran"
    if format_ == "torch":
        torch.save({"weight": _Harmful(proof)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": _Harmful(proof)}, protocol=2))
    with pytest.raises(CheckpointError, match="was not run"):
        checkpoint.load_model(path)
    assert not proof.exists()


def _truncated(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"These are not weights.\n", "not a PyTorch checkpoint"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "not a PyTorch checkpoint"),
        (b"q\x01", "not a PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "PyTorch checkpoint"),
        (b"PK\x03\x04 not quite a zip archive", "damaged or not a PyTorch checkpoint"),
        (pickle.dumps([1, 2], protocol=2), "PyTorch checkpoint|no state dict"),
    ],
    ids=[
        "empty",
        "text",
        "table",
        "opcode_without_operand",
        "git_lfs_pointer",
        "broken_zip",
        "a_list",
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(path)


def test_a_truncated_file_is_refused(tiny_checkpoint: Path) -> None:
    tiny_checkpoint.write_bytes(_truncated(tiny_checkpoint))
    with pytest.raises(CheckpointError, match="damaged or not a PyTorch checkpoint"):
        checkpoint.load_model(tiny_checkpoint)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load_model(tmp_path / "nothing.pth")


def _write_folder(folder: Path, config: str | None, tensors: dict[str, Tensor] | None) -> Path:
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    if tensors is not None:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


_TENSORS = {"weight": torch.zeros(3)}
_CONFIG = json.dumps({"model_type": "sam_hq"})


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        (None, _TENSORS, "has no config.json"),
        ("not json", _TENSORS, "is not JSON"),
        ('{"model_type": "sam"}', _TENSORS, "not that of a sam_hq model"),
        (_CONFIG, None, r"has no \*.safetensors"),
        (_CONFIG, _TENSORS, "not an HQ-SAM checkpoint"),
    ],
    ids=["no_config", "broken_config", "config_of_sam", "no_tensors", "other_tensors"],
)
def test_a_folder_that_is_no_sam_hq_model_is_refused(
    tmp_path: Path, config: str | None, tensors: dict[str, Tensor] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(_write_folder(tmp_path / "folder", config, tensors))


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    folder = _write_folder(tmp_path / "folder", _CONFIG, _TENSORS)
    file = folder / "model.safetensors"
    file.write_bytes(_truncated(file))
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        checkpoint.load_model(folder)


def test_the_command_prints_one_line_and_writes_nothing(tmp_path: Path) -> None:
    path, output = tmp_path / "model.pth", tmp_path / "repository"
    path.write_text("These are not weights.")
    result = hqsam("export", "--checkpoint", path, "--output", output)
    assert result.returncode == 1
    assert result.stderr.startswith(f"hqsam export: {path}")
    assert result.stderr.count("\n") == 1
    assert files(tmp_path).keys() == {"model.pth"}
