"""Writes what `benchmarks.gpu` measures: ONNX files in fp32, fp16 and bf16, and images.

It needs the exporter and no GPU. Weights are rebuilt (ViT-B, random) unless `HQSAM_CHECKPOINT`
names a checkpoint.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from hqsam_client import contract
from hqsam_export import checkpoint, exporter, onnx_files
from hqsam_server.models.preprocess import Limits
from hqsam_testing import rebuilt
from hqsam_testing.oracle import images
from hqsam_testing.preprocess import preprocess
from PIL import Image

from benchmarks.gpu import BF16, HALVED, IMAGES

_NOT_IN_BF16 = ["Conv", "CumSum", "Sin", "Cos", "Equal", "GreaterOrEqual", "ReduceMax"]
"""Operators that opset 18 or ONNX Runtime does not have for bfloat16."""


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--quick", action="store_true", help="a tiny encoder instead of ViT-B")
    args = parser.parse_args()
    source = os.environ.get("HQSAM_CHECKPOINT")
    if source:
        model = checkpoint.load_model(Path(source))
    else:
        model = checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY if args.quick else None))
    exporter.export(model, args.folder, report=print)
    for spec in (contract.ENCODER, contract.PROMPT_DECODER):
        for name, lower in ((HALVED, onnx_files.lower), (BF16, _lower_to_bf16)):
            lowered = args.folder / name.format(spec.name)
            shutil.copytree(args.folder / spec.name, lowered, dirs_exist_ok=True)
            lower(lowered / "1" / "model.onnx")
    limits = Limits(contract.MAX_IMAGE_BYTES, contract.MAX_IMAGE_PIXELS)
    arrays = {}
    for name, size in images.SIZES.items():
        file = io.BytesIO()
        Image.fromarray(images.draw(*size)).save(file, "PNG")
        arrays[name] = preprocess(file.getvalue(), limits)[0]
    np.savez(args.folder / IMAGES, **arrays)


def _lower_to_bf16(path: Path) -> None:
    """Convert weights and arithmetic to bfloat16, where `lower` converts to float16."""
    weights = {weight.name: weight for weight in onnx.load(path).graph.initializer}
    onnx_files.lower(path, [*onnx_files.FP32_OPERATORS, *_NOT_IN_BF16])
    model = onnx.load(path)
    graph = model.graph
    # A value that two operators take in fp32 was cast twice, to one name.
    nodes = {node.output[0]: node for node in graph.node}.values()
    del graph.node[:]
    graph.node.extend(nodes)
    fp16, bf16 = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
    tensors = [
        *graph.initializer,
        *(a.t for n in graph.node for a in n.attribute if a.HasField("t")),
    ]
    for tensor in tensors:
        if tensor.data_type == fp16:
            array = onnx.numpy_helper.to_array(weights.get(tensor.name, tensor))
            values = array.astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == fp16:
            value.type.tensor_type.elem_type = bf16
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == fp16:
                attribute.i = bf16
    onnx.save(model, path)


if __name__ == "__main__":
    main()
