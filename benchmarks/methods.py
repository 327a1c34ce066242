"""What every method sends on the digits task, round by round, in one process.

Runs the real ServerApp and ClientApp over a LocalGrid, and prints for each method the
payload bytes of a client's download and upload, the mean over the cohort: in the first
round, where B is zero, and in the last.
Run: OMP_NUM_THREADS=1 python benchmarks/methods.py [--rounds 10] [--only flasc]
With --settings "server-optimizer='sgd'" all methods have these settings, too.
"""

import argparse
import tempfile
from pathlib import Path

from flasc_flwr.app.cli.common import parsed
from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.core.methods.table import METHODS

APP = Path(__file__).parent.parent


def history(
    method: str, rounds: int, clients: int, folder: str, settings: dict
) -> list[dict]:
    """Run a method, and return its history."""
    overrides = {
        "method": method,
        "num-server-rounds": rounds,
        "evaluate-every": rounds,
        "output-dir": str(Path(folder) / method),
        # By default adapter-lth would reach a quarter after 28 rounds.
        "download-density-decay": 0.7 if method == "adapter-lth" else 1.0,
        **settings,
    }
    run_locally(APP, overrides, clients)
    (run,) = (Path(folder) / method).iterdir()
    return read_history(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--settings", nargs="*", default=[])
    arguments = parser.parse_args()
    size = arguments.rounds, arguments.clients
    settings = parsed(arguments.settings)
    print("| method | first round, down | up | last round, down | up |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.only:
            rows = history(method, *size, folder, settings)
            cells = [
                f"{row[f'payload_bytes_{way}'] / row['replies']:,.0f}"
                for row in (rows[1], rows[-1])
                for way in ("down", "up")
            ]
            print(f"| `{method}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
