"""Decodes clicks on OpenVINO's CPU plug-in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import openvino
from openvino import opset13
from openvino.preprocess import PrePostProcessor

from hqsam_server.prompt_decoding.decoder import (
    Job,
    Lanes,
    PlacedImage,
    threads_of,
    wide_lanes,
)
from hqsam_server.prompt_decoding.lru import Lru
from hqsam_server.runtime.config import Arrays, ModelFile, check
from hqsam_server.runtime.openvino import Compiler, described, named_ports
from hqsam_server.store.entry import Embedding

_IMAGE = ("image_embeddings", "hq_features")
_MASK = ("mask_input", "has_mask_input")
_SAM = "sam_masks"
_MOST_UNUSUAL = 4
_MOST_NARROW = 4
"""Each lane has graphs of its own, at 65 MB for a number of points."""


class _Kind(NamedTuple):
    """What a graph is compiled for.

    Attributes:
        points: N.
        refines: with a mask to refine, and SAM's masks.
        sam: with SAM's masks.
        narrow: for the narrow lanes.
    """

    points: int
    refines: bool
    sam: bool
    narrow: bool


@dataclass(frozen=True)
class _Placed:
    """An embedding in the precision of the graph, `image_embeddings` with channels last."""

    image_embeddings: openvino.Tensor  # [1, 64, 64, 256]
    hq_features: openvino.Tensor  # [1, 32, 256, 256]

    @property
    def nbytes(self) -> int:
        return int(self.image_embeddings.byte_size + self.hq_features.byte_size)


class OpenVinoDecoder:
    """A `Decoder` on OpenVINO.

    Where all dimensions are known, the plug-in chooses memory layouts across operators. So there is
    one graph for each number of points. Clicks that neither refine a mask nor ask for SAM's masks
    have graphs without these; for the usual numbers of points they are compiled at the start, and
    those of the narrow lanes right after it. Other graphs, such as those that ask for SAM's masks
    alone, are compiled when they are first needed, and the last few are kept. All graphs give the
    same bits.
    """

    def __init__(self, file: ModelFile, parameters: Mapping[str, str]) -> None:
        """Compile the graphs of the usual shapes.

        Args:
            file: of `prompt_decoder`.
            parameters: those of its accelerator `openvino`.

        Raises:
            StartError: it is missing, cannot be compiled, or contradicts the config.
        """
        self._file = file
        self._threads = threads_of(file)
        wide = wide_lanes(self._threads)
        narrow = min(self._threads, _MOST_NARROW)
        self.lanes = Lanes(wide, narrow if narrow > wide else 0, together=1)
        self._compiler = Compiler(file, parameters)
        graph = self._compiler.read()
        inputs = named_ports(graph.inputs, file.inputs)
        check(file, described(inputs), described(named_ports(graph.outputs, file.outputs)))
        self._type = openvino.Type.bf16 if self._compiler.hint == "bf16" else openvino.Type.f32
        self._placing = _Pool([self._placing_graph()], file)
        self._usual = {shapes["point_labels"][1] for shapes in file.usual_shapes}
        self._usual_pools: Lru[_Kind, _Pool] = Lru(2 * len(self._usual), lambda pool: 1)
        self._other_pools: Lru[_Kind, _Pool] = Lru(_MOST_UNUSUAL, lambda pool: 1)
        for points in sorted(self._usual):
            self._pool(_Kind(points, refines=False, sam=False, narrow=False))
        if self.lanes.narrow:
            Thread(target=self._compile_narrow, daemon=True).start()

    def place(self, embedding: Embedding) -> PlacedImage:
        """Copy an embedding into the precision and layout of the graphs."""
        with self._placing.graph() as graph:
            outputs = graph.run({name: getattr(embedding, name) for name in _IMAGE})
            return _Placed(**{name: _copy(outputs[name]) for name in _IMAGE})

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        """Decode prompts; see `Decoder`."""
        return [self._run(job, requested, narrow) for job in jobs]

    def _run(self, job: Job, requested: Collection[str], narrow: bool) -> Arrays:
        mask = job.mask_input
        refines = mask is not None
        pool = self._pool(
            _Kind(job.point_labels.shape[1], refines, refines or _SAM in requested, narrow)
        )
        feeds: dict[str, Any] = {name: getattr(job.image, name) for name in _IMAGE}
        feeds |= {"point_coords": job.point_coords, "point_labels": job.point_labels}
        if refines:
            feeds |= {"mask_input": mask, "has_mask_input": np.ones(1, np.float32)}
        with pool.graph() as graph:
            outputs = graph.run(feeds)
            # Copies: the next run writes into the same memory.
            return {name: np.array(outputs[name].data) for name in requested}

    def _compile_narrow(self) -> None:
        for points in sorted(self._usual):
            self._pool(_Kind(points, refines=False, sam=False, narrow=True))

    def _pool(self, kind: _Kind) -> _Pool:
        if kind.points in self._usual and not kind.sam:
            return self._usual_pools.get(kind, lambda: self._compiled(kind))
        # Few of these are kept, at 100 MB each; work in bulk takes the best of SAM's masks.
        if kind.refines:
            kind = kind._replace(narrow=False)
        return self._other_pools.get(kind, lambda: self._compiled(kind))

    def _compiled(self, kind: _Kind) -> _Pool:
        graph = self._compiler.read()
        graph.reshape({name: _shape(self._file, name, kind.points) for name in self._file.inputs})
        _leave_out(graph, self._file, kind)
        steps = PrePostProcessor(graph)
        image = steps.input("image_embeddings")
        image.tensor().set_element_type(self._type).set_layout(openvino.Layout("NHWC"))
        image.model().set_layout(openvino.Layout("NCHW"))
        steps.input("hq_features").tensor().set_element_type(self._type)
        graph = steps.build()
        lanes = self.lanes.narrow if kind.narrow else self.lanes.wide
        threads = self._threads // lanes
        compiled = [self._compiler.compile(graph, threads=threads) for _ in range(lanes)]
        return _Pool(compiled, self._file)

    def _placing_graph(self) -> openvino.CompiledModel:
        """Compile what converts an embedding."""
        inputs, results = [], []
        for name in _IMAGE:
            value = opset13.parameter(self._file.inputs[name].dims, openvino.Type.f32, name)
            inputs.append(value)
            node = value if name == "hq_features" else opset13.transpose(value, [0, 2, 3, 1])
            node = opset13.convert(node, self._type.get_type_name())
            results.append(opset13.result(node, name))
        graph = openvino.Model(results, inputs)
        for port, name in zip((*graph.inputs, *graph.outputs), _IMAGE * 2, strict=True):
            port.get_tensor().set_names({name})
        return openvino.Core().compile_model(
            graph, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        )


class _Pool:
    """The same graph, compiled for each of the calls that may run at once."""

    def __init__(self, compiled: Sequence[openvino.CompiledModel], file: ModelFile) -> None:
        self._free: SimpleQueue[_Graph] = SimpleQueue()
        for graph in compiled:
            self._free.put(_Graph(graph, file))

    @contextmanager
    def graph(self) -> Iterator[_Graph]:
        """Hold one of the graphs; waits for a free one."""
        graph = self._free.get()
        try:
            yield graph
        finally:
            self._free.put(graph)


class _Graph:
    """A compiled graph, for one run at a time."""

    def __init__(self, compiled: openvino.CompiledModel, file: ModelFile) -> None:
        self._inputs = named_ports(compiled.inputs, file.inputs)
        self._outputs = named_ports(compiled.outputs, (*file.outputs, *_IMAGE))
        self._request = compiled.create_infer_request()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, openvino.Tensor]:
        """Run it; return its outputs by name, which are valid until it runs again."""
        self._request.infer({self._inputs[name]: feeds[name] for name in feeds}, share_inputs=True)
        return {name: self._request.get_tensor(port) for name, port in self._outputs.items()}


def _shape(file: ModelFile, name: str, points: int) -> list[int]:
    """Return the shape of an input for one prompt; its open dimensions are P and N."""
    dims = file.inputs[name].dims
    return [size if size > 0 else (1, points)[axis] for axis, size in enumerate(dims)]


def _leave_out(graph: openvino.Model, file: ModelFile, kind: _Kind) -> None:
    """Remove what a kind has no use for: the mask to refine, which is zeros then; SAM's masks."""
    for name, port in named_ports(graph.inputs, file.inputs).items():
        if name in _MASK and not kind.refines:
            zeros = opset13.constant(np.zeros(list(port.shape), np.float32))
            port.replace(zeros.output(0))
            graph.remove_parameter(port.get_node())
    for result in graph.get_results():
        if _SAM in result.output(0).get_names() and not kind.sam:
            graph.remove_result(result)


def _copy(tensor: openvino.Tensor) -> openvino.Tensor:
    copy = openvino.Tensor(tensor.element_type, tensor.shape)
    tensor.copy_to(copy)
    return copy
