"""Runs an ONNX file on ONNX Runtime.

Parameters of the accelerators `tensorrt` and `cuda` in config.pbtxt are those of Triton's C++
backend: options of ONNX Runtime's provider, and for `tensorrt` also `precision_mode` and
`max_workspace_size_bytes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnxruntime

from hqsam_server.errors import StartError
from hqsam_server.runtime.config import DTYPES, Arrays, ModelFile, Tensor, check

Provider = tuple[str, dict[str, str]]
"""A provider's name and options."""

CPU: tuple[Provider, ...] = (("CPUExecutionProvider", {}),)
"""Providers of a session on the CPU."""

# cuDNN's heuristic chooses the algorithms of convolutions. ONNX Runtime's default searches, which
# makes the first click of each shape slow.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}

ONLY_REQUESTED = onnxruntime.RunOptions()
"""Options of a run that computes nothing but the requested outputs."""
ONLY_REQUESTED.only_execute_path_to_fetches = True


class OnnxRuntimeModel:
    """A `Model` on ONNX Runtime's CPU provider."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._session = open_session(file, file.intra_op_threads)

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Run the model; see `Model`."""
        self._file.check_request(inputs)
        return run_session(self._session, inputs, requested)


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Return the options of every session; `threads` work within an operator, 0 is the default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Several models share the cores: a waiting thread must not spin on one. And the memory
    # that one large request needed is returned.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    return options


def open_session(
    file: ModelFile, threads: int, providers: Sequence[Provider] = CPU
) -> onnxruntime.InferenceSession:
    """Open a file.

    Args:
        file: the file and its config.
        threads: threads within an operator, 0 for the runtime's default.
        providers: those to use.

    Raises:
        StartError: the file cannot be loaded, or contradicts its config; or a provider cannot be
            used.
    """
    options = session_options(threads)
    options.inter_op_num_threads = file.inter_op_threads
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, list(providers))
    except Exception as error:
        raise StartError(f"ONNX Runtime cannot load {file.path}: {error}") from error
    # A provider that cannot be used is left out without an error.
    unused = {name for name, _ in providers} - set(session.get_providers())
    if unused:
        raise StartError(
            f"ONNX Runtime cannot use {', '.join(sorted(unused))}: its message above says why"
        )
    check(file, _described(session.get_inputs()), _described(session.get_outputs()))
    return session


def gpu_providers(file: ModelFile, number: int) -> list[Provider]:
    """Return the providers for a GPU, with the options that the config gives them.

    Args:
        file: the file and its config: TensorRT if it names that accelerator, and CUDA.
        number: of the GPU.

    Raises:
        StartError: this ONNX Runtime is not built for one of them.
    """
    device = {"device_id": str(number)}
    providers: list[Provider] = []
    if "tensorrt" in file.gpu_accelerators:
        options = _tensorrt_options(file.gpu_accelerators["tensorrt"])
        providers.append(("TensorrtExecutionProvider", device | options))
    cuda = file.gpu_accelerators.get("cuda", {})
    providers.append(("CUDAExecutionProvider", {**device, **_CUDA_OPTIONS, **cuda}))
    known = onnxruntime.get_available_providers()
    for name, _ in providers:
        if name not in known:
            raise StartError(
                f"ONNX Runtime {onnxruntime.__version__} has no {name}: install onnxruntime-gpu "
                "in place of onnxruntime, or use a configuration for the CPU"
            )
    # The libraries that the wheel's extras bring, wherever the machine's own are.
    onnxruntime.preload_dlls()
    return providers


def _tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """Translate parameters of Triton's backend into options of the provider."""
    options = {name: value for name, value in parameters.items() if name.startswith("trt_")}
    if "max_workspace_size_bytes" in parameters:
        options["trt_max_workspace_size"] = parameters["max_workspace_size_bytes"]
    precision = parameters.get("precision_mode", "FP32")
    if precision != "FP32":
        options[f"trt_{precision.lower()}_enable"] = "true"
    return options


def run_session(
    session: onnxruntime.InferenceSession, inputs: Arrays, requested: Collection[str]
) -> Arrays:
    """Compute the requested outputs only, and return them by name."""
    names = list(requested)
    return dict(zip(names, session.run(names, inputs, ONLY_REQUESTED), strict=True))


def _described(nodes: Any) -> dict[str, Tensor]:
    names = {dtype.onnx_runtime: triton for triton, dtype in DTYPES.items()}
    return {
        node.name: Tensor(
            names.get(node.type, node.type),
            tuple(d if isinstance(d, int) else -1 for d in node.shape),
        )
        for node in nodes
    }
