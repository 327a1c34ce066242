"""Real Flower processes on loopback, started and stopped by the tests."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from ssl import create_default_context as ssl_context

import httpx
import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Flower:
    """Flower's commands with their own home, ports and processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.superlink_pid = 0
        self.env = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.port),
            "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
        home.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments: str, timeout: float = 600) -> str:
        """Run a command, and return its output."""
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextmanager
    def started(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the background; its output goes to ``<name>.log``."""
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                arguments, cwd=self.home, env=self.env, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            stop(process.pid)

    @contextmanager
    def superlink(self, *options: str) -> Iterator[str]:
        """Run a SuperLink without TLS, and yield the name of a connection to it."""
        (self.home / "config.toml").write_text(
            "[superlink]\ndefault = 'test'\n"
            f"[superlink.test]\naddress = '127.0.0.1:{self.port}'\ninsecure = true\n"
        )
        command = ("flower-superlink", "--insecure", "--host", "127.0.0.1")
        port = ("--port", str(self.port))
        with self.started("superlink", *command, *port, *options) as process:
            self.superlink_pid = process.pid
            wait_for_health(self.port)
            yield "test"

    @contextmanager
    def supernode(self, name: str, node_config: str) -> Iterator[None]:
        """Run a SuperNode without TLS."""
        command = ("flower-supernode", "--insecure")
        options = ("--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port()))
        with self.started(name, *command, *options, "--node-config", node_config):
            yield

    def stop_local_superlink(self) -> None:
        """Stop the SuperLink that ``flwr run`` started and left running."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any("flower-superlink" in w for w in words) and str(self.port) in words:
                stop(process.pid)

    def last_run(self, connection: str = "") -> dict:
        """Return what ``flwr list`` prints about the newest run."""
        arguments = [connection] if connection else []
        text = self.run("flwr", "list", *arguments, "--format", "json")
        return json.loads(text[text.index("{") :])["runs"][0]


def readme_command(heading: str) -> list[str]:
    """Return the lines of the first shell block under a heading of the README."""
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    return [line for line in block.replace("\\\n", "").splitlines() if line.strip()]


def words(command: str) -> list[str]:
    """Split a command line, leaving out its leading variables."""
    parts = shlex.split(command)
    while "=" in parts[0]:
        parts.pop(0)
    return parts


def wait_for_health(port: int, ca: Path | None = None, timeout: float = 60) -> None:
    """Wait until the SuperLink at `port` responds, with TLS if there is a CA."""
    scheme, verify = ("https", ssl_context(cafile=ca)) if ca else ("http", True)
    url = f"{scheme}://127.0.0.1:{port}/health"
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, verify=verify).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"no SuperLink on port {port} after {timeout} s")


def wait_until(
    true: Callable[[], bool], what: str, timeout: float = 120, *, every: float = 0.2
) -> None:
    """Wait until `true()`, or raise TimeoutError with `what`."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not after {timeout:.0f} s")
        time.sleep(every)


def kill(pid: int) -> None:
    """Kill a process and its children with SIGKILL, the process itself at once."""
    parent = psutil.Process(pid)
    # Until its children are found it could send something, or start others.
    parent.suspend()
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def stop(pid: int) -> None:
    """Stop a process and its children."""
    try:
        parent = psutil.Process(pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in reversed(family):
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()


def results(output_dir: Path) -> tuple[Path, dict, list[dict]]:
    """Return the only run's folder, its summary and its history."""
    (folder,) = output_dir.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    return folder, summary, history(folder)


def history(folder: Path) -> list[dict]:
    """Return the complete rows of a run's history so far."""
    file = folder / "history.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
