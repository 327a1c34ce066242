"""Errors that leave a device: short, printable, and without values of its arrays.

Flower sends the text of an exception to the server as the reason of the failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.device_limits import RefusedDownloadError


@contextmanager
def download_errors() -> Iterator[None]:
    """Raise a PayloadError for a download that nothing can be made of.

    The device's own refusals stay what they are.
    """
    try:
        yield
    except RefusedDownloadError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise PayloadError(f"download refused: {printable(error)}") from error


@contextmanager
def upload_errors() -> Iterator[None]:
    """Raise a ValueError for arrays of an app that cannot be sent."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(printable(error)) from error
