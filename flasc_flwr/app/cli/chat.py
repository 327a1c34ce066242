"""``flasc-flwr chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.common import RunConfigOption
from flasc_flwr.app.cli.numbers import whole

_HELP = "/reset forgets the conversation, /quit ends it."


def chat(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder of task instruction, a folder that contains one, or the "
            "folder of one of its adapters.",
            show_default=False,
        ),
    ],
    system: Annotated[
        str, typer.Option(help="System message.", show_default=False)
    ] = "",
    tokens: Annotated[
        int,
        typer.Option(click_type=whole(1, 1_000_000), help="Longest answer, in tokens."),
    ] = 256,
    run_config: RunConfigOption = None,
) -> None:
    """Talk to what a run has trained, one line at a time.

    /reset forgets the conversation so far, /quit or the end of the input ends it.
    Answers are greedy: the most likely token after each other.
    """
    from flasc_flwr.app.cli.common import fail, parsed, user_errors

    with user_errors():
        overrides = parsed(run_config)

        from flasc_flwr.app.cli.export import run_or_adapter
        from flasc_flwr.app.runs.talk import Talk
        from flasc_flwr.app.tasks.instruction.chat_template import RefusedError
        from flasc_flwr.core.printable import why

        path = run_or_adapter(folder)
        talk = Talk(path, overrides, new=tokens, system=system)
    if sys.stdin.isatty():
        typer.echo(_HELP)
    while (line := _next_line()) not in (None, "/quit"):
        if line == "/reset":
            talk.forget()
        elif line.startswith("/"):
            typer.echo(_HELP)
        elif line:
            try:
                talk.ask(line, _show)
            except RefusedError as error:
                fail(f"the chat template refuses the conversation: {why(error)}")
            typer.echo()


def _next_line() -> str | None:
    """Return the next line without spaces at its ends; None at the end of the input."""
    if sys.stdin.isatty():
        typer.echo("> ", nl=False)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        line = ""
    except UnicodeDecodeError as error:
        from flasc_flwr.app.cli.common import fail

        fail(f"the input must be text in {error.encoding}, got other bytes")
    return line.strip() if line else None


def _show(piece: str) -> None:
    """Print a piece of an answer: no escape code in it reaches the terminal."""
    from flasc_flwr.core.printable import printable_lines

    typer.echo(printable_lines(piece), nl=False)
    sys.stdout.flush()
