"""An image's bytes in, its image_id out: adapts `hqsam_server.models.embed`."""

import numpy as np
from hqsam_server import memory
from hqsam_server.models import adapter, settings
from hqsam_server.models.caller import Caller
from hqsam_server.models.embed import Embedder
from hqsam_server.models.preprocess import Preprocessor


class TritonPythonModel:
    def initialize(self, args):
        parameters = adapter.parameters(args)
        metrics = adapter.metrics()
        bounds = settings.bounds(parameters)
        preprocess = Preprocessor(settings.limits(parameters), bounds.workers)
        preprocess.warm_up()
        self._embedder = Embedder(
            settings.open_store(parameters, adapter.repository(args), metrics),
            preprocess,
            _encode,
            (metrics, adapter.embed_metrics()),
            bounds,
        )
        memory.give_back_in_background()

    def execute(self, requests):
        for request in requests:
            caller = self._caller(request)
            try:
                encoded = adapter.read(request, "encoded_image")
                self._embedder.embed(
                    None if encoded is None else encoded.data,
                    adapter.read_text(request, "image_id"),
                    caller,
                )
            except Exception as error:
                caller.reply(error)

    def finalize(self):
        self._embedder.close()

    def _caller(self, request):
        send, is_cancelled = adapter.send_later(request)
        return Caller(
            lambda answer: send(adapter.answered(_outputs(answer))),
            is_cancelled,
            adapter.caller(request),
        )


def _outputs(answer):
    if isinstance(answer, Exception):
        return answer
    return {
        "image_id": np.array([answer.image_id], np.object_),
        "original_size": np.array(answer.original_size, np.int32),
        "already_stored": np.array([answer.already_stored]),
    }


def _encode(image):
    outputs = adapter.call("encode", {"image": image}, ("image_embeddings", "hq_features"))
    return outputs["image_embeddings"], outputs["hq_features"]
