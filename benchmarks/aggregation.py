"""Measure the aggregation of a large cohort, against Flower's FedAvg on dense replies.

Each strategy gets the same number of replies of the same size, in its own process:
Flower's FedAvg dense arrays, SparseTransport(FedAvg) and Flasc payloads. Timed is
``aggregate_train``, and for Flasc, which runs whole rounds, its phase "aggregate".
Memory is what the process holds above its level before the replies: "held" when they
are there, "peak" at most while they are aggregated (which holds them too). In the
larger cohort all replies share one payload, so memory does not grow by the payloads.

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
from flasc_flwr.flower.compat import set_metadata
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.parcel import UPLOAD
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, PAYLOAD, STYPE, array_record

LAYERS, DENSITY, VALUES, DISTINCT = 40, 1 / 16, "bfloat16", 5
STRATEGIES = ("FedAvg", "SparseTransport(FedAvg)", "Flasc")
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
    """Measure one strategy in its own process."""
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
        before = resident()
        cohort = Cohort(updates, given.replies, shared=given.shared)
        held.append(resident() - before)
        with Peak() as watch:
            seconds.append(aggregate(given.only, cohort, weights))
        peak.append(watch.level - before)
        del cohort
    best, median = min(seconds), float(np.median(seconds))
    return {"held": max(held), "peak": max(peak), "best": best, "median": median}


def aggregate(name: str, cohort: "Cohort", weights: ArrayRecord) -> float:
    """Run one round, and return the seconds that its aggregation took."""
    if name == "Flasc":
        rows: list[dict] = []
        strategy = Flasc(weighting="examples", fraction_train=1.0, on_round=rows.append)
        strategy.start(cohort, weights, num_rounds=1)
        assert rows[-1]["replies"] == len(cohort.records), rows[-1]
        return float(rows[-1]["seconds_aggregate"])
    fedavg = FedAvg(fraction_evaluate=0)
    inner: Strategy = fedavg
    if name != "FedAvg":  # the cohort below remembers nothing
        inner = SparseTransport(fedavg, error_feedback="none")
    messages = inner.configure_train(1, weights, ConfigRecord(), cohort)
    replies = cohort.send_and_receive(messages)
    began = time.perf_counter()
    averaged, _ = inner.aggregate_train(1, replies)
    assert averaged is not None
    return time.perf_counter() - began


def as_sent(arrays: dict[str, np.ndarray], stype: str | None) -> ArrayRecord:
    """Return an update as a client sends it: dense, or as a payload of this stype."""
    if stype is None:
        return array_record(arrays)
    layout = Layout.of(arrays)
    payload = encode(top_k(layout.flatten(arrays), DENSITY), VALUES, layout=layout)
    return ArrayRecord({PAYLOAD: Array("uint8", (len(payload),), stype, payload)})


class Cohort(LocalGrid):
    """Clients that reply with updates made before."""

    def __init__(self, updates: list[ArrayRecord], size: int, *, shared: bool) -> None:
        super().__init__(lambda message, context: message, size)
        self.records = [
            updates[0] if shared else copied(updates[index % len(updates)])
            for index in range(size)
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            ids.append(f"{message.metadata.message_type} {node} {len(self._replies)}")
            set_metadata(message, "message_id", ids[-1])
            content = RecordDict({CONTROL: ConfigRecord()})
            if INTRODUCE not in message.content.get(CONTROL, {}):
                content = RecordDict({"arrays": self.records[node - 1]})
                content["metrics"] = MetricRecord({"num-examples": 10 + node})
            self._replies[ids[-1]] = Message(content, reply_to=message)
        return ids


def copied(record: ArrayRecord) -> ArrayRecord:
    """Return the record with its own memory."""
    return ArrayRecord(
        {
            name: Array(a.dtype, a.shape, a.stype, bytes(bytearray(a.data)))
            for name, a in record.items()
        }
    )


def resident() -> float:
    """Return what the process holds in memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Peak:
    """The most that the process holds within a block, sampled every millisecond."""

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
