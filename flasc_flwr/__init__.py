"""Federated LoRA fine-tuning on Flower with sparse messages.

The public names load on first use, so that ``import flasc_flwr`` and the numpy core
(:mod:`flasc_flwr.core`) need neither Flower nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flasc_flwr.flower.flasc import Flasc
    from flasc_flwr.flower.mod import flasc_mod, trainable_entries
    from flasc_flwr.flower.sparse_transport import SparseTransport

__version__ = "0.2.0"
__all__ = [
    "Flasc",
    "SparseTransport",
    "__version__",
    "flasc_mod",
    "trainable_entries",
]

_HOME = {
    "Flasc": "flasc_flwr.flower.flasc",
    "SparseTransport": "flasc_flwr.flower.sparse_transport",
    "flasc_mod": "flasc_flwr.flower.mod",
    "trainable_entries": "flasc_flwr.flower.mod",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
