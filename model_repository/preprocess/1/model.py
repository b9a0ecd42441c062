"""Encoded bytes in, the encoder's input out: an adapter of `hqsam_server._preprocess`."""

import numpy as np
from hqsam_server import _adapter
from hqsam_server._preprocess import preprocess
from hqsam_server._settings import limits


class TritonPythonModel:
    def initialize(self, args):
        _adapter.report_heals()
        self._limits = limits(_adapter.parameters(args))

    def execute(self, requests):
        return _adapter.answer(requests, self._handle)

    def _handle(self, request):
        encoded = _adapter.read(request, "encoded_image")
        image, original_size = preprocess(encoded.data, self._limits)
        return {"image": image, "original_size": np.array(original_size, np.int32)}
