"""Options of the Python models, from their config.pbtxt and from the environment.

Every option is a parameter in the config.pbtxt of the models that use it, where its
default is documented. An environment variable of the same name in capitals behind
``HQSAM_``, such as ``HQSAM_STORE_FOLDER``, wins over it and holds for all models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hqsam_server._errors import ServingError
from hqsam_server._preprocess import Limits


def text(parameters: Mapping[str, str], name: str) -> str:
    """Return an option as it stands.

    Raises:
        ServingError: neither the environment nor the parameters have it.
    """
    value = os.environ.get(f"HQSAM_{name.upper()}", parameters.get(name))
    if value is None:
        raise ServingError(f"the option {name} is missing from the model's config.pbtxt")
    return value


def number(parameters: Mapping[str, str], name: str) -> int:
    """Return an option that is a whole number above zero.

    Raises:
        ServingError: it is missing, or no such number.
    """
    value = text(parameters, name)
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ServingError(f"the option {name} is {value!r}, expected a whole number above 0")
    return int(value)


def limits(parameters: Mapping[str, str]) -> Limits:
    """Return what a picture may cost."""
    return Limits(number(parameters, "max_bytes"), number(parameters, "max_pixels"))
