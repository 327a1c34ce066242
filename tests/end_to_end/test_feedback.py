"""Error feedback between real processes, of which some are killed in between.

A device's memory is in a file, so that its reference can be compared with the server's.
"""

from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from flasc_flwr.core.feedback.stored import restore_memory
from flasc_flwr.flower.state.checkpoint_files import found, read
from tests.end_to_end.federation import CONNECTION, Federation
from tests.end_to_end.processes import history, kill, wait_until
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

TIMEOUT = 300
NODES = (0, 1)


class Devices:
    """Two devices, a server and a run with error feedback both ways."""

    def __init__(self, folder: Path) -> None:
        self.federation = Federation(folder)
        self.model = make_model(folder / "models" / "tiny")
        test = make_rows(folder / "data" / "server" / "test.csv", 16, seed=9)
        self.test = test.parent
        for node in NODES:
            data = folder / "data" / f"node-{node}" / "train.csv"
            make_rows(data, 8, seed=node)
        self.folders = {node: folder / "memory" / str(node) for node in NODES}
        self.runs = folder / "runs"
        self._started = 0

    def start_node(self, stack, node):
        """Start a SuperNode that keeps its memory in its folder; return its process."""
        self._started += 1
        return stack.enter_context(
            self.federation.node(
                node,
                name=f"node-{node}-{self._started}",
                settings=f'memory-folder="{self.folders[node]}"',
            )
        )

    def all_online(self):
        online = lambda: self.federation.online() == len(NODES)  # noqa: E731
        wait_until(online, "all nodes online")

    def run(self, **more):
        settings = {
            "method": "flasc-ef",
            "download-density": "1/16",
            "upload-density": "1/16",
            "lora-rank": 4,
            "min-nodes": 1,
            "round-timeout": TIMEOUT,
            "checkpoint-every": 1,
        }
        words = " ".join(f"{k}={v!r}" for k, v in (settings | more).items())
        self.federation.flower.run(
            *("flwr", "run", ".", CONNECTION),
            *run_config(self.model, self.test, self.runs, words),
        )

    def rows(self):
        return [row for folder in self.runs.glob("*") for row in history(folder)]

    def wait_for_rounds_of_all(self, count):
        """Wait for so many more rounds in which both devices' replies were taken."""
        before = len(self.rows())
        wait_until(
            lambda: sum(row["replies"] == 2 for row in self.rows()[before:]) >= count,
            f"{count} rounds of both nodes",
            900,
        )

    def kill_as_it_answers(self, node, process):
        """Kill a device when it has written its memory, and not sent its reply yet."""
        before = self.written(node)
        wait_until(lambda: self.written(node) != before, "a reply", 300, every=0.005)
        kill(process.pid)

    def written(self, node):
        """Return when the files of a device were written."""
        files = self.folders[node].glob("*.npz")
        return {file.name: file.stat().st_mtime_ns for file in files}

    def wait_until_missed(self):
        """Wait until Flower lets the killed device's key connect again."""
        wait_until(lambda: self.federation.online() == 1, "one node offline", 300)

    def checkpoints(self):
        """Return the files of the last two checkpoints, the older one first."""
        (folder,) = self.runs.glob("*")
        return found(folder / "checkpoints")

    def ended(self):
        run = self.federation.flower.last_run(CONNECTION)
        assert run["status"] not in ("finished:failed", "finished:stopped"), run
        return any(self.runs.glob("*/summary.json"))

    def memory(self, node):
        """Return a device's memory in the newest run."""
        files = self.folders[node].glob("*.npz")
        newest = max(files, key=lambda file: file.stat().st_mtime_ns)
        with np.load(newest) as archive:
            return restore_memory(dict(archive))

    def require_equal_references(self):
        """Compare the devices' references with the newest checkpoint's."""
        (folder,) = self.runs.glob("*")
        state = read(folder / "checkpoints").state
        (followed,) = state.fleet._streams.values()
        newest = followed.stream.reference
        for node in NODES:
            held = self.memory(node).reference
            # Evaluated at the server is what the next round sends.
            way = followed.stream.catch_up(held.version)
            assert way.start is None
            assert len(way.payloads) <= 1
            assert way.applied(held).digest == newest.digest


def first_of_all(rows):
    """Return the first row in which both devices' replies were taken."""
    return next(row for row in rows if row["replies"] == len(NODES))


def reasons(rows):
    return [failure["reason"] for row in rows for failure in row["failures"]]


def test_after_any_process_was_killed_the_run_ends_with_equal_references(tmp_path):
    devices = Devices(tmp_path)
    with ExitStack() as stack:
        with devices.federation.server() as superlink:
            victim = devices.start_node(stack, 0)
            devices.start_node(stack, 1)
            devices.all_online()
            devices.run(**{"num-server-rounds": 1000})
            devices.wait_for_rounds_of_all(3)

            devices.kill_as_it_answers(0, victim)
            (lost,) = devices.memory(0).unconfirmed[-1:]
            devices.wait_until_missed()
            with_file = len(devices.rows())
            victim = devices.start_node(stack, 0)
            devices.wait_for_rounds_of_all(2)

            kill(victim.pid)
            rmtree(devices.folders[0])
            devices.wait_until_missed()
            without = len(devices.rows())
            devices.start_node(stack, 0)
            devices.wait_for_rounds_of_all(2)

            kill(devices.federation.superexec_pid)
            kill(superlink.pid)
        rows = devices.rows()
        older, newest = devices.checkpoints()
        newest.unlink()
        stack.enter_context(devices.federation.server(register=False))
        last = read(older).round + 3
        # Each device first connects again and ends what it was doing, which may take
        # longer than a first round waits for more nodes than it needs.
        devices.run(**{"num-server-rounds": last, "resume": str(older), "min-nodes": 2})
        wait_until(devices.ended, "the end of the run", 900, every=5)
    # The reply was lost; the file had it, and it went back into the residual.
    assert rows[lost.round]["replies"] == 1
    # With its file it was sent what it had missed, without it the whole reference.
    assert not [text for text in reasons(rows[:without]) if "reference" in text]
    caught_up, whole = first_of_all(rows[with_file:]), first_of_all(rows[without:])
    assert caught_up["payload_bytes_down"] < whole["payload_bytes_down"]
    ended = devices.rows()
    assert [row["round"] for row in ended] == list(range(last + 1))
    # For Flower a resumed run is a new one: devices begin without a memory.
    resumed = ended[-3:]
    assert [row["replies"] for row in resumed] == [2, 2, 2]
    assert resumed[0]["payload_bytes_down"] > whole["payload_bytes_down"]
    assert resumed[1]["payload_bytes_down"] < caught_up["payload_bytes_down"]
    devices.require_equal_references()
