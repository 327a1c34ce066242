"""Add what the SuperLink counted to the summary of a finished run.

``python -m flasc_flwr.app.reporting.wire_bytes RUN_FOLDER CONNECTION [RUN_ID...]``. The
SuperLink's counters are open to ``flwr list`` alone, not to the ServerApp, and are zero
in simulation. The run id stands at the end of the folder's name; name all of them for a
run that was resumed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flasc_flwr.app.reporting.run_folder import write_json
from flasc_flwr.app.reporting.summary import as_table, failure


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


def main(arguments: Sequence[str]) -> int:
    """Write the counts into ``summary.json``, and print the summary.

    Parameters
    ----------
    arguments : Sequence[str]
        Run folder, connection and, if they are others than the folder's own, run ids.

    Returns
    -------
    int
        Exit status: 0 if the counts are written.
    """
    if len(arguments) < 2:
        print(f"usage: {(__doc__ or '').split('``')[1]}", file=sys.stderr)
        return 2
    folder, connection = Path(arguments[0]), arguments[1]
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
        if failure(summary) is not None:
            raise ValueError(f"{str(path)!r} is of a run that failed")
        ids = [int(word) for word in arguments[2:] or [folder.name.rpartition("-")[2]]]
        counts = [counted(connection, run_id) for run_id in ids]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for key in counts[0]:
        summary[key] = sum(count[key] for count in counts)
    write_json(path, summary)
    print(as_table(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
