"""Libraries without packages that they import where these are installed.

PEFT imports bitsandbytes, and with it torch's compiler, also where nothing is
quantized; transformers imports scipy for the losses of object detection, and
scikit-learn for assisted generation. That is more than a second of the processor's time
and 80 MB for each message of a device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_REMEMBERED = (
    ("peft.import_utils", "is_bnb_available"),
    ("peft.import_utils", "is_bnb_4bit_available"),
    ("transformers.utils.import_utils", "is_bitsandbytes_available"),
    ("transformers.utils.import_utils", "is_scipy_available"),
    ("transformers.utils.import_utils", "is_sklearn_available"),
)
"""Functions that remember whether a package is installed."""


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Let libraries take packages as not installed, unless they are imported already.

    Afterwards they are installed again. A model with quantized layers has imported
    bitsandbytes, so it stays.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in packages if name not in modules]
    for name in hidden:
        # Python's own way to say that a module cannot be imported.
        modules[name] = None
    _forget()
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
        _forget()


def _forget() -> None:
    for module, name in _REMEMBERED:
        function = getattr(sys.modules.get(module), name, None)
        clear = getattr(function, "cache_clear", None)
        if clear is not None:
            clear()
