import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "ray", "sklearn")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flasc_flwr", (*HEAVY, "flwr")),
        ("from flasc_flwr import Flasc, flasc_mod", HEAVY),
        ("import flasc_flwr.layout, flasc_flwr.sparsity", (*HEAVY, "flwr")),
        ("import flasc_flwr.codec, flasc_flwr.aggregation", (*HEAVY, "flwr")),
        ("import flasc_flwr.optimizers, flasc_flwr.traffic", (*HEAVY, "flwr")),
        ("import flasc_flwr.config", (*HEAVY, "flwr")),
        ("import flasc_flwr.network, flasc_flwr.search", (*HEAVY, "flwr")),
    ],
)
def test_light_imports_stay_light(code, absent):
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not set(absent) & set(done.stdout.split())
