"""Add the bytes that the SuperLink counted to the summary of a finished run.

Only ``flwr list`` can read the SuperLink's counters, not the ServerApp. They are zero
in simulation.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flasc_flwr.app.config.toml_file import read_toml
from flasc_flwr.app.reporting.run_files import read_summary
from flasc_flwr.app.reporting.run_folder import write_json
from flasc_flwr.app.reporting.summary import SHOWN, failure
from flasc_flwr.app.runs.commands import own_first


def add_wire_bytes(
    folder: Path, connection: str, run_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """Write the SuperLink's counts into the ``summary.json`` of a finished run.

    Parameters
    ----------
    folder : Path
        The run's folder.
    connection : str
        Name of the SuperLink in ``~/.flwr/config.toml``.
    run_ids : Sequence[int]
        Flower's ids of the run, whose counts are added up: a run that was resumed has
        several. Default: the one at the end of the folder's name.

    Returns
    -------
    dict[str, Any]
        The summary, with ``wire_bytes_down`` and ``wire_bytes_up``.

    Raises
    ------
    OSError
        If the summary cannot be read, or ``flwr`` cannot be started.
    ValueError
        If the run failed, or the SuperLink has no counts of it.
    """
    path = folder / "summary.json"
    summary = read_summary(folder)
    if not summary:
        raise FileNotFoundError(
            f"{str(folder)!r} has no summary.json: it is not the folder of a run that "
            "has ended"
        )
    if failure(summary) is not None:
        raise ValueError(f"{str(path)!r} is of a run that failed")
    summary = read_summary(folder, SHOWN)
    ids = run_ids or [_only_id_of(folder)]
    counts = [_counted(connection, run_id) for run_id in ids]
    for key in counts[0]:
        summary[key] = sum(count[key] for count in counts)
    write_json(path, summary)
    return summary


def _only_id_of(folder: Path) -> int:
    """Return Flower's id of a run, from its folder's name.

    Raises
    ------
    ValueError
        If it has none, or others beside it.
    """
    settings = folder / "config.toml"
    if settings.is_file() and read_toml(settings).get("resume"):
        raise ValueError(
            f"RUN_ID must be given, because {str(folder)!r} is of a run that was "
            "resumed: list all of its ids, which flwr list shows"
        )
    words = folder.resolve().name.rpartition("-")[2]
    if not (words.isascii() and words.isdigit()):
        raise ValueError(
            f"RUN_ID must be given, because the name of {str(folder)!r} has none at "
            "its end"
        )
    return int(words)


def _counted(connection: str, run_id: int) -> dict[str, int]:
    """Return a SuperLink's counts of a run, named as seen from the devices."""
    command = ["flwr", "list", connection, "--run-id", str(run_id), "--format", "json"]
    environment = {**os.environ, "PATH": own_first()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    # Flower may print messages before and after the JSON.
    start, end = done.stdout.find("{"), done.stdout.rfind("}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout[start : end + 1])
        traffic = answer["runs"][0]["network-traffic"]
    except (ValueError, LookupError):
        printed = (done.stdout + done.stderr).strip()
        raise ValueError(
            f"SuperLink {connection!r} has no counts for run {run_id}: {printed}"
        ) from None
    return {
        "wire_bytes_down": traffic["outbound-bytes"],
        "wire_bytes_up": traffic["inbound-bytes"],
    }
