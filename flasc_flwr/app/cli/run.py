"""``flasc-flwr run``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flasc_flwr.app.cli.common import RunConfigOption

if TYPE_CHECKING:
    from flasc_flwr.app.cli.progress import Progress
    from flasc_flwr.app.cli.superlink import FlwrRun
    from flasc_flwr.app.config import RunConfig

_CLIENTS = 20
_STOPPED = 130


def run(
    app: Annotated[Path, typer.Argument(help="Folder of the app.")] = Path("."),
    run_config: RunConfigOption = None,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"How many clients are simulated; {_CLIENTS} if nothing is said.",
            show_default=False,
        ),
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(
            help="Name of a connection in Flower's config, for a run on devices; by "
            "default Flower's own default, a simulation on this machine.",
            show_default=False,
        ),
    ] = None,
    federation: Annotated[
        str | None,
        typer.Option(
            help="Federation at the SuperLink, '@account/name'.", show_default=False
        ),
    ] = None,
    federation_config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTINGS",
            help='More of the simulation, such as "client-resources-num-gpus=0.25".',
            show_default=False,
        ),
    ] = None,
    show_log: Annotated[
        bool, typer.Option("--log", help="Print Flower's whole log, and no live view.")
    ] = False,
) -> None:
    """Run the app with Flower, and watch it.

    APP is the folder of the app. Wraps "flwr run --stream": checks the run config
    first, shows round, accuracy, MB and time left, and ends with an exit status other
    than 0 if the run failed. Ctrl-C or SIGTERM stops the run. Without a terminal it
    prints one line a round.
    """
    from flasc_flwr.app.cli.common import fail, user_errors

    with user_errors():
        from flasc_flwr.app.cli.following import follow, verdict
        from flasc_flwr.app.cli.progress import Progress
        from flasc_flwr.app.cli.superlink import FlwrRun

        folder = app.expanduser().absolute()
        config = _config(folder, run_config)
        options = [f"--run-config={words}" for words in run_config or []]
        if federation:
            options.append(f"--federation={federation}")
        simulation = _simulation(clients, federation_config, superlink)
        options += [f"--federation-config={words}" for words in simulation]
        progress = Progress(config.num_server_rounds)
        flower = FlwrRun(folder, superlink, options)
        try:
            with _sigterm_as_ctrl_c():
                follow(flower, progress, _title(config), show_log=show_log)
        except KeyboardInterrupt:
            _stop(flower, progress)
            raise typer.Exit(_STOPPED) from None
        reason = verdict(flower, progress)
    if reason:
        where = f" (see {progress.folder})" if progress.here else ""
        fail(f"the run failed: {reason}{where}")
    typer.echo(f"Done: {progress.folder}")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let whatever ends this process, such as a job scheduler, stop the run, too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _config(app: Path, overrides: list[str] | None) -> RunConfig:
    """Return the run config that the app will see, checked."""
    import tomllib

    from flasc_flwr.app.cli.common import parsed
    from flasc_flwr.app.config import RunConfig

    project = app / "pyproject.toml"
    try:
        declared = tomllib.loads(project.read_text())["tool"]["flwr"]["app"]
    except (OSError, KeyError):
        raise ValueError(
            f"{str(app)!r} is no Flower app: it needs a pyproject.toml with "
            "[tool.flwr.app]"
        ) from None
    return RunConfig.parse({**declared.get("config", {}), **parsed(overrides)})


def _simulation(
    clients: int | None, given: list[str] | None, superlink: str | None
) -> list[str]:
    """Return the settings of the simulation; none for a SuperLink with devices."""
    settings = []
    if superlink is None:
        settings.append(
            f"num-supernodes={clients or _CLIENTS} client-resources-num-cpus=1"
        )
    elif clients:
        settings.append(f"num-supernodes={clients}")
    return settings + (given or [])


def _title(config: RunConfig) -> str:
    from flasc_flwr.app.reporting.comparison import in_effect, in_words

    down, up = (in_words(density) for density in in_effect(config)["densities"])
    data = f" {config.model}" if config.model else ""
    return (
        f"{config.method}: {config.task}{data}, rank {config.lora_rank}, "
        f"densities {down} down and {up} up, seed {config.seed}"
    )


def _stop(flower: FlwrRun, progress: Progress) -> None:
    """Stop a run that the user does not want any more, and say what is left of it."""
    typer.echo("Stopping the run ...", err=True)
    if not flower.stop(progress.run_id):
        typer.echo(f"Flower did not stop run {progress.run_id}", err=True)
    if progress.folder is None:
        typer.echo("Stopped before the run had a folder.", err=True)
        return
    typer.echo(
        f"Stopped after round {progress.round}: {progress.folder}. With checkpoints "
        f"it goes on with --run-config \"resume='{progress.folder}'\"",
        err=True,
    )
