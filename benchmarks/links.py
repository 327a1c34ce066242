"""A federation on slow links: seconds a round, bytes, and what was predicted.

Each device has a network namespace and a link of its own to the server: netem where the
kernel has it, else packets are forwarded by this process at the link's rate. Processes,
TLS and keys are those of docs/deploy.md. The model is a small random encoder with an
adapter of 2,098,178 parameters, so that bytes take most of a round's time.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/links.py [--links NAME ...]

Needs root, iproute2 and unshare. Rows are added to --rows; a run whose row is there is
not repeated. ``--table`` prints the tables of docs/deploy.md from the rows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS))
from shaped.federation import CONNECTION, Federation, federation  # noqa: E402
from shaped.network import has_netem  # noqa: E402
from shaped.sets import LINK_SETS  # noqa: E402
from shaped.table import tables  # noqa: E402

from tests.end_to_end.processes import wait_until  # noqa: E402

RESULTS = BENCHMARKS / "results" / "links.jsonl"
SPARSE = {
    "download-density": "1/4",
    "upload-density": "1/16",
    "value-format": "int8",
}
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"method": "dense", "value-format": "float32"},
    "flasc": {"method": "flasc"} | SPARSE,
    "flasc-ef": {"method": "flasc-ef"} | SPARSE,
}
HIDDEN, RANK = 512, 512
"""Width of the encoder, and rank of its adapter: 2,098,178 parameters."""

CHUNK = 256 * 1024
"""Bytes of the objects in which arrays travel. Flower's default is 5 MiB, and an object
must be written within 30 seconds: docs/deploy.md."""


def measure(
    made: Federation, output: Path, method: str, rounds: int, timeout: float
) -> dict[str, Any]:
    """Run one method, and return its row."""
    settings = METHODS[method] | {
        "num-server-rounds": rounds,
        "lora-rank": RANK,
        "round-timeout": timeout,
    }
    made.start(output, settings)
    # Bytes of the link when each row appeared: the round's, but for a poll or two.
    counts, loads = [made.traffic()], []
    deadline = time.monotonic() + (rounds + 1) * (timeout + 60)
    checked = time.monotonic()
    while len(counts) < rounds + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        if len(made.rows(output)) >= len(counts):
            counts.append(made.traffic())
            loads.append(round(os.getloadavg()[0], 1))
        if time.monotonic() - checked > 20:
            checked = time.monotonic()
            if made.ended():
                break
    wait_until(made.ended, "the end of the run", timeout + 60, every=1)
    rows = made.rows(output)
    traffic = _by_client(output)
    measured = []
    for row, before, after, load in zip(rows, counts, counts[1:], loads, strict=False):
        link = [
            [b - a for a, b in zip(*pair, strict=True)]
            for pair in zip(before, after, strict=True)
        ]
        measured.append(
            {
                "round": row["round"],
                "seconds": row["seconds"],
                "replies": row["replies"],
                "failures": [f["reason"] for f in row["failures"]],
                "link_bytes": link,
                "payload_bytes": [row["payload_bytes_down"], row["payload_bytes_up"]],
                "message_bytes": [row["message_bytes_down"], row["message_bytes_up"]],
                "by_client": traffic.get(row["round"], {}),
                "load": load,
            }
        )
    last = made.flower.last_run(CONNECTION)
    network = last["network-traffic"]
    return {
        "status": last["status"],
        "superlink_bytes": [network["outbound-bytes"], network["inbound-bytes"]],
        "rounds": measured,
    }


def _by_client(output: Path) -> dict[int, dict[str, list[int]]]:
    """Return the message bytes down and up of each client by round."""
    found: dict[int, dict[str, list[int]]] = {}
    for file in output.glob("*/traffic.json"):
        saved = json.loads(file.read_text())
        for row in saved["rows"]:
            named = dict(zip(saved["columns"], row, strict=True))
            both = found.setdefault(named["round"], {}).setdefault(
                named["client"], [0, 0]
            )
            both[named["direction"] == "up"] += named["message"]
    return found


def missing(rows: Path, link_set: str, methods: list[str], chunk: int) -> list[str]:
    """Return the methods of which there is no row on these links."""
    lines = rows.read_text().splitlines() if rows.exists() else []
    done = {
        (row["links"], row["method"], row["chunk"]) for row in map(json.loads, lines)
    }
    return [method for method in methods if (link_set, method, chunk) not in done]


def add(rows: Path, row: Mapping[str, Any]) -> None:
    """Add a row, and print what it says of seconds."""
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    seconds = [round(each["seconds"], 1) for each in row["rounds"]]
    print(row["links"], row["method"], row["status"], seconds, flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", nargs="+", default=list(LINK_SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        lines = given.rows.read_text().splitlines()
        print(tables([json.loads(line) for line in lines]))
        return
    if os.environ.get("FLASC_NAMESPACE") != "own":
        os.environ["FLASC_NAMESPACE"] = "own"
        command = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    netem = has_netem()
    for link_set in given.links:
        methods = missing(given.rows, link_set, given.methods, given.chunk)
        if not methods:
            continue
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            with federation(
                base,
                link_set,
                given.devices,
                netem=netem,
                hidden=HIDDEN,
                chunk=given.chunk,
            ) as made:
                for method in methods:
                    output = base / "runs" / method
                    row = measure(made, output, method, given.rounds, given.timeout)
                    about = {
                        "links": link_set,
                        "method": method,
                        "devices": given.devices,
                        "chunk": given.chunk,
                        "netem": netem,
                    }
                    add(given.rows, about | row)


if __name__ == "__main__":
    main()
