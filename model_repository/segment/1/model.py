"""An image_id and prompts in, masks out: an adapter of `hqsam_server._segment`."""

from hqsam_server import _adapter, _settings
from hqsam_server._segment import Segmenter

_PROMPTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")


class TritonPythonModel:
    def initialize(self, args):
        parameters = _adapter.parameters(args)
        metrics = _adapter.metrics()
        tensor = _adapter.RepeatedTensors(("image_embeddings", "hq_features"))
        self._segmenter = Segmenter(
            _settings.open_store_to_read(parameters, _adapter.repository(args), metrics),
            lambda inputs, outputs: _adapter.call("prompt_decoder", inputs, outputs, tensor),
            metrics,
            _settings.prompt_limits(parameters),
            _settings.number(parameters, "chunk_prompts"),
        )

    def execute(self, requests):
        return _adapter.answer(requests, self._handle)

    def _handle(self, request):
        inputs = {name: _adapter.read(request, name) for name in _PROMPTS}
        image_id = _adapter.read_text(request, "image_id")
        return self._segmenter.segment(image_id, inputs, request.requested_output_names())
