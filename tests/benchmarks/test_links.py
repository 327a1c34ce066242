"""Links between namespaces: what they carry, and the tables that come from the rows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "deploy.md"


@pytest.fixture
def shaped(monkeypatch):
    """The benchmark's modules, which it finds beside itself."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from shaped import network, sets, table, wire

    yield {"network": network, "sets": sets, "table": table, "wire": wire}
    for name in [name for name in sys.modules if name.split(".")[0] == "shaped"]:
        del sys.modules[name]


def arrivals(way, sizes, now=0.0):
    return [way.arrival(size, now) for size in sizes]


def test_packets_follow_each_other_at_the_rate_and_arrive_after_the_delay(shaped):
    wire = shaped["wire"]
    way = wire._Way(0, 1, wire.Shape(rate=1.0, delay=0.025, queue=1.0))
    # 1,250 bytes take 10 ms at 1 Mbit/s.
    assert arrivals(way, [1_250] * 3) == pytest.approx([0.035, 0.045, 0.055])
    assert way.arrival(1_250, now=7.0) == pytest.approx(7.035)


def test_what_waits_too_long_or_gets_lost_does_not_arrive(shaped):
    wire = shaped["wire"]
    way = wire._Way(0, 1, wire.Shape(rate=1.0, queue=0.02))
    # The first is sent at once, two wait for 10 and 20 ms, the others are dropped.
    came = [at is not None for at in arrivals(way, [1_250] * 6)]
    assert came == [True] * 3 + [False] * 3
    way = wire._Way(0, 1, wire.Shape(rate=1e9, loss=0.1))
    lost = arrivals(way, [1_000] * 5_000).count(None)
    assert 400 < lost < 600


TRANSFER = """
import socket, subprocess, sys, threading, time
sys.path.insert(0, {benchmarks!r})
from shaped.network import Link, network

send = "import socket; s = socket.create_connection(({server!r}, 5001)); "
with network([Link(down=8, up=1, round_trip=0.02)], netem=False) as (device,):
    listener = socket.create_server(("0.0.0.0", 5001))
    command = send.format(server=device.server) + "s.sendall(bytes(100_000))"
    process = subprocess.Popen(device.command(sys.executable, "-c", command))
    connection, _ = listener.accept()
    began, size = time.monotonic(), 0
    while data := connection.recv(65536):
        size += len(data)
    print(size, time.monotonic() - began, device.traffic()[1])
    process.wait()
"""


@pytest.mark.skipif(
    os.name != "posix"
    or os.geteuid() != 0
    or not os.access("/dev/net/tun", os.W_OK)
    or not all(map(shutil.which, ("ip", "unshare"))),
    reason="needs root, /dev/net/tun, iproute2 and unshare",
)
def test_a_transfer_takes_what_its_link_takes():
    script = TRANSFER.format(benchmarks=str(BENCHMARKS), server="{server}")
    command = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    size, seconds, link = map(float, done.stdout.split())
    assert size == 100_000
    # 0.8 s at 1 Mbit/s; how much longer depends on the machine.
    assert seconds > 0.75
    assert 100_000 < link < 150_000


def rows(name):
    file = BENCHMARKS / "results" / name
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_tables_of_the_docs_come_from_the_committed_rows(shaped):
    page, table = PAGE.read_text(), shaped["table"]
    for made in table.tables(rows("links.jsonl")).split("\n\n"):
        assert made in page
    assert table.faults(rows("link-faults.jsonl")) in page


def test_the_prediction_is_within_15_percent_where_bytes_dominate(shaped):
    table = shaped["table"]
    found = {
        (row["links"], row["method"]): row
        for row in table.complete(rows("links.jsonl"))
    }
    checked = 0
    for (links, method), row in found.items():
        if links not in table.PREDICTED:
            continue
        floor = table.measured(found["unshaped", method])
        if table.bare(row) > floor:
            guess = table.predicted(row, floor)
            assert guess == pytest.approx(table.measured(row), rel=0.15), links
            checked += 1
    assert checked >= 4


def test_at_a_quarter_megabit_rounds_are_8_times_shorter(shaped):
    table = shaped["table"]
    found = {
        (row["links"], row["method"]): row
        for row in table.complete(rows("links.jsonl"))
    }
    dense, sparse = (
        table.measured(found["8 / 0.25", method]) for method in ("dense", "flasc")
    )
    assert dense > 8 * sparse
