"""The server side's part of the exception tree.

```text
HQSamError
├── StartError                   the server cannot be started
└── ServingError                 INTERNAL
    ├── BadRequestError          INVALID_ARGUMENT: the request is at fault
    ├── UnknownImageError        NOT_FOUND: the image is not stored
    ├── OverloadedError          UNAVAILABLE: too much is waiting
    ├── ModelCallError           UNAVAILABLE: a model behind this one failed
    ├── RequestCancelledError    CANCELLED: nobody waits for the answer
    └── StoreError               INTERNAL: the store cannot be used
```

The Triton models turn them into gRPC codes in one place, `hqsam_server.models.adapter`.
"""

from __future__ import annotations

from hqsam_client import HQSamError


class StartError(HQSamError):
    """The server, or a model of its repository, cannot be started as it was asked to."""


class ServingError(HQSamError):
    """Base of what a model of the repository answers instead of a result."""


class BadRequestError(ServingError):
    """The request can never succeed as it is."""


class UnknownImageError(ServingError):
    """No embedding is stored under this `image_id`; `embed` the image and ask again."""


class OverloadedError(ServingError):
    """Too many requests are waiting; the same request may succeed later."""


class ModelCallError(ServingError):
    """Another model of this server, called with valid inputs, answered with an error.

    Its queue may be full, or its process may have died and be on its way back. Triton
    loses the code on the way, so that they cannot be told apart.
    """


class RequestCancelledError(ServingError):
    """The caller cancelled the request, or its deadline is over."""


class StoreError(ServingError):
    """The embedding store cannot be read or written."""
