"""What happens on slow links when something fails: a row for each fault.

Two devices on links of 8 Mbit/s down, 1 up, with TLS and keys, as in links.py; a dense
round takes some 35 seconds of upload, so that a fault meets a transfer.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/link_faults.py [--only NAME ...]

Needs root, iproute2, unshare and mount. Rows are added to --rows.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS))
from links import CHUNK, HIDDEN, METHODS, RESULTS  # noqa: E402
from shaped.federation import CONNECTION, Federation  # noqa: E402
from shaped.network import Link, network  # noqa: E402
from shaped.table import faults  # noqa: E402

from tests.end_to_end.processes import kill, wait_until  # noqa: E402

SUPERLINK = ("--database", "superlink.db")
RANK = 256
"""The adapter has 1,049,602 parameters."""

MID = 8.0
"""Seconds after the start of an upload at which a fault begins."""


class Case:
    """Two devices that train, and one fault."""

    def __init__(self, made: Federation, stack: ExitStack) -> None:
        self.made = made
        self.stack = stack
        self.output = made.base / "runs"
        self.nodes = [stack.enter_context(made.node(n)) for n in range(2)]
        self.online()

    def online(self) -> None:
        """Wait until both devices are online."""
        wait_until(lambda: self.made.online() == 2, "devices online", 180, every=1)

    def start(self, method: str = "dense", **settings: Any) -> None:
        """Start a run of three rounds."""
        given = {"num-server-rounds": 3, "lora-rank": RANK, "round-timeout": 600}
        given |= {"checkpoint-every": 1, "min-nodes": 1}
        given |= {key.replace("_", "-"): value for key, value in settings.items()}
        self.made.start(self.output, METHODS[method] | given)

    def sending(self, count: int, node: int = 0, name: str = "") -> None:
        """Wait until a device sends its reply number `count`; its name is the first."""
        log = self.made.flower.home / f"{name or f'node-{node}'}.log"
        wait_until(
            lambda: log.read_text().count("Sending: train message") >= count,
            f"reply {count}",
            400,
        )
        time.sleep(MID)

    def ended(self, timeout: float = 900) -> None:
        """Wait until the run has ended."""
        wait_until(self.made.ended, "the end of the run", timeout, every=3)

    def rows(self, count: int, timeout: float = 900) -> None:
        """Wait until the history has `count` rows."""
        wait_until(lambda: len(self.made.rows(self.output)) >= count, "rows", timeout)


def cut(seconds: float) -> Callable[[Case], None]:
    """Cut a device's link in the middle of its second upload."""

    def fault(case: Case) -> None:
        case.start()
        case.sending(3)
        case.made.devices[0].cut()
        time.sleep(seconds)
        case.made.devices[0].cut(False)
        case.ended()

    return fault


def late(case: Case) -> None:
    """Let the time-out pass while both devices are sending."""
    case.start(round_timeout=25)
    case.ended()


def silent(case: Case) -> None:
    """Stop a device before it replies; continue it after the time-out."""
    case.start("flasc", round_timeout=60, num_server_rounds=4)
    log = case.made.flower.home / "node-0.log"
    wait_until(lambda: "ROUND 2]" in log.read_text(), "round 2", 300)
    family = [psutil.Process(case.nodes[0])]
    family += family[0].children(recursive=True)
    for process in family:
        process.suspend()
    case.rows(3)
    for process in family:
        process.resume()
    case.ended()


def supernode(case: Case) -> None:
    """Kill a SuperNode in the middle of its second upload, and start it again."""
    case.start(num_server_rounds=4)
    case.sending(3)
    kill(case.nodes[0])
    time.sleep(60)  # until then, Flower refuses a second one with the same key
    case.stack.enter_context(case.made.node(0, name="again"))
    case.ended()


def serverapp(case: Case) -> None:
    """Kill the ServerApp in round 2, and resume the run."""
    case.start()
    case.sending(3)
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "flwr-serverapp" in words and str(case.made.flower.port) in words:
            process.send_signal(signal.SIGKILL)
    case.ended()
    case.start(resume="latest")
    time.sleep(5)
    case.ended()


def superlink(case: Case) -> None:
    """Kill the SuperLink in round 2, and start it again."""
    case.start()
    case.sending(3)
    kill(case.superlink)  # type: ignore[attr-defined]
    time.sleep(5)
    case.stack.enter_context(case.made.server(*SUPERLINK, register=False))
    case.ended()
    if "completed" not in case.made.flower.last_run(CONNECTION)["status"]:
        case.start(resume="latest")
        time.sleep(5)
        case.ended()


def disk(megabytes: int) -> Callable[[Case], None]:
    """Give the run's folder a small disk; with 0, make it read-only after round 1."""

    def fault(case: Case) -> None:
        case.output.mkdir()
        size = f"size={megabytes or 100}m"
        with mounted(case.output, size):
            case.start("flasc", server_optimizer="fedadam")
            if not megabytes:
                case.rows(2)
                options = ("-o", "remount,ro")
                subprocess.run(["mount", *options, str(case.output)], check=True)
            case.ended()
            case.left = sorted(  # type: ignore[attr-defined]
                f"{path.relative_to(case.output)} {path.stat().st_size}"
                for path in case.output.rglob("*")
                if path.is_file()
            )
            case.read = case.made.rows(case.output)  # type: ignore[attr-defined]

    return fault


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a disk in memory."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


FAULTS: dict[str, Callable[[Case], None]] = {
    "cut for 20 s": cut(20),
    "cut for 5 min": cut(300),
    "time-out while sending": late,
    "reply after the time-out": silent,
    "full disk": disk(30),
    "read-only folder": disk(0),
    "SuperNode killed": supernode,
    "ServerApp killed": serverapp,
    "SuperLink killed": superlink,
}


def measure(name: str, base: Path) -> dict[str, Any]:
    """Run one fault, and return its row."""
    links = [Link(down=8, up=1)] * 2
    with network(links, netem=False) as devices, ExitStack() as stack:
        made = Federation(base, devices, hidden=HIDDEN, chunk=CHUNK)
        superlink = stack.enter_context(made.server(*SUPERLINK))
        case = Case(made, stack)
        case.superlink = superlink  # type: ignore[attr-defined]
        FAULTS[name](case)
        last = made.flower.last_run(CONNECTION)
        listed = made.flower.run("flwr", "list", CONNECTION, "--format", "json")
        rows = getattr(case, "read", None) or made.rows(case.output)
        return {
            "fault": name,
            "status": last["status"],
            "runs": len(json.loads(listed[listed.index("{") :])["runs"]),
            "details": str(last.get("status-details", "")).replace(f"{base}/", "")[
                :300
            ],
            "rounds": [
                {
                    "round": row["round"],
                    "seconds": row["seconds"],
                    "replies": row["replies"],
                    "failures": [failed["reason"] for failed in row["failures"]],
                }
                for row in rows
            ],
            "left": getattr(case, "left", []),
        }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(FAULTS))
    rows = RESULTS.with_name("link-faults.jsonl")
    parser.add_argument("--rows", type=Path, default=rows)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(faults([json.loads(line) for line in given.rows.open()]))
        return
    if os.environ.get("FLASC_NAMESPACE") != "own":
        os.environ["FLASC_NAMESPACE"] = "own"
        command = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, Path(folder))
        with given.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
