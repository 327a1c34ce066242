"""A process that has imported the libraries, and forks for each message.

A SuperNode starts ``flwr-clientapp`` for each message. This program starts a SuperNode
with a ``flwr-clientapp`` of its own first in its PATH, :mod:`.stand_in`, which passes
its command line, environment, working directory and streams on to this process. The
process forks; the fork calls Flower's ``flwr-clientapp`` as its new process would, with
torch and the others imported already. So each message still has a process of its own,
with the app's code imported in it, and Flower's part is untouched. Where anything here
fails, the stand-in starts a new process, as Flower does.

It is run by its path, because a fork that had ``flasc_flwr`` imported would not import
the run's. It has one thread and computes nothing: others would not survive a fork.

Usage: keeper.py LIBRARIES COMMAND..., with LIBRARIES separated by commas.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

NAME = "flwr-clientapp"
SOCKET = "FLASC_PREPARED_SOCKET"
_STREAMS = 3
_MOST = 1 << 20
"""Bytes of a request: a command line and an environment."""

_PATIENCE = 5.0
"""Seconds in which forks may end when the SuperNode has."""

_DEATH_OF_THE_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux: the signal that a process gets when its parent ends.
It outlasts ``exec``."""

_IMPORTING = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Environment of the imports: looking for a GPU must not start CUDA before a fork."""


def main(target: Callable[[], Any] | None = None) -> int:
    """Run a command with prepared ClientApps, and return its exit status.

    Parameters
    ----------
    target : Callable, optional
        What forks call (default: Flower's ``flwr-clientapp``).
    """
    libraries, command = sys.argv[1].split(","), sys.argv[2:]
    folder = tempfile.mkdtemp(prefix="flasc-")
    keeper = None
    try:
        address = str(Path(folder) / "socket")
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen()
        process = subprocess.Popen(
            command, env=_environment(folder, address), preexec_fn=_ends_with_this()
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda which, _: process.send_signal(which))
        run = target or _flower()
        added = _load([name for name in libraries if name])
        keeper = Keeper(server, process.pid, run, added)
        return keeper.serve()
    finally:
        if keeper is None or not keeper.in_fork:
            shutil.rmtree(folder, ignore_errors=True)


def _ends_with_this() -> Callable[[], None]:
    """Return what a child calls first, to end with this process if it is killed.

    The SuperNode would go on alone otherwise, and the next start of its service would
    be a second one with the same key.
    """
    keeper, libc = os.getpid(), ctypes.CDLL(None)

    def begin() -> None:
        libc.prctl(_DEATH_OF_THE_PARENT, int(signal.SIGTERM))
        if os.getppid() != keeper:  # it has ended before the call
            os._exit(1)

    return begin


def _environment(folder: str, address: str) -> dict[str, str]:
    """Return the command's environment, where the stand-in is the first of its name."""
    code = Path(folder) / "stand_in.py"
    shutil.copyfile(Path(__file__).with_name("stand_in.py"), code)
    script = Path(folder) / NAME
    words = shlex.join([sys.executable, "-IS", str(code)])
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o700)
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path, SOCKET: address}


def _flower() -> Callable[[], Any]:
    """Return what Flower's ``flwr-clientapp`` calls."""
    (entry,) = entry_points(group="console_scripts", name=NAME)
    function: Callable[[], Any] = entry.load()
    return function


def _load(libraries: list[str]) -> dict[str, str]:
    """Import libraries that are installed; return what they add to the environment.

    bitsandbytes is left out, which PEFT imports: it would look for a GPU.
    """
    before = os.environ | _IMPORTING
    os.environ.update(_IMPORTING)
    modules: dict[str, Any] = sys.modules
    modules["bitsandbytes"] = None
    for name in libraries:
        try:
            importlib.import_module(name)
        except Exception as error:  # an optional library, whatever is wrong with it
            print(f"Not prepared: {name} ({type(error).__name__})", file=sys.stderr)
    del modules["bitsandbytes"]
    for module in ("peft.import_utils", "transformers.utils.import_utils"):
        for name, function in vars(sys.modules.get(module, object)).items():
            if "bnb" in name or "bitsandbytes" in name:
                getattr(function, "cache_clear", lambda: None)()
    # Forks share what no collection of garbage touches.
    gc.collect()
    gc.freeze()
    return {name: text for name, text in os.environ.items() if name not in before}


