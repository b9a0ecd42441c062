"""Turns a model into the ONNX files of a Triton model repository."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hqsam_client import contract
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hqsam_export import onnx_files, repository
from hqsam_export.examples import Examples
from hqsam_export.graphs import GRAPHS, interm_shape
from hqsam_export.modeling import HQSamModel

SPECS = (contract.ENCODER, contract.DECODER, contract.FEATURES, contract.PROMPT_DECODER)

OF_AN_IMAGE = tuple(tensor.name for tensor in contract.PROMPT_DECODER.inputs[:2])
"""Inputs of `prompt_decoder` that an image has. The file takes them for one image, or one for each
prompt; the config, for one image."""


def export(
    model: HQSamModel,
    output: Path,
    precision: str = "fp32",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the ONNX files of `model` and the rest of its model repository.

    Every file is checked, run in ONNX Runtime and compared with PyTorch before any
    file of an earlier export is replaced. Missing `config.pbtxt` files and Python models are
    written, too; the configs get the shape of the model's embeddings.

    Args:
        model: the model, in evaluation mode.
        output: the model repository; `encoder/1/model.onnx` and so on are written.
        precision: "fp32"; "fp16" for files of half the size, with an encoder that computes in
            float16; or "fp16-weights" for files of half the size that compute in float32.
            Inputs and outputs are always float32.
        report: called with a line for each file.

    Returns:
        the manifest, as written to `manifest.json`.

    Raises:
        VerificationError: a file does not compute what the model does.
        ExportError: the files cannot be written; see `repository.staging`.
    """
    shape = interm_shape(model)
    examples = Examples()
    with repository.staging(output) as folder:
        generated = repository.write_template(folder, output, shape)
        for spec in SPECS:
            adapted = with_interm_shape(spec, shape)
            path = folder / spec.name / "1" / "model.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            inputs = examples.inputs(spec)
            expected = references(model, spec, inputs)
            examples.keep(spec, expected)
            with torch.no_grad():
                onnx_files.write(GRAPHS[spec.name](model), adapted, inputs, path)
            if spec is contract.PROMPT_DECODER:
                onnx_files.open_first_dimension(path, OF_AN_IMAGE)
            reduce(path, spec, precision)
            onnx_files.check(path, adapted)
            outputs = onnx_files.run(path, inputs)
            tolerance = onnx_files.TOLERANCE[precision]
            difference = onnx_files.compare(outputs, expected, adapted, tolerance)
            report(f"{spec.name}: within {difference:.1e} of PyTorch")
            if spec is contract.ENCODER:
                embeddings = outputs
            if spec is contract.PROMPT_DECODER:
                check_images(path, inputs)
        if precision != "fp32":
            report(_loss(folder, embeddings, expected[0]))
        manifest = _manifest(model, folder, precision, generated)
        repository.write_manifest(folder, manifest)
    return manifest


def check_images(path: Path, inputs: Mapping[str, Tensor]) -> None:
    """Check that a file of `prompt_decoder` answers prompts on different images as it does alone.

    Args:
        path: the file.
        inputs: of `prompt_decoder`, for three prompts on one image.

    Raises:
        VerificationError: it does not.
    """
    images = {
        name: torch.cat([inputs[name], inputs[name].flip(-1), -inputs[name]])
        for name in OF_AN_IMAGE
    }
    inputs = {**inputs, **images}
    alone = [
        onnx_files.run(path, {name: tensor[index : index + 1] for name, tensor in inputs.items()})
        for index in range(3)
    ]
    expected = tuple(torch.from_numpy(np.concatenate(rows)) for rows in zip(*alone, strict=True))
    together = onnx_files.run(path, inputs)
    # The precision of the weights is the same in both.
    tolerance = onnx_files.TOLERANCE["fp32"]
    onnx_files.compare(together, expected, contract.PROMPT_DECODER, tolerance)


