"""An image_id and prompts in, masks out: adapts `hqsam_server.models.segment`."""

from hqsam_client.contract import QUALITY_INPUTS
from hqsam_server import memory
from hqsam_server.models import adapter, settings
from hqsam_server.models.caller import Caller
from hqsam_server.models.segment import Segmenter
from hqsam_server.prompt_decoding import open_decoder

_PROMPTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
_INPUTS = (*_PROMPTS, "mask_size", *QUALITY_INPUTS)


class TritonPythonModel:
    def initialize(self, args):
        parameters = adapter.parameters(args)
        repository = adapter.repository(args)
        metrics = adapter.metrics()
        self._segmenter = Segmenter(
            settings.open_store_to_read(parameters, repository, metrics),
            open_decoder(repository, adapter.device(args)),
            metrics,
            settings.segment_limits(parameters),
        )
        memory.give_back_in_background()

    def execute(self, requests):
        for request in requests:
            send, is_cancelled = adapter.send_later(request)
            caller = Caller(
                lambda answer, send=send: send(adapter.answered(answer)),
                is_cancelled,
                adapter.caller(request),
            )
            try:
                self._segmenter.segment(
                    adapter.read_text(request, "image_id"),
                    {name: adapter.read(request, name) for name in _INPUTS},
                    adapter.read_text(request, "mode"),
                    request.requested_output_names(),
                    caller,
                )
            except Exception as error:
                caller.reply(error)

    def finalize(self):
        self._segmenter.close()
