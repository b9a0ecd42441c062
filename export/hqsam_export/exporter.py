"""Turns a model into the ONNX files of a Triton model repository."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hqsam_client import contract

from hqsam_export import onnx_files, repository
from hqsam_export.examples import Examples
from hqsam_export.graphs import GRAPHS, interm_width
from hqsam_export.modeling import HQSamModel

SPECS = (contract.ENCODER, contract.DECODER, contract.FEATURES, contract.PROMPT_DECODER)


def export(
    model: HQSamModel, output: Path, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Write the ONNX files of `model`, and what else a model repository needs.

    Every file is checked, run in ONNX Runtime and compared with PyTorch before any
    file of an earlier export is replaced. Missing `config.pbtxt` files and Python
    models are written too, and the configs follow the width of the model's embeddings.

    Args:
        model: the model, in evaluation mode.
        output: the model repository; `encoder/1/model.onnx` and so on are written.
        report: called with a line for each file.

    Returns:
        the manifest, as written to `manifest.json`.

    Raises:
        VerificationError: a file does not do what the model does.
        ExportError: the files cannot be written.
    """
    width = interm_width(model)
    examples = Examples()
    with repository.staging(output) as folder:
        repository.write_template(folder, output, width)
        for spec in SPECS:
            path = folder / spec.name / "1" / "model.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            difference = _write_one(model, spec, examples, path)
            report(f"{spec.name}: within {difference:.1e} of PyTorch")
        manifest = _manifest(model, folder)
        repository.write_manifest(folder, manifest)
    return manifest


def _write_one(
    model: HQSamModel, spec: contract.ModelSpec, examples: Examples, path: Path
) -> float:
    graph = GRAPHS[spec.name](model).eval()
    inputs = examples.inputs(spec)
    adapted = with_interm_width(spec, interm_width(model))
    with torch.no_grad():
        references = graph(*inputs.values())
        references = references if isinstance(references, tuple) else (references,)
        onnx_files.write(graph, adapted, inputs, path)
    onnx_files.check(path, adapted)
    examples.keep(spec, references)
    return onnx_files.compare(onnx_files.run(path, inputs), references, adapted)


def with_interm_width(spec: contract.ModelSpec, width: int) -> contract.ModelSpec:
    """Return `spec` with `interm_embeddings` of another width, as ViT-L and ViT-H have."""

    def adapt(tensor: contract.TensorSpec) -> contract.TensorSpec:
        if tensor.name != "interm_embeddings":
            return tensor
        return dataclasses.replace(tensor, shape=(*tensor.shape[:-1], width))

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


def _manifest(model: HQSamModel, folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("model.onnx*"))
    digests = {str(path.relative_to(folder)): repository.file_digest(path) for path in files}
    return {
        "fingerprint": repository.fingerprint(digests),
        "architecture": dataclasses.asdict(model.architecture),
        "weights_sha256": weights_digest(model),
        "opset": onnx_files.OPSET,
        "versions": {name: version(name) for name in ("hqsam-triton", "torch", "onnx")},
        "files": digests,
    }
