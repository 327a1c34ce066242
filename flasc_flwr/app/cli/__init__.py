"""The command line: ``flasc-flwr``."""

from __future__ import annotations

import typer

from flasc_flwr.app.cli.check import check
from flasc_flwr.app.cli.compare import compare
from flasc_flwr.app.cli.evaluate import evaluate
from flasc_flwr.app.cli.export import export
from flasc_flwr.app.cli.network import network
from flasc_flwr.app.cli.report import report
from flasc_flwr.app.cli.run import run
from flasc_flwr.app.cli.search import search
from flasc_flwr.app.cli.sweep import sweep

app = typer.Typer(
    help="Federated LoRA with sparse messages: run it, watch it, compare it.",
    epilog="Each command has a --help of its own. All keys of the run config, with "
    "their ranges, stand in the app's pyproject.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# One line each. A command's module imports what it needs when it is called: --help is
# quick, and works where the application is not installed.
app.command()(run)
app.command()(report)
app.command()(compare)
app.command()(network)
app.command()(sweep)
app.command()(search)
app.command()(export)
app.command()(evaluate)
app.command()(check)


def main() -> None:
    """Run the command line."""
    app()
