"""Measure selecting, encoding, decoding and adding of a large update, in turn.

10 million Gaussian parameters at density 1/16 in bfloat16, on one thread. The calls
alternate and ratios are taken round by round, so that other work on the machine slows
down both sides. "add" is the weighted sum in float64 that the server keeps.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/codec_speed.py [--rounds 40]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.sparsity import SparseVector, top_k

DENSITY, VALUES = 1 / 16, "bfloat16"
RATIOS = (
    ("select and encode", "np.partition(x)"),
    ("select and encode", "np.partition(abs(x))"),
    ("select and encode", "decode and add"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    spent = measure(given.size, given.rounds)
    for name, times in spent.items():
        print(f"{name:22} best {min(times):6.1f} ms, median {np.median(times):6.1f} ms")
    for one, other in RATIOS:
        ratio = np.array(spent[one]) / np.array(spent[other])
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        print(f"{one} / {other}: {middle:.2f} ({low:.2f} to {high:.2f})")


def measure(size: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each call in every round."""
    vector = np.random.default_rng(0).standard_normal(size, np.float32)
    cut = size - int(size * DENSITY)
    payload = encode(top_k(vector, DENSITY), VALUES)
    total = np.zeros(size, np.float64)

    def add(update: SparseVector) -> None:
        weighed = np.multiply(update.values, 1.0, dtype=np.float64)
        np.add.at(total, update.positions, weighed)

    calls: dict[str, Callable[[], object]] = {
        "np.partition(x)": lambda: np.partition(vector, cut),
        "np.partition(abs(x))": lambda: np.partition(np.abs(vector), cut),
        "select": lambda: top_k(vector, DENSITY),
        "select and encode": lambda: encode(top_k(vector, DENSITY), VALUES),
        "decode": lambda: decode(payload, size),
        "decode and add": lambda: add(decode(payload, size)),
    }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            spent[name].append(1e3 * (time.perf_counter() - began))
    return spent


if __name__ == "__main__":
    main()
