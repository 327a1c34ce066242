"""Flower's measuring mods before and after flasc_mod."""

import numpy as np
import pytest
from flwr.clientapp.mod import arrays_size_mod, message_size_mod

from flasc_flwr import flasc_mod
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import client_app, mixed, run_wrapped


@pytest.mark.parametrize("mod", [arrays_size_mod, message_size_mod])
@pytest.mark.parametrize("first", [True, False])
def test_measuring_mods_work_on_both_sides(mod, first, logged):
    mods = [mod, flasc_mod] if first else [flasc_mod, mod]
    arrays = array_record({"weight": mixed()["weight"]})
    settings = {"download_density": 1 / 3, "upload_density": 1 / 3}

    def train(received, client, current):
        return {"weight": received["weight"] * np.float32(1.1)}

    app = client_app(train, mods=mods)
    _, _, result = run_wrapped(app, arrays=arrays, **settings)
    assert result.arrays
    if mod is arrays_size_mod:
        # Before flasc_mod it measures the payload, after it the arrays.
        assert ("'elements': 240" in logged()) == (not first)
