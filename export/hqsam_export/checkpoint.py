"""Reads HQ-SAM checkpoints, strictly.

It reads the official `.pth` file, and a folder that `transformers` saved (`config.json` and
`*.safetensors`), whose tensors it renames to the official names.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hqsam_export.errors import CheckpointError
from hqsam_export.modeling import Architecture, HQSamModel, TinyViT, ViT
from hqsam_export.modeling.image_encoder import GRID

# Patterns from the names of `transformers` to the official ones, applied in order.
_TRANSFORMERS_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # The two are one tensor, which `transformers` saves under either name or both.
        (r"^(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding$",
         "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        (r"\.(iou_prediction_head|hq_mask_mlp|output_hypernetworks_mlps\.\d+)\.layers\.0\.",
         r".\1.layers.1."),
        (r"\.proj_in\.", ".layers.0."),
        (r"\.proj_out\.", ".layers.2."),
        (r"\.hq_mask_mlp\.", ".hf_mlp."),
        (r"\.hq_token\.", ".hf_token."),
        (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
        (r"^vision_encoder\.", "image_encoder."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"\.neck\.conv1\.", ".neck.0."),
        (r"\.neck\.layer_norm1\.", ".neck.1."),
        (r"\.neck\.conv2\.", ".neck.2."),
        (r"\.neck\.layer_norm2\.", ".neck.3."),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        (r"\.point_embed\.", ".point_embeddings."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"\.compress_vit_conv1\.", ".compress_vit_feat.0."),
        (r"\.compress_vit_norm\.", ".compress_vit_feat.1."),
        (r"\.compress_vit_conv2\.", ".compress_vit_feat.3."),
        (r"\.encoder_conv1\.", ".embedding_encoder.0."),
        (r"\.encoder_norm\.", ".embedding_encoder.1."),
        (r"\.encoder_conv2\.", ".embedding_encoder.3."),
        (r"\.mask_conv1\.", ".embedding_maskfeature.0."),
        (r"\.mask_norm\.", ".embedding_maskfeature.1."),
        (r"\.mask_conv2\.", ".embedding_maskfeature.3."),
        (r"\.layer_norm(\d|_final_attn)\.", r".norm\1."),
    )
)  # fmt: skip

UNUSED = tuple(
    f"image_encoder.{layer}.{name}"
    for layer in ("norm_head", "head")
    for name in ("weight", "bias")
)
"""The classifier with which TinyViT was pretrained: Light's checkpoint has it, nothing uses it."""

_LISTED = 8
"""How many tensors an error message names before it only counts."""


def load_model(path: Path, attention_biases: bool = False) -> HQSamModel:
    """Load the model from a checkpoint of either format.

    Args:
        path: an official `.pth` file or a folder of `transformers`.
        attention_biases: see `build_model`.

    Returns:
        the model in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: the file cannot be read, is no HQ-SAM checkpoint, or its
            tensors are not exactly those of the model.
    """
    return build_model(read_tensors(path), attention_biases)


