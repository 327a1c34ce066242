import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "ray", "sklearn")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flasc_flwr", (*HEAVY, "flwr")),
        ("from flasc_flwr import Flasc, flasc_mod", HEAVY),
        ("import flasc_flwr.core.layout, flasc_flwr.core.sparsity", (*HEAVY, "flwr")),
        ("import flasc_flwr.core.codec", (*HEAVY, "flwr")),
        (
            "import flasc_flwr.core.optimizers, flasc_flwr.core.traffic",
            (*HEAVY, "flwr"),
        ),
        ("import flasc_flwr.app.config", (*HEAVY, "flwr")),
        (
            "import flasc_flwr.app.runs.link_times, flasc_flwr.app.search.search",
            (*HEAVY, "flwr"),
        ),
    ],
)
def test_light_imports_stay_light(code, absent):
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not set(absent) & set(done.stdout.split())
