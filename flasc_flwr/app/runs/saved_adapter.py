"""Evaluate what a run left behind, without Flower.

``flasc-flwr evaluate RUN_FOLDER`` builds the task from the run's
``config.toml``, loads its adapter, and prints accuracy and loss on the test split. An
adapter's own folder can be given as well, such as ``RUN_FOLDER/adapter-round-0010``,
and ``--run-config "evaluate-examples=0"`` overrides settings.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from click import ClickException

from flasc_flwr.app.config import RunConfig
from flasc_flwr.flower.compat import parse_config_args

if TYPE_CHECKING:
    from flasc_flwr.app.training.local import Outcome


def evaluate(folder: Path, overrides: list[str]) -> Outcome:
    """Evaluate an adapter, or a whole model, on its run's test split.

    Parameters
    ----------
    folder : Path
        A run's folder, or a folder in it with an adapter.
    overrides : list[str]
        What would stand after ``--run-config``.

    Raises
    ------
    ValueError
        If there is no run or no adapter, or they do not fit; it says which.
    """
    adapter = folder / "adapter" if (folder / "config.toml").is_file() else folder
    settings = adapter.parent / "config.toml"
    if not settings.is_file():
        raise ValueError(
            f"{str(folder)!r} is no run folder: there is no config.toml in it nor "
            "beside it"
        )
    if (
        not (adapter / "config.json").is_file()
        | (adapter / "adapter_config.json").is_file()
    ):
        raise ValueError(f"{str(adapter)!r} has no adapter and no model")
    config = RunConfig.parse(
        tomllib.loads(settings.read_text()) | parse_config_args(overrides)
    )

    from flasc_flwr.app.tasks import load_task
    from flasc_flwr.app.training.export import load_for_evaluation

    task = load_task(replace(config, adapter=""))
    load_for_evaluation(task.model, adapter)
    return task.evaluate(task.data.test)


def main(arguments: list[str]) -> int:
    """Print accuracy and loss, or what is wrong.

    Parameters
    ----------
    arguments : list[str]
        The command line's.

    Returns
    -------
    int
        Exit status: 0 if it was evaluated.
    """
    parser = argparse.ArgumentParser(prog="python -m flasc_flwr.app.runs.saved_adapter")
    parser.add_argument("folder", type=Path, help="a run's folder, or an adapter's")
    parser.add_argument("--run-config", action="append", default=[], metavar="SETTINGS")
    given = parser.parse_args(arguments)
    try:
        outcome = evaluate(given.folder.expanduser().absolute(), given.run_config)
    except (ValueError, OSError, ClickException) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"examples {outcome.examples}")
    print(f"accuracy {outcome.accuracy:.6f}")
    print(f"loss {outcome.loss:.6f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
