"""The command line: ``flasc-flwr``."""

from __future__ import annotations

import typer

from flasc_flwr.app.cli.chat import chat
from flasc_flwr.app.cli.check import check
from flasc_flwr.app.cli.compare import compare
from flasc_flwr.app.cli.evaluate import evaluate
from flasc_flwr.app.cli.export import export
from flasc_flwr.app.cli.local_run import local_run
from flasc_flwr.app.cli.network import network
from flasc_flwr.app.cli.noise import noise
from flasc_flwr.app.cli.report import report
from flasc_flwr.app.cli.run import run
from flasc_flwr.app.cli.search import search
from flasc_flwr.app.cli.supernode import supernode
from flasc_flwr.app.cli.sweep import sweep
from flasc_flwr.app.cli.watch import watch
from flasc_flwr.app.cli.wire_bytes import wire_bytes

app = typer.Typer(
    help="Federated LoRA with sparse messages: run it, watch it, compare it.",
    epilog="Run any command with --help for its options. The keys of the run config "
    "and their ranges are in docs/configuration.md and in the app's pyproject.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The commands import what they need when called: --help is quick, and works where the
# application's libraries are not installed.
app.command()(run)
app.command()(watch)
app.command()(report)
app.command()(compare)
app.command()(network)
app.command()(sweep)
app.command()(search)
app.command()(export)
app.command()(evaluate)
app.command()(chat)
app.command()(check)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)(supernode)
app.command()(noise)
app.command()(local_run)
app.command()(wire_bytes)


def main() -> None:
    """Run the command line."""
    app()