class Keeper:
    """Forks for each request, until a process ends.

    Parameters
    ----------
    server : socket.socket
        Where stand-ins connect.
    until : int
        Id of the child process with whose end this ends.
    target : Callable
        What a fork calls.
    added : Mapping[str, str]
        Variables of the environment that the libraries have set.
    """

    def __init__(
        self,
        server: socket.socket,
        until: int,
        target: Callable[[], Any],
        added: Mapping[str, str],
    ) -> None:
        self.in_fork = False
        self._server = server
        self._until = until
        self._target = target
        self._added = added
        self._waiting: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> int:
        """Answer requests; return the exit status of the process or of the fork."""
        woken, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        while True:
            status = self._reap()
            if status is not None:
                self._end()
                return status
            for key, _ in self._selector.select(timeout=1.0):
                if key.fileobj is self._server:
                    if self._answer():
                        return self._call()
                elif key.fileobj is woken:
                    woken.recv(4096)
                else:
                    self._left(key.data)

    def _reap(self) -> int | None:
        """Pass on how forks ended; return the status of the process, if it did."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == 0:
                return None
            code = os.waitstatus_to_exitcode(status)
            if pid == self._until:
                return code if code >= 0 else 128 - code
            if connection := self._waiting.pop(pid, None):
                self._selector.unregister(connection)
                _send(connection, code if code >= 0 else 128 - code)
                connection.close()

    def _end(self) -> None:
        """End forks that are left: Flower's end by themselves, too."""
        for pid in self._waiting:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while self._waiting and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        for pid in self._waiting:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self, pid: int) -> None:
        """End a fork whose stand-in is gone."""
        self._selector.unregister(self._waiting.pop(pid))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _answer(self) -> bool:
        """Read a request and fork; return whether this is the fork."""
        connection, _ = self._server.accept()
        connection.settimeout(5.0)
        try:
            request, streams = _receive(connection)
        except (OSError, ValueError):
            connection.close()
            return False
        if threading.active_count() > 1:
            # A library started a thread, which a fork would not have.
            connection.close()
            return False
        begin = _ends_with_this()
        with warnings.catch_warnings():
            # Python 3.12 warns of any thread; those of OpenBLAS survive a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self.in_fork = True
            begin()
            self._become(request, streams)
            return True
        for stream in streams:
            os.close(stream)
        print(f"Forked for a message (process {pid})", file=sys.stderr, flush=True)
        _send(connection, pid)
        self._waiting[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)
        return False

    def _become(self, request: dict[str, Any], streams: list[int]) -> None:
        """Make a fork what a new process would be."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        self._server.close()
        for connection in self._waiting.values():
            connection.close()
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        os.environ.clear()
        os.environ.update({**self._added, **request["environment"]})
        os.chdir(request["folder"])
        sys.argv = request["command"]
        # Python's own generator seeds itself after a fork, these do not: two messages
        # would draw the same noise.
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()
        if torch := sys.modules.get("torch"):
            torch.seed()

    def _call(self) -> int:
        self._target()
        return 0


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a stand-in's request and its three streams."""
    data, streams, _, _ = socket.recv_fds(connection, _MOST, _STREAMS)
    while not data.endswith(b"\n"):
        more = connection.recv(_MOST)
        if not more or len(data) > _MOST:
            raise ValueError("the request is not complete")
        data += more
    request = json.loads(data)
    if len(streams) != _STREAMS:
        raise ValueError("the request has no streams")
    return request, streams


def _send(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # the stand-in is gone
        connection.sendall(b"%d\n" % number)


if __name__ == "__main__":
    # Imports look in the folder of the program first: it has nothing for them.
    sys.path.pop(0)
    shutil.which(NAME) or sys.exit(f"{NAME} is not installed")
    sys.exit(main())
