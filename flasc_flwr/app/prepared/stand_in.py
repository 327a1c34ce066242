"""Runs in place of ``flwr-clientapp``: lets the keeper fork, or starts a new process.

A copy of this file is a script of that name, first in the PATH of a SuperNode that
:mod:`.keeper` has started. It imports little: it starts in 20 milliseconds.
"""

import json
import os
import shutil
import signal
import socket
import sys

NAME = "flwr-clientapp"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
INSTALLS = "--allow-runtime-dependency-installation"


def new_process() -> None:
    """Become the next ``flwr-clientapp`` in the PATH."""
    own = os.path.dirname(os.path.abspath(sys.argv[0]))
    folders = os.environ["PATH"].split(os.pathsep)
    others = os.pathsep.join(folder for folder in folders if folder != own)
    found = shutil.which(NAME, path=others)
    if found is None:
        sys.exit("flwr-clientapp is not installed")
    os.execv(found, [found, *sys.argv[1:]])


def fork() -> tuple[socket.socket, int] | None:
    """Let the keeper fork; return the connection and the fork's id, if it did."""
    request = {
        "command": [NAME, *sys.argv[1:]],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    data = json.dumps(request).encode() + b"\n"
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ["FLASC_PREPARED_SOCKET"])
        sent = socket.send_fds(connection, [data], [0, 1, 2])
        connection.sendall(data[sent:])
        return connection, int(line_of(connection))
    except (OSError, ValueError, KeyError):
        return None  # the keeper is gone, or does not fork


def line_of(connection: socket.socket) -> bytes:
    """Return a line that the keeper sends, or what there is of it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def main() -> None:
    """Run a ClientApp, and end as it does."""
    # Until it is known whom a signal is for, it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Another environment may have other versions of what the keeper has imported.
    forked = None if INSTALLS in sys.argv else fork()
    if forked is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        new_process()
        return
    connection, pid = forked
    for number in SIGNALS:
        signal.signal(number, lambda which, _: os.kill(pid, which))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    status = line_of(connection).strip()
    sys.exit(int(status) if status else 1)


if __name__ == "__main__":
    main()
