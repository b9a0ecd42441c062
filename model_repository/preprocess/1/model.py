"""Encoded bytes in, the encoder's input out: adapts `hqsam_server.models.preprocess`."""

import numpy as np
from hqsam_server.models import adapter
from hqsam_server.models.preprocess import preprocess
from hqsam_server.models.settings import limits


class TritonPythonModel:
    def initialize(self, args):
        adapter.lower_priority(args)
        adapter.report_restarts()
        self._limits = limits(adapter.parameters(args))

    def execute(self, requests):
        return adapter.answer(requests, self._handle, inner=True)

    def _handle(self, request):
        encoded = adapter.read(request, "encoded_image")
        image, original_size = preprocess(encoded.data, self._limits)
        return {"image": image, "original_size": np.array(original_size, np.int32)}
