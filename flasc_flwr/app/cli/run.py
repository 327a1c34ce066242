"""``flasc-flwr run``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flasc_flwr.app.cli.common import RunConfigOption
from flasc_flwr.app.cli.numbers import CLIENTS

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
            click_type=CLIENTS,
            help=f"Number of simulated clients (default: {_CLIENTS}).",
            show_default=False,
        ),
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(
            help="Name of a connection in Flower's config, for a run on devices "
            "(default: Flower's default, a simulation on this machine).",
            show_default=False,
        ),
    ] = None,
    federation: Annotated[
        str | None,
        typer.Option(
            help="Federation at the SuperLink, as @account/name.", show_default=False
        ),
    ] = None,
    federation_config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTINGS",
            help="More settings of the simulation, such as "
            '"client-resources-num-gpus=0.25". May be repeated.',
            show_default=False,
        ),
    ] = None,
    show_log: Annotated[
        bool, typer.Option("--log", help="Print Flower's log instead of the live view.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Show the run in a browser, too; see watch.")
    ] = False,
) -> None:
    """Run the app with Flower, and watch it.

    APP is the folder of the app. Like "flwr run --stream", but checks the run
    config first, shows round, accuracy, MB and time left, and exits with 1 if
    the run failed. Ctrl-C or SIGTERM stops the run. If stdout is not a
    terminal, it prints one line per round.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from flasc_flwr.app.cli.following import follow, verdict
        from flasc_flwr.app.cli.progress import Progress
        from flasc_flwr.app.cli.superlink import FlwrRun
        from flasc_flwr.app.cli.web import page_of

        folder = app.expanduser().absolute()
        config = _config(folder, run_config)
        if not superlink and (nothing := _nothing_to_resume(config)):
            typer.echo(f"Nothing to resume in {nothing}")
            return
        if not superlink:
            config.require_partitioner()  # the clients of a simulation share the data
        options = [f"--run-config={words}" for words in run_config or []]
        if federation:
            options.append(f"--federation={federation}")
        simulation = _simulation(clients, federation_config, superlink)
        options += [f"--federation-config={words}" for words in simulation]
        runs = Path(config.output_dir).expanduser()
        progress = Progress(
            rounds=config.num_server_rounds, runs=runs, resumed=_resumed(config)
        )
        if superlink and not show_log:
            show_log = True
            typer.echo(
                "Printing Flower's log: with --superlink, the run folder in "
                f"{runs} may be on another machine."
            )
        flower = FlwrRun(folder, superlink, options)
        with ExitStack() as stack:
            if web:
                address = stack.enter_context(page_of(progress))
                typer.echo(f"Watch it at {address}")
            try:
                with _sigterm_as_ctrl_c():
                    follow(flower, progress, _title(config), show_log=show_log)
            except KeyboardInterrupt:
                _stop(flower, progress)
                raise typer.Exit(_STOPPED) from None
            reason = verdict(flower, progress)
            _say_how_it_ended(reason, flower, progress, runs, show_log=show_log)


def _say_how_it_ended(
    reason: str | None,
    flower: FlwrRun,
    progress: Progress,
    runs: Path,
    *,
    show_log: bool,
) -> None:
    """Print how a run ended, and exit with 1 if it failed."""
    from flasc_flwr.app.cli.common import fail, printable
    from flasc_flwr.app.reporting.run_files import read_summary

    if reason is None and progress.folder:
        for warning in read_summary(progress.folder).get("warnings", ()):
            typer.echo(f"Warning: {printable(warning)}", err=True)
        typer.echo(f"Done: {progress.folder}")
    elif reason is None:
        typer.echo(
            f"Flower reports run {flower.run_id} as completed. How it ended is in its "
            f"folder in {runs}, on the machine of the ServerApp."
        )
    elif progress.folder:
        fail(f"the run failed: {reason} (see {progress.folder})")
    else:
        for line in () if show_log else progress.log:
            typer.echo(line, err=True)
        fail(f"the run failed: {reason}")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Stop the run too if this process is terminated, as job schedulers do."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _config(app: Path, overrides: list[str] | None) -> RunConfig:
    """Return the app's run config with the overrides, checked."""
    from flasc_flwr.app.cli.common import parsed
    from flasc_flwr.app.config import RunConfig
    from flasc_flwr.app.config.toml_file import read_app

    declared = read_app(app)
    return RunConfig.parse({**declared.get("config", {}), **parsed(overrides)})


def _simulation(
    clients: int | None, given: list[str] | None, superlink: str | None
) -> list[str]:
    """Return the settings of the simulation; a SuperLink with devices needs none."""
    from flasc_flwr.app.cli.words import require_all_read

    settings = []
    if superlink is None:
        settings.append(
            f"num-supernodes={clients or _CLIENTS} client-resources-num-cpus=1"
        )
    elif clients:
        settings.append(f"num-supernodes={clients}")
    for text in given or []:
        require_all_read("--federation-config", text)
    return settings + (given or [])


def _title(config: RunConfig) -> str:
    from flasc_flwr.app.reporting.groups import in_effect, limits_in_words

    settings = in_effect(config)
    down, up = limits_in_words(settings)
    rank = settings["lora-rank"]
    ranked = "" if rank is None else f" rank {rank},"
    data = f" {config.model}" if config.model else ""
    return (
        f"{config.method}: {config.task}{data},{ranked} "
        f"densities {down} down and {up} up, seed {config.seed}"
    )


def _resumed(config: RunConfig) -> Path | None:
    """Return the folder of the run that is resumed, if it is on this machine."""
    from flasc_flwr.app.reporting.resuming import folder_of, resumed_path
    from flasc_flwr.flower.state.checkpoint import CheckpointError

    if not config.resume:
        return None
    try:
        return folder_of(resumed_path(config))
    except CheckpointError:
        return None


def _nothing_to_resume(config: RunConfig) -> str | None:
    """Return where and why there is nothing to resume, as far as this machine knows."""
    from flasc_flwr.app.reporting.resuming import Resumed
    from flasc_flwr.flower.state.checkpoint import CheckpointError

    if not config.resume:
        return None
    try:
        resumed = Resumed.of(config)
    except CheckpointError:
        return None  # the ServerApp may be on another machine; it will say so
    return resumed.nothing and f"{resumed.folder}: {resumed.nothing}"


def _stop(flower: FlwrRun, progress: Progress) -> None:
    """Stop the run, and print what it leaves behind."""
    typer.echo("Stopping the run ...", err=True)
    if not flower.stop():
        typer.echo(f"Flower did not stop run {flower.run_id}.", err=True)
    progress.look(flower.run_id)
    list(progress.new_rows())
    if progress.folder is None:
        typer.echo("Stopped before the run had a folder on this machine.", err=True)
        return
    typer.echo(
        f"Stopped after round {progress.round}: {progress.folder}. If it has a "
        f"checkpoint, resume with --run-config \"resume='{progress.folder}'\"",
        err=True,
    )
