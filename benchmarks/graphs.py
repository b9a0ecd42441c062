"""The exported encoder and prompt decoder against plain traces of the same model.

A plain trace is the output of `torch.onnx.export` for `hqsam_export.modeling`, a straightforward
definition of the official modules. Both files hold the same weights and run in turns in one
process. Weights are rebuilt (ViT-B, random) unless `HQSAM_CHECKPOINT` names a checkpoint. It takes
some minutes and up to 9 GB of memory.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import openvino
import torch
from hqsam_client import contract
from hqsam_export import checkpoint, exporter
from hqsam_export.examples import Examples
from hqsam_export.modeling import HQSamModel
from hqsam_testing import rebuilt
from torch import Tensor, nn

from benchmarks import contestants, report

Run = Callable[[], object]
Inputs = dict[str, Tensor]

THREADS = len(os.sched_getaffinity(0))
ROUNDS = {contract.ENCODER.name: 3, contract.PROMPT_DECODER.name: 20}


class PlainPromptDecoder(nn.Module):
    """`HQSamModel.decode` with the outputs of the contract."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Shapes as in the contract's `prompt_decoder`."""
        masks, sam_masks, iou = self.model.decode(*inputs)
        return masks, iou[:, :1], sam_masks, iou


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="an exported repository to measure")
    args = parser.parse_args()
    source = os.environ.get("HQSAM_CHECKPOINT")
    model = (
        checkpoint.load_model(Path(source))
        if source
        else checkpoint.build_model(rebuilt.state_dict())
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="hqsam-bench-") as folder:
        repository = args.repository
        if repository is None:
            repository = Path(folder) / "model_repository"
            exporter.export(model, repository)
        examples = Examples()
        for spec in exporter.SPECS:
            inputs = examples.inputs(spec)
            examples.keep(spec, exporter.references(model, spec, inputs))
            if spec.name in ROUNDS:
                # One prompt without a mask, like most clicks.
                inputs = {name: tensor[:1] for name, tensor in inputs.items()}
                ours = repository / spec.name / "1" / "model.onnx"
                plain = Path(folder) / f"{spec.name}.onnx"
                trace(model, spec, inputs, plain)
                rows += compare(spec, ours, plain, inputs)
    report.write("graphs", "Exported graphs against plain traces", "make bench-graphs", rows)


def trace(model: HQSamModel, spec: contract.ModelSpec, inputs: Inputs, path: Path) -> None:
    """Export the definition of the model without any rewriting."""
    graph = model.image_encoder if spec is contract.ENCODER else PlainPromptDecoder(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def compare(
    spec: contract.ModelSpec, ours: Path, plain: Path, inputs: Inputs
) -> list[dict[str, Any]]:
    """Count nodes, and time both files in turns on each runtime."""
    counts = [len(onnx.load(path, load_external_data=False).graph.node) for path in (ours, plain)]
    rows = [row(f"{spec.name}: nodes", counts[1] / counts[0], "fewer", "{} against {}", *counts)]
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    work = [contestants.operations_of(path, arrays) / 1e9 for path in (ours, plain)]
    detail = "{:.2f} GFLOP against {:.2f} GFLOP"
    rows.append(row(f"{spec.name}: arithmetic", work[1] / work[0], "less", detail, *work))
    for runtime in ("ONNX Runtime", "OpenVINO f32", "OpenVINO bf16"):
        if runtime.endswith("bf16") and not report.machine()["bf16"]:
            continue
        contestants = {str(path): load(runtime, spec, path, inputs) for path in (ours, plain)}
        seconds = report.in_turns(contestants, ROUNDS[spec.name])
        medians = [1e3 * statistics.median(seconds[str(path)]) for path in (ours, plain)]
        what = f"{spec.name}: time in {runtime}"
        ratio = medians[1] / medians[0]
        rows.append(row(what, ratio, "faster", "{:.1f} ms against {:.1f} ms", *medians))
        del contestants
        gc.collect()
    return rows


def row(what: str, ratio: float, word: str, detail: str, *figures: float) -> dict[str, Any]:
    """Return a row of the report."""
    return {"what": what, "figure": f"{ratio:.2f} times {word}", "detail": detail.format(*figures)}


def load(runtime: str, spec: contract.ModelSpec, path: Path, inputs: Inputs) -> Run:
    """Load a file into a runtime, and return a function that runs it once."""
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    if runtime == "ONNX Runtime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, arrays)
    hints = {
        "INFERENCE_PRECISION_HINT": runtime.split()[1],
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    graph = core.read_model(str(path))
    if spec is contract.PROMPT_DECODER:
        hints["SNIPPETS_MODE"] = "DISABLE"  # as in its config
    # The server has a graph of known shapes for each common request.
    graph.reshape({name: list(array.shape) for name, array in arrays.items()})
    request = core.compile_model(graph, "CPU", hints).create_infer_request()
    return lambda: request.infer(arrays, share_inputs=True)


if __name__ == "__main__":
    main()
