"""Measure the aggregation of a large cohort, against Flower's FedAvg on dense replies.

Each strategy gets the same number of replies of the same size, in its own process:
Flower's FedAvg dense arrays, SparseTransport(FedAvg) and Flasc payloads. Timed is
``aggregate_train``, and for Flasc, which runs whole rounds, its phase "aggregate".
"CPU" is the processor time of all that comes after the messages are sent.

Memory is what the process holds beyond its level before, as Linux counts it: "send" at
most until the messages are sent (FedAvg sends its arrays as they are), "held" by the
replies, "aggregate" at most after that, with the replies and whatever is kept since
sending. In the larger cohort all replies share one payload, so memory does not grow by
the payloads.

    OMP_NUM_THREADS=1 python benchmarks/aggregation.py
"""

import argparse
import ctypes
import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
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

LAYERS, DISTINCT = 40, 5
STRATEGIES = ("FedAvg", "SparseTransport(FedAvg)", "Flasc")
STYPES = {"SparseTransport(FedAvg)": UPLOAD, "Flasc": STYPE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--more", type=int, default=1000, help="the larger cohort")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--density", type=float, default=1 / 16, help="of payloads")
    parser.add_argument("--values", default="bfloat16", help="their value format")
    parser.add_argument("--only", choices=STRATEGIES, help=argparse.SUPPRESS)
    parser.add_argument("--shared", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given)))
        return
    columns = "send, MB | held, MB | aggregate, MB | best, s | median, s | CPU, s"
    print(f"| strategy | replies | {columns} |")
    print("|---" * 8 + "|")
    rows = {name: run(name, given.replies, given) for name in STRATEGIES}
    for name in STYPES:
        run(name, given.more, given, "--shared")
    for name in STYPES:
        speed = rows["FedAvg"]["median"] / rows[name]["median"]
        effort = rows["FedAvg"]["cpu"] / rows[name]["cpu"]
        memory = rows["FedAvg"]["aggregate"] / rows[name]["aggregate"]
        print(f"{name}: {speed:.1f} times as fast, ", end="")
        print(f"{effort:.1f} times by processor time, {memory:.1f} times less memory")


def run(name: str, replies: int, given: argparse.Namespace, *more: str) -> dict:
    """Measure one strategy in its own process."""
    options = {
        "--only": name,
        "--replies": replies,
        "--parameters": given.parameters,
        "--repeats": given.repeats,
        "--density": given.density,
        "--values": given.values,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, __file__, *words, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    memory = " | ".join(f"{row[key]:,.0f}" for key in ("send", "held", "aggregate"))
    seconds = " | ".join(f"{row[key]:.2f}" for key in ("best", "median", "cpu"))
    print(f"| {name} | {replies:,} | {memory} | {seconds} |", flush=True)
    return row


def measure(given: argparse.Namespace) -> dict:
    """Aggregate the replies of a cohort, some times."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    side = (given.parameters // LAYERS // 500, 500)
    rng = np.random.default_rng(0)

    def arrays() -> dict[str, np.ndarray]:
        return {f"{i}": rng.standard_normal(side, np.float32) for i in range(LAYERS)}

    weights = array_record(arrays())
    updates = [as_sent(arrays(), given) for _ in range(DISTINCT)]
    seconds, cpu, held_by_replies, send, aggregated = [], [], [], [], []
    for _ in range(given.repeats):
        empty = settled()
        records = replies_of(updates, given.replies, shared=given.shared)
        full = settled()
        phases = Phases()
        cohort = Cohort(records, phases.end)
        seconds.append(aggregate(given.only, cohort, weights))
        phases.end()
        sending, aggregating = phases.peaks
        cpu.append(phases.cpu)
        held_by_replies.append(full - empty)
        send.append(sending - full)
        aggregated.append(aggregating - empty)
        del records, cohort
    return {
        "send": max(send),
        "held": max(held_by_replies),
        "aggregate": max(aggregated),
        "best": min(seconds),
        "median": float(np.median(seconds)),
        "cpu": min(cpu),
    }


def aggregate(name: str, cohort: "Cohort", weights: ArrayRecord) -> float:
    """Run one round, and return the seconds that its aggregation took."""
    if name == "Flasc":
        rows: list[dict] = []
        strategy = Flasc(
            weighting="examples",
            fraction_train=1.0,
            fraction_evaluate=0.0,
            on_round=rows.append,
        )
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


def as_sent(arrays: dict[str, np.ndarray], given: argparse.Namespace) -> ArrayRecord:
    """Return an update as a client of the strategy sends it: dense, or as a payload."""
    if given.only == "FedAvg":
        return array_record(arrays)
    layout = Layout.of(arrays)
    sparse = top_k(layout.flatten(arrays), given.density)
    payload, stype = encode(sparse, given.values, layout=layout), STYPES[given.only]
    return ArrayRecord({PAYLOAD: Array("uint8", (len(payload),), stype, payload)})


class Cohort(LocalGrid):
    """Clients that reply with updates made before; calls `sent` when they are asked."""

    def __init__(self, records: list[ArrayRecord], sent: Callable[[], None]) -> None:
        super().__init__(lambda message, context: message, len(records))
        self.records, self._sent = records, sent

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
        if any("arrays" in reply.content for reply in self._replies.values()):
            self._sent()
        return ids


def replies_of(
    updates: list[ArrayRecord], size: int, *, shared: bool
) -> list[ArrayRecord]:
    """Return the arrays of each reply of a cohort."""
    if shared:
        return [updates[0]] * size
    return [copied(updates[index % len(updates)]) for index in range(size)]


def copied(record: ArrayRecord) -> ArrayRecord:
    """Return the record with its own memory."""
    return ArrayRecord(
        {
            name: Array(a.dtype, a.shape, a.stype, bytes(bytearray(a.data)))
            for name, a in record.items()
        }
    )


class Phases:
    """What the process holds at most in each phase, as the kernel counts it."""

    def __init__(self) -> None:
        self.peaks: list[float] = []
        self._begin()

    def end(self) -> None:
        """End a phase, and begin the next one."""
        self.peaks.append(held("VmHWM"))
        self.cpu = time.process_time() - self._began
        self._begin()

    def _begin(self) -> None:
        settled()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        self._began = time.process_time()


def settled() -> float:
    """Return what the process holds without garbage and freed memory, in MB."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return held("VmRSS")


def held(what: str) -> float:
    """Return what the process holds now (VmRSS) or held at most (VmHWM), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(what))
    return int(kib) * 1024 / 1e6


if __name__ == "__main__":
    main()
