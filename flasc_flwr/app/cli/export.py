"""``flasc-flwr export``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.numbers import whole


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or a folder that contains one.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Output folder. It must not exist or be empty. May be left out with "
            "--push-to-hub.",
            show_default=False,
        ),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(
            click_type=whole(0, 1_000_000_000),
            help="Export the adapter of this round instead of the last one. Rounds are "
            "saved by export-every in the run config.",
            show_default=False,
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Add the adapter to its model, and write the whole model (float32), "
            "which transformers loads without PEFT.",
        ),
    ] = False,
    push_to_hub: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Also upload the folder as a repository of this name, with a model "
            "card. The repository is made private if it does not exist.",
            show_default=False,
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository a public one.")
    ] = False,
) -> None:
    """Write a run's adapter, in PEFT's format, or its merged model to a folder.

    RUN is a run folder, or a folder that contains one. With --push-to-hub, the
    folder is uploaded as well, with your login at the hub; its card says which
    data, rounds, bytes and method the model comes from, and no local path.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        if to is None and not push_to_hub:
            raise ValueError("--to must name a folder, unless --push-to-hub is given")
        if public and not push_to_hub:
            raise ValueError("--public must only be given with --push-to-hub")
        found = the_run(run)
        source = _adapter(found, round)
        if to and to.expanduser().resolve().is_relative_to(source.resolve()):
            raise ValueError(f"--to must not be in what is exported, got {str(to)!r}")
        with _target(to) as target:
            if merged:
                from flasc_flwr.app.runs.merged_model import save_merged

                save_merged(source, target)
            else:
                shutil.copytree(source, target, dirs_exist_ok=True)
            if to is not None:
                how = "Merged" if merged else "Copied"
                typer.echo(f"{how} {source} to {target}")
            if push_to_hub:
                from flasc_flwr.app.reporting.runs import read_run
                from flasc_flwr.app.runs.model_card import write_card

                write_card(read_run(found), target, merged=merged, round=round)
                _push(target, push_to_hub, private=not public)
                typer.echo(f"Uploaded to {push_to_hub}")


@contextmanager
def _target(to: Path | None) -> Iterator[Path]:
    """Yield the new or empty folder `to`, or one that is deleted afterwards.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if to is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    target = to.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--to must be a new or empty folder, got {str(target)!r}")
    target.mkdir(parents=True, exist_ok=True)
    yield target


def _push(folder: Path, name: str, *, private: bool) -> None:
    """Upload a folder as a repository.

    Raises
    ------
    ValueError
        If the name is not one, there is no login, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    from flasc_flwr.core.printable import why

    hub = HfApi()
    try:
        made = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message="Trained with flasc-flwr",
        )
    except Exception as error:  # its clients raise many kinds
        raise ValueError(f"--push-to-hub {name!r} failed: {why(error)}") from error


def the_run(path: Path) -> Path:
    """Return `path` if it is a run folder, else the one run folder below it.

    Raises
    ------
    ValueError
        If there is none or more than one; the message lists them.
    """
    from flasc_flwr.app.reporting.runs import find_runs

    found = find_runs([path])
    if len(found) > 1:
        below = path.expanduser().absolute()
        names = ", ".join(str(folder.relative_to(below)) for folder in found)
        raise ValueError(
            f"RUN must be one run, got {str(path)!r} with {len(found)} runs: {names}"
        )
    return found[0]


def run_or_adapter(path: Path) -> Path:
    """Return a run folder as :func:`the_run`, or `path` if it is in one.

    Raises
    ------
    ValueError
        As :func:`the_run`.
    """
    from flasc_flwr.app.reporting.runs import is_run

    path = path.expanduser().absolute()
    below = path.rglob("config.toml")
    # A folder of runs may lie beside a config.toml that is not of a run.
    if is_run(path.parent) and not any(is_run(file.parent) for file in below):
        return path
    return the_run(path)


def _adapter(run: Path, round: int | None) -> Path:
    """Return the folder of a run's adapter.

    Raises
    ------
    ValueError
        If it does not exist; the message lists the adapters that do.
    """
    from flasc_flwr.app.reporting.adapters import adapter_of, available_adapters

    folder = adapter_of(run, round)
    if folder.is_dir():
        return folder
    missing = "no adapter" if round is None else f"no adapter of round {round}"
    omit = " (omit --round)" if adapter_of(run).is_dir() else ""
    raise ValueError(
        f"{str(run)!r} has {missing}; available: {available_adapters(run)}{omit}"
    )
