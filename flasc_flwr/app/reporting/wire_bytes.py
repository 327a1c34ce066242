"""Add the bytes that the SuperLink counted to the summary of a finished run.

Only ``flwr list`` can read the SuperLink's counters; the ServerApp cannot. In
simulation they are zero.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flasc_flwr.app.reporting.run_folder import write_json
from flasc_flwr.app.reporting.summary import failure


def counted(connection: str, run_id: int) -> dict[str, int]:
    """Return the bytes that a SuperLink counted for a run.

    Parameters
    ----------
    connection : str
        Name of the SuperLink in ``~/.flwr/config.toml``.
    run_id : int
        The run.

    Returns
    -------
    dict[str, int]
        ``wire_bytes_down`` and ``wire_bytes_up``, as seen from the devices.

    Raises
    ------
    ValueError
        If the SuperLink does not tell; with what it said.
    """
    command = ["flwr", "list", connection, "--run-id", str(run_id), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    # What Flower tells people may stand around the answer.
    start, end = done.stdout.find("{"), done.stdout.rfind("}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout[start : end + 1])
        traffic = answer["runs"][0]["network-traffic"]
    except (ValueError, LookupError):
        said = (done.stdout + done.stderr).strip()
        raise ValueError(
            f"{connection!r} tells nothing of run {run_id}: {said}"
        ) from None
    return {
        "wire_bytes_down": traffic["outbound-bytes"],
        "wire_bytes_up": traffic["inbound-bytes"],
    }


def add_wire_bytes(
    folder: Path, connection: str, run_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """Add the SuperLink's counts to a run's ``summary.json``, and return the summary.

    Parameters
    ----------
    folder : Path
        The run folder.
    connection : str
        Name of the SuperLink in ``~/.flwr/config.toml``.
    run_ids : Sequence[int]
        Flower's ids of the run, all of them if it was resumed; by default the number at
        the end of the folder's name.

    Raises
    ------
    OSError
        If there is no summary.
    ValueError
        If the run failed, or the SuperLink does not know it.
    """
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    if failure(summary) is not None:
        raise ValueError(f"{str(path)!r} is of a run that failed")
    ids = run_ids or [int(folder.absolute().name.rpartition("-")[2])]
    counts = [counted(connection, run_id) for run_id in ids]
    for key in counts[0]:
        summary[key] = sum(count[key] for count in counts)
    write_json(path, summary)
    return summary
