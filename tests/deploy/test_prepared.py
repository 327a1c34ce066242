"""ClientApps forked from a process that has imported the libraries."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flasc_flwr.app.prepared import keeper

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks are for Linux"
)

PROGRAM = """
import os, random, sys, time
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("keeper", {path!r})
keeper = module_from_spec(spec)
spec.loader.exec_module(keeper)
started = os.getpid()

def app():
    words = sys.argv[1:]
    if words == ["draw"]:
        import numpy
        drawn = numpy.random.random(), random.random()
        print("forked" if started != os.getpid() else "not", *drawn, flush=True)
    elif words == ["where"]:
        print(os.getcwd(), os.environ["SAID"], sys.stdin.read(), flush=True)
    elif words == ["wait"]:
        print("waiting", flush=True)
        time.sleep(60)
    elif words == ["raise"]:
        raise ValueError("wrong")
    elif words[:1] == ["status"]:
        sys.exit(int(words[1]))

sys.exit(keeper.main(app))
"""

REAL = '#!/bin/sh\necho "a new process: $*"\nexit 7\n'
"""What stands for Flower's own flwr-clientapp."""


@pytest.fixture
def folder(tmp_path):
    """Return a folder whose modules can be imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    return folder


@pytest.fixture
def prepared(tmp_path, folder):
    """Run a shell script in place of a SuperNode; return what it prints."""
    real = tmp_path / "bin" / "flwr-clientapp"
    real.parent.mkdir()
    real.write_text(REAL)
    real.chmod(0o755)
    program = PROGRAM.format(path=keeper.__file__)
    environment = os.environ | {
        "PATH": f"{real.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }

    def run(script: str, libraries: str = "numpy") -> subprocess.CompletedProcess:
        words = [sys.executable, "-c", program, libraries, "sh", "-c", script]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_each_message_has_a_process_with_its_own_random_numbers(prepared, folder):
    (folder / "torch.py").write_text("def seed():\n    print('seeded', flush=True)\n")
    done = prepared(
        "flwr-clientapp draw; flwr-clientapp draw; exit 3", libraries="numpy,torch"
    )
    seeded, one, again, other = (line.split() for line in done.stdout.splitlines())
    assert seeded == again == ["seeded"]
    assert (one[0], other[0]) == ("forked", "forked")
    # numpy's generator would be the same in both: so would the noise of privacy.
    assert one[1] != other[1] and one[2] != other[2]
    assert done.returncode == 3


def test_streams_folder_environment_and_status_are_those_of_the_caller(
    prepared, tmp_path
):
    done = prepared(
        f"cd {tmp_path}; echo input | SAID=yes flwr-clientapp where; "
        "flwr-clientapp status 5; echo $?; flwr-clientapp raise; echo $?"
    )
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines == [f"{tmp_path} yes input", "5", "1"]
    assert "ValueError: wrong" in done.stderr


def test_a_signal_to_the_caller_reaches_the_fork(prepared, tmp_path):
    done = prepared(
        f"cd {tmp_path}; flwr-clientapp wait > said & pid=$!; "
        "until grep waiting said; do sleep 0.05; done; "
        "kill -TERM $pid; wait $pid; echo $?"
    )
    assert done.stdout.split() == ["waiting", str(128 + signal.SIGTERM)]


def test_an_unknown_library_is_skipped(prepared):
    done = prepared("flwr-clientapp status 0", libraries="no_such_library,numpy")
    assert done.returncode == 0
    assert "Not prepared: no_such_library (ModuleNotFoundError)" in done.stderr


def test_without_the_keeper_a_new_process_starts(prepared):
    done = prepared(
        "FLASC_PREPARED_SOCKET=/nowhere flwr-clientapp --token x; echo $?; "
        "flwr-clientapp --token y --allow-runtime-dependency-installation"
    )
    assert done.stdout.splitlines() == [
        "a new process: --token x",
        "7",
        "a new process: --token y --allow-runtime-dependency-installation",
    ]


def test_a_library_that_starts_threads_gets_new_processes(prepared, folder):
    (folder / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n"
    )
    done = prepared("flwr-clientapp draw", libraries="threaded")
    assert done.stdout == "a new process: draw\n"


def test_the_supernode_ends_with_its_keeper(prepared, tmp_path):
    """Also where that is killed: it can do nothing then."""
    program = PROGRAM.format(path=keeper.__file__)
    script = "flwr-clientapp wait & exec sleep 60"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "", "sh", "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the SuperNode, its ClientApp, and the fork for that
    process.kill()
    process.wait(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=10)
    running = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    for process in running:
        process.kill()
    assert not running


def test_forks_and_files_end_with_the_supernode(prepared, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    program = PROGRAM.format(path=keeper.__file__)
    script = "flwr-clientapp wait"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "", "sh", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=20)
    deadline = time.monotonic() + 20
    while list(Path(tmp_path).glob("flasc-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
    assert not list(Path(tmp_path).glob("flasc-*"))
