"""The federation of ``deploy/compose.yaml`` as plain processes on loopback."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.compose import ROOT, command, mounts, services
from tests.end_to_end.processes import Flower, free_port, wait_for_health

CONNECTION = "devices"


def make_keys(folder: Path) -> Path:
    """Make keys for three nodes."""
    script = ROOT / "deploy" / "make-keys.sh"
    subprocess.run([script, folder, "3"], check=True, stdout=subprocess.DEVNULL)
    return folder


class Federation:
    """SuperLink, SuperExec and SuperNodes with the commands of the compose file.

    What the file mounts is under `base`: ``keys`` and ``data/node-<i>``.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.keys = make_keys(base / "keys")
        self.flower = Flower(base / "flwr")
        self.superexec_pid = 0
        self.flower.env |= {"HF_HOME": str(base / "cache")}

    @contextmanager
    def server(self, register: bool = True) -> Iterator[subprocess.Popen[bytes]]:
        """Run the SuperLink and the SuperExec, and register the nodes' keys."""
        ca, port = self.keys / "ca.crt", self.flower.port
        (self.flower.home / "config.toml").write_text(
            f"[superlink]\ndefault = '{CONNECTION}'\n[superlink.{CONNECTION}]\n"
            f"address = '127.0.0.1:{port}'\nroot-certificates = '{ca}'\n"
        )
        command = self._command("superlink")
        with self.flower.started("superlink", *command) as superlink:
            wait_for_health(port, ca=ca)
            for node in range(3 if register else 0):
                key = self.keys / f"node-{node}.pub"
                self.flower.run("flwr", "supernode", "register", str(key), CONNECTION)
            command = self._command("superexec")
            with self.flower.started("superexec", *command) as superexec:
                self.superexec_pid = superexec.pid
                yield superlink

    @contextmanager
    def node(
        self,
        number: int,
        *,
        key: Path | None = None,
        ca: Path | None = None,
        name: str = "",
        settings: str = "",
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a SuperNode, optionally with another key, CA or more settings."""
        words = self._command(f"supernode-{number}")
        words[words.index("--node-config") + 1] += f" {settings}"
        replaced = {self.keys / f"node-{number}": key, self.keys / "ca.crt": ca}
        for old, new in replaced.items():
            if new:
                words[words.index(str(old))] = str(new)
        # On one host each needs its own port.
        words += ["--port", str(free_port())]
        with self.flower.started(name or f"node-{number}", *words) as process:
            yield process

    def online(self) -> int:
        """Return how many nodes are online."""
        text = self.flower.run(
            "flwr", "supernode", "list", CONNECTION, "--format", "json"
        )
        nodes = json.loads(text[text.index("{") :])["nodes"]
        return sum(node["status"] == "online" for node in nodes)

    def log(self, name: str) -> str:
        """Return a process's output so far."""
        return (self.flower.home / f"{name}.log").read_text()

    def _command(self, name: str) -> list[str]:
        service = services()[name]
        places = {target: self._source(s) for target, s in mounts(service).items()}
        places |= {
            "superlink:8000": f"127.0.0.1:{self.flower.port}",
            "0.0.0.0": "127.0.0.1",
            "127.0.0.1:9098": f"127.0.0.1:{free_port()}",
        }
        words = []
        for word in command(service):
            for old, new in places.items():
                word = word.replace(old, new)
            words.append(str(self.flower.port) if word == "8000" else word)
        return words

    def _source(self, source: str) -> str:
        """Return the path of a mount's source, which is a path or a volume's name."""
        path = self.base / source
        if not path.suffix and not source.startswith("./keys"):
            path.mkdir(parents=True, exist_ok=True)
        return str(path.resolve())