def build_model(tensors: Mapping[str, Tensor], attention_biases: bool = False) -> HQSamModel:
    """Build the model with `tensors`, which have the official names.

    Args:
        tensors: of the checkpoint.
        attention_biases: whether Light's attention adds the checkpoint's biases. The official
            `build_sam_vit_t` copies them into its attention before it loads the checkpoint, so
            they are zero in what it returns; calling `.eval()` on that, as the official demo
            does, copies them again. False is what the former computes, and True the latter. A
            ViT has no such biases.

    Raises:
        CheckpointError: tensors are missing, unexpected or of a wrong shape.
    """
    architecture = recognise(tensors)
    if isinstance(architecture.encoder, TinyViT):
        tensors = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    with torch.device("meta"):
        model = HQSamModel(architecture)
    expected = model.state_dict()
    problems = [
        *(f"{name} is missing" for name in expected if name not in tensors),
        *(f"{name} is unexpected" for name in tensors if name not in expected),
        *(
            f"{name} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ),
        *(
            f"{name} is not finite"
            for name in expected
            if name in tensors and not tensors[name].isfinite().all()
        ),
    ]
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise CheckpointError(
            f"not an HQ-SAM checkpoint: {'; '.join(problems[:_LISTED])}{more}. "
            "Expected the tensors of sam_hq_vit_tiny.pth, sam_hq_vit_b.pth, sam_hq_vit_l.pth or "
            "sam_hq_vit_h.pth"
        )
    floats = {name: tensors[name].to(tensor.dtype) for name, tensor in expected.items()}
    if not attention_biases:
        floats |= {
            name: torch.zeros_like(tensor)
            for name, tensor in floats.items()
            if name.endswith(".attention_biases")
        }
    model.load_state_dict(floats, assign=True)
    return model.requires_grad_(False).eval()


# The encoder is built before tensors are missed, which takes a while for a thousand million blocks.
_MOST_BLOCKS = 64


def recognise(tensors: Mapping[str, Tensor]) -> Architecture:
    """Read the architecture (Light, ViT-B, ViT-L, ViT-H or another) off the tensors' shapes.

    Raises:
        CheckpointError: tensors that the architecture is read from are missing.
    """
    is_light = any(name.startswith("image_encoder.patch_embed.seq.") for name in tensors)
    mlp = tensors.get("mask_decoder.transformer.layers.0.mlp.lin1.weight")
    return Architecture(
        TinyViT() if is_light else _recognise_vit(tensors),
        mlp_width=Architecture.mlp_width if mlp is None else mlp.shape[0],
        box_centre="prompt_encoder.box_centre.weight" in tensors,
    )


def _recognise_vit(tensors: Mapping[str, Tensor]) -> ViT:
    blocks = {
        int(match[1]): tensor
        for name, tensor in tensors.items()
        if (match := re.fullmatch(r"image_encoder\.blocks\.(\d{1,18})\.attn\.rel_pos_h", name))
    }
    position = tensors.get("image_encoder.pos_embed")
    if not blocks or position is None or position.dim() != 4:
        raise CheckpointError(
            "not an HQ-SAM checkpoint: it has no image_encoder.pos_embed and "
            "image_encoder.blocks.*.attn.rel_pos_h. Expected a file such as sam_hq_vit_b.pth"
        )
    if max(blocks) >= _MOST_BLOCKS:
        raise CheckpointError(
            f"not an HQ-SAM checkpoint: it has an image_encoder.blocks.{max(blocks)}, expected at "
            f"most {_MOST_BLOCKS} blocks, numbered from 0. The largest model, ViT-H, has 32"
        )
    width = position.shape[-1]
    global_blocks = sorted(i for i, table in blocks.items() if table.shape[0] == 2 * GRID - 1)
    # The median width: one wrong tensor is then reported, and not taken for the rule.
    head_width = sorted(table.shape[-1] for table in blocks.values())[len(blocks) // 2]
    return ViT(
        width=width,
        depth=max(blocks) + 1,
        heads=max(1, width // max(1, head_width)),
        global_blocks=tuple(global_blocks),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under the official names.

    Raises:
        CheckpointError: there is no file, or none that can be read safely.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: expected sam_hq_vit_b.pth or a folder of transformers"
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: download it again")
    if path.suffix == ".safetensors":
        return _official_names(_read_safetensors(path))
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint of weights alone, and was not run: expected a "
            "file such as sam_hq_vit_b.pth"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    # The reader runs the file's opcodes: on other files they fail in any way.
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or not a PyTorch checkpoint: expected a file such as "
            "sam_hq_vit_b.pth; download it again"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds no state dict: expected a dictionary of tensors")
    return tensors


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Read what `transformers` saved."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json beside its *.safetensors") from error
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not JSON") from error
    if not isinstance(config, dict) or config.get("model_type") != "sam_hq":
        raise CheckpointError(f"{folder / 'config.json'} is not that of a sam_hq model")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors beside its config.json")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_safetensors(file)
    return _official_names(tensors)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or not a safetensors file: {error}") from error


def _official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        official = name
        for pattern, replacement in _TRANSFORMERS_NAMES:
            official = pattern.sub(replacement, official)
        if official in renamed and not torch.equal(renamed[official], tensor):
            raise CheckpointError(f"not an HQ-SAM checkpoint: it has two different {official}")
        renamed[official] = tensor
    return renamed
