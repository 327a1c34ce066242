"""FLASC's first rounds, and what helps: accuracy, bytes and dead modules.

Runs the real ServerApp and ClientApp on the digits task over a LocalGrid, each remedy
with several seeds, and prints a table. Before that, without training: how many of
GPT-2's 48 adapted modules are dead after the first download.
Run: OMP_NUM_THREADS=1 python benchmarks/remedies.py [--rounds 20] [--seeds 3]
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np

from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.core.factors import dead_modules
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.scores import Scoring

APP = Path(__file__).parent.parent

REMEDIES = {
    "none": {},
    "`score = 'fan-in'`": {"score": "fan-in"},
    "`quota = 'tensor'`": {"quota": "tensor"},
    "`init = 'shared-seed'`": {"init": "shared-seed"},
    "`dense-rounds = 1`": {"dense-rounds": 1},
    "`dense-rounds = 3`": {"dense-rounds": 3},
}
RUNS = [
    *(
        ("flasc", density, remedy, options)
        for density in ("1/4", "1/16")
        for remedy, options in REMEDIES.items()
    ),
    *(
        (method, "1/4", remedy, REMEDIES[remedy])
        for method in ("sparse-adapter", "fedselect")
        for remedy in ("none", "`quota = 'tensor'`", "`dense-rounds = 3`")
    ),
]


def gpt2_adapter(rank: int = 16) -> Layout:
    """Return the layout of GPT-2 small's LoRA adapter, and a head of 20 classes."""
    shapes = {"attn.c_attn": (2304, 768), "attn.c_proj": (768, 768)}
    shapes |= {"mlp.c_fc": (3072, 768), "mlp.c_proj": (768, 3072)}
    arrays = {}
    for block in range(12):
        for name, (n_out, n_in) in shapes.items():
            arrays[f"h.{block}.{name}.lora_A.weight"] = np.zeros(
                (rank, n_in), np.float32
            )
            arrays[f"h.{block}.{name}.lora_B.weight"] = np.zeros(
                (n_out, rank), np.float32
            )
    arrays["score.weight"] = np.zeros((20, 768), np.float32)
    return Layout.of(arrays)


def print_dead_modules() -> None:
    layout = gpt2_adapter()
    vector = seeded_factors(layout, 0).copy()
    head = np.random.default_rng(0).normal(0, 0.02, 20 * 768)
    vector[-head.size :] = head
    print("| density | none | `score = 'fan-in'` | `quota = 'tensor'` |")
    print("|---|---|---|---|")
    for density in (1 / 4, 1 / 16, 1 / 64):
        dead = []
        for ranking in (Scoring(), Scoring(score="fan-in"), Scoring(quota="tensor")):
            sent = ranking.largest(layout, vector, density)
            dead.append(str(dead_modules(layout, sent.densify())))
        print(f"| 1/{1 / density:.0f} | " + " | ".join(dead) + " |")
    print()


def summary_of(settings: dict, clients: int) -> dict:
    """Run, and return the summary."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_locally(APP, settings, clients)
    (run,) = Path(settings["output-dir"]).iterdir()
    return json.loads((run / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print_dead_modules()
    print("| method | densities | remedy | accuracy, % | mean | MB, both ways |")
    print("|---|---|---|---|---|---|")
    for method, density, remedy, options in RUNS:
        accuracies, sizes = [], []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                settings = {
                    "method": method,
                    "seed": seed,
                    "num-server-rounds": arguments.rounds,
                    "evaluate-every": arguments.rounds,
                    "download-density": density,
                    "upload-density": density,
                    "output-dir": folder,
                    **options,
                }
                summary = summary_of(settings, arguments.clients)
            accuracies.append(100 * summary["accuracy"])
            sizes.append(summary["message_bytes_down"] + summary["message_bytes_up"])
        print(
            f"| `{method}` | {density} | {remedy} | "
            + ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
            + f" | {np.mean(accuracies):.1f} | {np.mean(sizes) / 1e6:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
