"""An image_id and prompts in, masks out: adapts `hqsam_server.models.segment`."""

from hqsam_server.models import adapter, settings
from hqsam_server.models.segment import Segmenter

_PROMPTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")


class TritonPythonModel:
    def initialize(self, args):
        parameters = adapter.parameters(args)
        metrics = adapter.metrics()
        tensor = adapter.RepeatedTensors(("image_embeddings", "hq_features"))
        self._segmenter = Segmenter(
            settings.open_store_to_read(parameters, adapter.repository(args), metrics),
            lambda inputs, outputs: adapter.call("prompt_decoder", inputs, outputs, tensor),
            metrics,
            settings.prompt_limits(parameters),
            settings.number(parameters, "chunk_prompts"),
        )

    def execute(self, requests):
        return adapter.answer(requests, self._handle)

    def _handle(self, request):
        inputs = {name: adapter.read(request, name) for name in _PROMPTS}
        image_id = adapter.read_text(request, "image_id")
        return self._segmenter.segment(image_id, inputs, request.requested_output_names())
