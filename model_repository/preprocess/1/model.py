"""Encoded bytes in, the encoder's input out: adapts `hqsam_server.models.preprocess`."""

import numpy as np
from hqsam_server.models import adapter, settings
from hqsam_server.models.preprocess import Preprocessor


class TritonPythonModel:
    def initialize(self, args):
        adapter.lower_priority(args)
        adapter.report_restarts()
        limits = settings.limits(adapter.parameters(args))
        self._preprocess = Preprocessor(limits, processes=1)

    def execute(self, requests):
        return adapter.answer(requests, self._handle, inner=True)

    def finalize(self):
        self._preprocess.close()

    def _handle(self, request):
        encoded = adapter.read(request, "encoded_image")
        image, original_size = self._preprocess(encoded.data, request.is_cancelled)
        return {"image": image, "original_size": np.array(original_size, np.int32)}
