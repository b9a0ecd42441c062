"""Checks the ONNX files of a model repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hqsam_client import contract
from torch import Tensor

from hqsam_export import onnx_files, repository
from hqsam_export.errors import VerificationError
from hqsam_export.examples import Examples
from hqsam_export.exporter import SPECS, references, weights_digest, with_interm_shape
from hqsam_export.graphs import interm_shape
from hqsam_export.modeling import HQSamModel


def validate(
    folder: Path, model: HQSamModel | None = None, report: Callable[[str], None] = lambda line: None
) -> None:
    """Check the four ONNX files of a model repository.

    Each file must have the digest of the manifest, pass `onnx.checker`, declare the contract's
    names, dtypes and shapes, and, if a model is given, compute what PyTorch does. `features` and
    then `prompt_decoder` must compute what `decoder` does.

    Args:
        folder: the model repository.
        model: the model that the files were exported from; None to check without it.
        report: called with a line for each check that passes.

    Raises:
        VerificationError: a check fails.
        ExportError: there is no manifest.
    """
    manifest = repository.read_manifest(folder)
    _check_digests(folder, manifest["files"])
    report("manifest: every file has its digest")
    if model is not None and weights_digest(model) != manifest["weights_sha256"]:
        raise VerificationError(
            f"{folder} was exported from other weights: their SHA-256 is "
            f"{manifest['weights_sha256']}, that of the checkpoint {weights_digest(model)}"
        )
    tolerance = onnx_files.TOLERANCE[manifest["precision"]]
    shape = onnx_files.shapes(_file(folder, contract.ENCODER))[1][-1].shape
    if model is not None:
        shape = interm_shape(model)
    report(f"model: {manifest.get('model') or 'none of the published ones'}")
    examples = Examples()
    for spec in SPECS:
        path = _file(folder, spec)
        adapted = with_interm_shape(spec, shape)
        onnx_files.check(path, adapted)
        inputs = examples.inputs(spec)
        outputs = onnx_files.run(path, inputs)
        examples.keep(spec, tuple(torch.from_numpy(output) for output in outputs))
        report(f"{spec.name}: valid, and as in the contract")
        if model is not None:
            difference = onnx_files.compare(
                outputs, references(model, spec, inputs), adapted, tolerance
            )
            report(f"{spec.name}: within {difference:.1e} of PyTorch")
    difference = _compare_halves(folder, examples, tolerance)
    report(f"features and prompt_decoder: within {difference:.1e} of decoder")


def _file(folder: Path, spec: contract.ModelSpec) -> Path:
    return folder / spec.name / "1" / "model.onnx"


def _check_digests(folder: Path, digests: dict[str, str]) -> None:
    for path, expected in digests.items():
        if not (folder / path).is_file():
            raise VerificationError(f"{folder / path} is missing: export again")
        found = repository.file_digest(folder / path)
        if found != expected:
            raise VerificationError(
                f"{folder / path} was changed: its SHA-256 is {found}, in the manifest {expected}"
            )


def _compare_halves(folder: Path, examples: Examples, tolerance: float) -> float:
    """Compare `decoder` with `prompt_decoder` after `features`, on the same prompt."""
    prompt = examples.inputs(contract.DECODER)
    halves: dict[str, Tensor] = {
        tensor.name: prompt.get(tensor.name, examples.inputs(contract.PROMPT_DECODER)[tensor.name])
        for tensor in contract.PROMPT_DECODER.inputs
    }
    _, iou, logits = onnx_files.run(_file(folder, contract.DECODER), prompt)
    outputs = onnx_files.run(_file(folder, contract.PROMPT_DECODER), halves)
    differences = [
        float(np.abs(half - whole).max() / np.abs(whole).max())
        for half, whole in ((outputs[0], logits), (outputs[1], iou))
    ]
    if not max(differences) <= tolerance:
        raise VerificationError(
            f"{folder}: features and prompt_decoder together differ from decoder by "
            f"{max(differences):.1e} of its largest output, more than {tolerance:.0e}"
        )
    return max(differences)
