"""The exception tree.

::

    HQSamError
"""

from __future__ import annotations


class HQSamError(Exception):
    """Base of every error that this package raises on purpose.

    Its message is one line that says what was wrong and what to do next; the
    ``hqsam`` command prints it and exits with status 1.
    """