def reduce(path: Path, spec: contract.ModelSpec, precision: str) -> None:
    """Convert the fp32 file of a model to a precision of `export`."""
    # Nearly all arithmetic is the encoder's, and the decoder's is not accurate in float16.
    if precision == "fp16" and spec is contract.ENCODER:
        onnx_files.lower(path)
    elif precision != "fp32":
        onnx_files.halve(path)


def _loss(folder: Path, embeddings: Sequence[NDArray[np.float32]], expected: Tensor) -> str:
    """Run the files one after the other, and say how far the masks are from PyTorch's."""
    examples = Examples()
    outputs = embeddings
    examples.keep(contract.ENCODER, tuple(map(torch.from_numpy, outputs)))
    for spec in (contract.FEATURES, contract.PROMPT_DECODER):
        outputs = onnx_files.run(folder / spec.name / "1" / "model.onnx", examples.inputs(spec))
        examples.keep(spec, tuple(map(torch.from_numpy, outputs)))
    difference = float(np.abs(outputs[0] - expected.numpy()).max() / expected.abs().max())
    iou = onnx_files.mask_iou(outputs[0], expected)
    return f"loss from image to mask: logits within {difference:.1e}, mask IoU {iou:.4f}"


def references(
    model: HQSamModel, spec: contract.ModelSpec, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Return the outputs of `spec` as the model itself computes them, not a graph made from it."""
    with torch.no_grad():
        if spec is contract.ENCODER:
            embeddings, interm = model.image_encoder(inputs["image"])
            shape = interm_shape(model)
            missing = (shape[0] - len(interm), shape[-1] - interm.shape[-1])
            return embeddings, functional.pad(interm, (0, missing[1], *(0,) * 7, missing[0]))
        features = inputs.get("hq_features")
        if features is None:
            interm = inputs["interm_embeddings"][..., : model.architecture.encoder.interm_width]
            features = model.mask_decoder.hq_features(inputs["image_embeddings"], interm)
        if spec is contract.FEATURES:
            return (features,)
        prompts = [inputs[tensor.name] for tensor in contract.PROMPT_DECODER.inputs[2:]]
        logits, sam, iou = model.decode(inputs["image_embeddings"], features, *prompts)
        if spec is contract.PROMPT_DECODER:
            return logits, iou[:, :1], sam, iou
        masks = functional.interpolate(logits, (1024, 1024), mode="bilinear")
        return masks, iou[:, :1], logits


def with_interm_shape(spec: contract.ModelSpec, shape: tuple[int, ...]) -> contract.ModelSpec:
    """Return `spec` with `interm_embeddings` of another shape, as the family's members have."""

    def adapt(tensor: contract.TensorSpec) -> contract.TensorSpec:
        if tensor.name != "interm_embeddings":
            return tensor
        return dataclasses.replace(tensor, shape=shape)

    return dataclasses.replace(
        spec, inputs=tuple(map(adapt, spec.inputs)), outputs=tuple(map(adapt, spec.outputs))
    )


def weights_digest(model: HQSamModel) -> str:
    """Return the SHA-256 over the names and bytes of all weights, in order of name.

    The same weights have the same digest in every checkpoint format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _member(model: HQSamModel) -> str | None:
    """Name the model, unless it only has the shapes of a published one, padded."""
    width = model.architecture.encoder.interm_width
    return contract.member((*interm_shape(model)[:-1], width))


def _manifest(
    model: HQSamModel, folder: Path, precision: str, generated: list[str]
) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("model.onnx*"))
    digests = {str(path.relative_to(folder)): repository.file_digest(path) for path in files}
    return {
        "fingerprint": repository.fingerprint(digests),
        "model": _member(model),
        "architecture": dataclasses.asdict(model.architecture),
        "weights_sha256": weights_digest(model),
        "precision": precision,
        "opset": onnx_files.OPSET,
        "versions": {name: version(name) for name in ("hqsam-triton", "torch", "onnx")},
        "files": digests,
        "template_files": {path: repository.file_digest(folder / path) for path in generated},
    }
