"""A SuperLink, a SuperExec and a SuperNode for each device, with TLS and keys."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from shaped.network import Device, addresses, network
from shaped.sets import LINK_SETS
from tests.end_to_end.processes import (
    ROOT,
    Flower,
    free_port,
    history,
    wait_for_health,
    wait_until,
)

CONNECTION = "devices"
ROWS = 8
"""Training rows of a device: one step."""


class Federation:
    """A server in this namespace and devices in theirs, until it is closed.

    Attributes
    ----------
    flower : Flower
        Flower's commands, and the processes' logs.
    devices : list[Device]
        The devices' links.
    """

    def __init__(
        self, base: Path, devices: Sequence[Device], *, hidden: int, chunk: int
    ) -> None:
        # torch takes seconds to import, and only this needs it.
        from tests.end_to_end.tiny import make_model, make_rows

        self.base = base
        self.devices = list(devices)
        self.flower = Flower(base / "flwr")
        self.flower.env |= {
            "HF_HOME": str(base / "cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(chunk),
        }
        self.keys = base / "keys"
        script = ROOT / "deploy" / "make-keys.sh"
        names = addresses(len(devices))
        command = [script, self.keys, str(len(devices)), *names]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.model = make_model(base / "model", hidden=hidden)
        make_rows(base / "server" / "test.csv", 16, seed=9)
        self.data = [
            make_rows(base / f"node-{number}" / "train.csv", ROWS, seed=number)
            for number in range(len(devices))
        ]

    @contextmanager
    def server(self, *options: str, register: bool = True) -> Iterator[int]:
        """Run SuperLink and SuperExec; yield the SuperLink's process id."""
        ca, port = str(self.keys / "ca.crt"), str(self.flower.port)
        secret = ("--superexec-auth-secret-file", str(self.keys / "superexec.secret"))
        (self.flower.home / "config.toml").write_text(
            f"[superlink]\ndefault = '{CONNECTION}'\n[superlink.{CONNECTION}]\n"
            f"address = '127.0.0.1:{port}'\nroot-certificates = '{ca}'\n"
        )
        command = [
            *("flower-superlink", "--host", "0.0.0.0", "--port", port),
            *("--enable-supernode-auth", "--ssl-ca-certfile", ca),
            *("--ssl-certfile", str(self.keys / "superlink.crt")),
            *("--ssl-keyfile", str(self.keys / "superlink.key")),
            *("--isolation", "process", *secret, *options),
            "--disable-runtime-dependency-installation",
        ]
        with self.flower.started("superlink", *command) as superlink:
            wait_for_health(self.flower.port, ca=Path(ca))
            for number in range(len(self.devices) if register else 0):
                key = str(self.keys / f"node-{number}.pub")
                self.flower.run("flwr", "supernode", "register", key, CONNECTION)
            address = ("--runtime-api-address", f"127.0.0.1:{port}")
            command = ["flower-superexec", *address, "--root-certificates", ca, *secret]
            with self.flower.started("superexec", *command):
                yield superlink.pid

    @contextmanager
    def node(self, number: int, settings: str = "", name: str = "") -> Iterator[int]:
        """Run a device's SuperNode; yield its process id."""
        device = self.devices[number]
        command = device.command(
            *("flower-supernode", "--superlink", f"{device.server}:{self.flower.port}"),
            *("--root-certificates", str(self.keys / "ca.crt")),
            *("--auth-supernode-private-key", str(self.keys / f"node-{number}")),
            *("--port", str(free_port())),
            "--node-config",
            f'partition-id={number} data-path="{self.data[number]}" {settings}',
        )
        with self.flower.started(name or f"node-{number}", *command) as process:
            yield process.pid

    def online(self) -> int:
        """Return how many devices are online."""
        command = ("flwr", "supernode", "list", CONNECTION, "--format", "json")
        text = self.flower.run(*command)
        nodes = json.loads(text[text.index("{") :])["nodes"]
        return sum(node["status"] == "online" for node in nodes)

    def start(self, output: Path, settings: Mapping[str, Any]) -> None:
        """Start a run."""
        given = {
            "task": "text-classification",
            "model": str(self.model),
            "dataset": str(self.base / "server"),
            "classes": 2,
            "head": "mean",
            "output-dir": str(output),
            "fraction-train": 1.0,
            "min-nodes": len(self.devices),
            "local-epochs": 1,
            "batch-size": ROWS,
            "max-length": 16,
            "client-learning-rate": 0.01,
            "device": "cpu",
        } | dict(settings)
        words = (f"{key}={_toml(value)}" for key, value in given.items())
        config = ("--run-config", " ".join(words))
        self.flower.run("flwr", "run", ".", CONNECTION, *config)

    def traffic(self) -> list[tuple[int, int]]:
        """Return the bytes down and up of each device's link so far."""
        return [device.traffic() for device in self.devices]

    def rows(self, output: Path) -> list[dict[str, Any]]:
        """Return the finished rounds of the run whose folder is in `output`."""
        return [row for folder in output.glob("*") for row in history(folder)]

    def ended(self) -> bool:
        """Return whether the newest run has ended."""
        return str(self.flower.last_run(CONNECTION)["status"]).startswith("finished")


@contextmanager
def federation(
    base: Path, link_set: str, count: int, *, netem: bool, hidden: int, chunk: int
) -> Iterator[Federation]:
    """Run a server and `count` devices on the links of a set."""
    links = LINK_SETS[link_set](count)
    with network(links, netem=netem) as devices, ExitStack() as stack:
        made = Federation(base, devices, hidden=hidden, chunk=chunk)
        stack.enter_context(made.server())
        for number in range(count):
            stack.enter_context(made.node(number))
        wait_until(lambda: made.online() == count, "all devices online", every=1)
        yield made


def _toml(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
