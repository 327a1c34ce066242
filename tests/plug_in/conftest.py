import gc
import logging

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_garbage_collection():
    """Exclude what is loaded now from collections: some strategies collect often."""
    import peft  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture
def logged(caplog):
    """Return a function that returns what Flower's logger has logged, as text."""
    caplog.set_level(logging.INFO, logger="flwr")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
