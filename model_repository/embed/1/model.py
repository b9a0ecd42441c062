"""A picture's bytes in, its image_id out: an adapter of `hqsam_server._embed`."""

import numpy as np
from hqsam_server import _adapter, _settings
from hqsam_server._embed import Caller, Embedder
from hqsam_server._entry import Embedding


class TritonPythonModel:
    def initialize(self, args):
        parameters = _adapter.parameters(args)
        metrics = _adapter.metrics()
        self._embedder = Embedder(
            _settings.open_store(parameters, _adapter.repository(args), metrics),
            _encode,
            metrics,
            _settings.limits(parameters),
            workers=_settings.number(parameters, "encode_workers"),
            max_waiting=_settings.number(parameters, "max_waiting"),
        )

    def execute(self, requests):
        for request in requests:
            send, is_cancelled = _adapter.send_later(request)
            caller = Caller(lambda answer, send=send: send(_response(answer)), is_cancelled)
            try:
                encoded = _adapter.read(request, "encoded_image")
                self._embedder.embed(
                    None if encoded is None else encoded.data,
                    _adapter.read_text(request, "image_id"),
                    caller,
                )
            except Exception as error:
                caller.reply(error)

    def finalize(self):
        self._embedder.close()


def _response(answer):
    if isinstance(answer, Exception):
        return _adapter.error_response(answer)
    return _adapter.response(
        {
            "image_id": np.array([answer.image_id], np.object_),
            "original_size": np.array(answer.original_size, np.int32),
            "already_stored": np.array([answer.already_stored]),
        }
    )


def _encode(encoded):
    names = ("image_embeddings", "hq_features", "original_size")
    outputs = _adapter.call("encode", {"encoded_image": np.frombuffer(encoded, np.uint8)}, names)
    height, width = outputs["original_size"].tolist()
    return Embedding(outputs["image_embeddings"], outputs["hq_features"], (height, width))
