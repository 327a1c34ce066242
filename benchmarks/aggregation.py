"""Measure the aggregation of a large cohort, against Flower's FedAvg on dense replies.

Each contender gets as many replies of as many parameters, in a process of its own:
Flower's FedAvg dense arrays, SparseTransport(FedAvg) and Flasc payloads. The clock runs
for ``aggregate_train`` alone. Memory is what the process holds above its level before
the replies came: "held" once they are there, "peak" at most while they are aggregated,
which holds the replies, too. In the larger cohort all replies share one payload, such
that what grows is not the payloads.

    OMP_NUM_THREADS=1 python benchmarks/aggregation.py
"""

import argparse
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from flasc_flwr import Flasc, SparseTransport
from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.parcel import UPLOAD
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, PAYLOAD, STYPE, array_record

LAYERS, DENSITY, VALUES, DISTINCT = 40, 1 / 16, "bfloat16", 5
STRATEGIES = {
    "FedAvg": lambda: FedAvg(fraction_evaluate=0),
    "SparseTransport(FedAvg)": lambda: SparseTransport(FedAvg(fraction_evaluate=0)),
    "Flasc": lambda: Flasc(weighting="examples", fraction_train=1.0),
}
STYPES = {"SparseTransport(FedAvg)": UPLOAD, "Flasc": STYPE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--more", type=int, default=1000, help="the larger cohort")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=STRATEGIES, help=argparse.SUPPRESS)
    parser.add_argument("--shared", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given)))
        return
    print("| strategy | replies | held, MB | peak, MB | best, s | median, s |")
    print("|---|---|---|---|---|---|")
    rows = {name: run(name, given.replies, given) for name in STRATEGIES}
    for name in STYPES:
        run(name, given.more, given, "--shared")
    for name in STYPES:
        speed = rows["FedAvg"]["median"] / rows[name]["median"]
        memory = rows["FedAvg"]["peak"] / rows[name]["peak"]
        print(f"{name}: {speed:.1f} times as fast, {memory:.1f} times less memory")


def run(name: str, replies: int, given: argparse.Namespace, *more: str) -> dict:
    """Measure one contender in a process of its own."""
    options = {
        "--only": name,
        "--replies": replies,
        "--parameters": given.parameters,
        "--repeats": given.repeats,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, __file__, *words, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    memory = f"{row['held']:,.0f} | {row['peak']:,.0f}"
    print(f"| {name} | {replies:,} | {memory} ", end="")
    print(f"| {row['best']:.2f} | {row['median']:.2f} |", flush=True)
    return row


def measure(given: argparse.Namespace) -> dict:
    """Aggregate the replies of a cohort, some times."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    side = (given.parameters // LAYERS // 500, 500)
    rng = np.random.default_rng(0)

    def arrays() -> dict[str, np.ndarray]:
        return {f"{i}": rng.standard_normal(side, np.float32) for i in range(LAYERS)}

    weights = array_record(arrays())
    updates = [as_sent(arrays(), STYPES.get(given.only)) for _ in range(DISTINCT)]
    seconds, held, peak = [], [], []
    for _ in range(given.repeats):
        strategy: Strategy = STRATEGIES[given.only]()
        before = resident()
        cohort = Cohort(updates, given.replies, shared=given.shared)
        messages = strategy.configure_train(1, weights, ConfigRecord(), cohort)
        replies = cohort.send_and_receive(messages)
        held.append(resident() - before)
        with Peak() as watch:
            began = time.perf_counter()
            averaged, _ = strategy.aggregate_train(1, replies)
            seconds.append(time.perf_counter() - began)
        peak.append(watch.level - before)
        assert averaged is not None
        del strategy, cohort, messages, replies, averaged
    best, median = min(seconds), float(np.median(seconds))
    return {"held": max(held), "peak": max(peak), "best": best, "median": median}


def as_sent(arrays: dict[str, np.ndarray], stype: str | None) -> ArrayRecord:
    """Return an update as a client sends it: dense, or as a payload of this stype."""
    if stype is None:
        return array_record(arrays)
    layout = Layout.of(arrays)
    payload = encode(top_k(layout.flatten(arrays), DENSITY), VALUES, layout=layout)
    return ArrayRecord({PAYLOAD: Array("uint8", (len(payload),), stype, payload)})


class Cohort(LocalGrid):
    """Clients that answer with updates made before."""

    def __init__(self, updates: list[ArrayRecord], size: int, *, shared: bool) -> None:
        super().__init__(lambda message, context: message, size)
        self._updates = updates
        self._shared = shared

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for index, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
            ids.append(message.metadata.message_id)
            content = RecordDict({CONTROL: ConfigRecord()})
            if INTRODUCE not in message.content.get(CONTROL, {}):
                content = RecordDict({"arrays": self._arrays(index)})
                content["metrics"] = MetricRecord({"num-examples": 10 + index})
            self._replies[ids[-1]] = Message(content, reply_to=message)
        return ids

    def _arrays(self, index: int) -> ArrayRecord:
        if self._shared:
            return self._updates[0]
        record = ArrayRecord()
        for name, array in self._updates[index % len(self._updates)].items():
            data = bytes(bytearray(array.data))
            record[name] = Array(array.dtype, array.shape, array.stype, data)
        return record


def resident() -> float:
    """Return what the process holds in memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Peak:
    """The most that the process holds within a block, looked at each millisecond."""

    def __enter__(self) -> "Peak":
        self.level = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.level = max(self.level, resident())


if __name__ == "__main__":
    main()
