import gc
import logging

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_garbage_collection():
    """Leave what is loaded now out of collections: some strategies ask for many."""
    import peft  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture
def logged(caplog):
    """Return what Flower's logger has said so far, as text."""
    caplog.set_level(logging.INFO, logger="flwr")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
