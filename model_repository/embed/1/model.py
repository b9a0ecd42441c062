"""An image's bytes in, its image_id out: adapts `hqsam_server.models.embed`."""

import numpy as np
from hqsam_server.models import adapter, settings
from hqsam_server.models.embed import Caller, Embedder
from hqsam_server.store.entry import Embedding


class TritonPythonModel:
    def initialize(self, args):
        parameters = adapter.parameters(args)
        metrics = adapter.metrics()
        self._embedder = Embedder(
            settings.open_store(parameters, adapter.repository(args), metrics),
            _encode,
            metrics,
            settings.limits(parameters),
            workers=settings.number(parameters, "encode_workers"),
            max_waiting=settings.number(parameters, "max_waiting"),
        )

    def execute(self, requests):
        for request in requests:
            send, is_cancelled = adapter.send_later(request)
            caller = Caller(lambda answer, send=send: send(_response(answer)), is_cancelled)
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


def _response(answer):
    if isinstance(answer, Exception):
        return adapter.error_response(answer)
    return adapter.response(
        {
            "image_id": np.array([answer.image_id], np.object_),
            "original_size": np.array(answer.original_size, np.int32),
            "already_stored": np.array([answer.already_stored]),
        }
    )


def _encode(encoded):
    names = ("image_embeddings", "hq_features", "original_size")
    outputs = adapter.call("encode", {"encoded_image": np.frombuffer(encoded, np.uint8)}, names)
    height, width = outputs["original_size"].tolist()
    return Embedding(outputs["image_embeddings"], outputs["hq_features"], (height, width))
