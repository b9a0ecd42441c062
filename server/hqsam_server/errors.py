"""The server side's part of the exception tree.

```text
HQSamError
├── StartError                   the server, or a model, cannot be started
└── ServingError                 INTERNAL: the request is not at fault
    ├── BadRequestError          INVALID_ARGUMENT: the request can never succeed
    ├── UnknownImageError        NOT_FOUND: the image is not stored
    ├── OverloadedError          UNAVAILABLE: too many requests are waiting
    ├── ModelUnavailableError    UNAVAILABLE: a model that this one calls is not available
    ├── RequestCancelledError    CANCELLED: no one is waiting for the answer
    └── StoreError               INTERNAL: the store cannot be used
```

`hqsam_server.models.adapter` turns them into status codes.
"""

from __future__ import annotations

from hqsam_client import HQSamError


class StartError(HQSamError):
    """The server, or a model of its repository, cannot be started."""


class ServingError(HQSamError):
    """A model answers a request with an error; the subclasses say which."""


class BadRequestError(ServingError):
    """The request can never succeed as it is."""


class UnknownImageError(ServingError):
    """No embedding is stored under this `image_id`: `embed` the image and ask again."""


class OverloadedError(ServingError):
    """Too many requests are waiting; the same request may succeed later."""


class ModelUnavailableError(ServingError):
    """Another model of this server could not answer; the same request may succeed later.

    Its queue is full, or its process has died and is being restarted.
    """


class RequestCancelledError(ServingError):
    """The caller cancelled the request, or its deadline has passed."""


class StoreError(ServingError):
    """The embedding store cannot be read or written."""
