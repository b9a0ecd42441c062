"""Decodes the prompts of clicks: `prompt_decoder`'s file in the process of `segment`.

`decoder` says what runs the file; `openvino`, `onnx_runtime` and, on a GPU, `device` do it.
`scheduler` hands it the prompts of all requests, in an order that `turns` decides.
"""

from __future__ import annotations

from pathlib import Path

from hqsam_client.contract import PROMPT_DECODER

from hqsam_server.prompt_decoding.decoder import Decoder
from hqsam_server.runtime.config import ModelFile


def open_decoder(repository: Path, device: int | None = None) -> Decoder:
    """Load `prompt_decoder`'s file on the runtime that its config names.

    Args:
        repository: the model repository.
        device: number of the GPU to decode on; None for the CPU.

    Raises:
        StartError: it is missing, cannot be loaded, or contradicts its config.
    """
    file = ModelFile.read(repository / PROMPT_DECODER.name)
    # Imported here: each process loads one runtime only.
    if device is not None:
        from hqsam_server.prompt_decoding.device import Device, DeviceDecoder

        return DeviceDecoder(file, Device("cuda", device))
    if file.openvino is not None:
        from hqsam_server.prompt_decoding.openvino import OpenVinoDecoder

        return OpenVinoDecoder(file, file.openvino)
    from hqsam_server.prompt_decoding.onnx_runtime import OnnxRuntimeDecoder

    return OnnxRuntimeDecoder(file)
