"""``flasc-flwr supernode``."""

from __future__ import annotations

from typing import Annotated

import typer

LIBRARIES = ("torch", "transformers.modeling_utils", "peft", "datasets")
"""What a ClientApp of flasc-flwr imports that takes long."""

SMALL_OBJECTS = {"FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(256 * 1024)}
"""Flower sends arrays in objects of 5 MiB, and each must be written within 30 seconds:
docs/deploy.md, "How large a message may be"."""


def supernode(
    context: typer.Context,
    libraries: Annotated[
        str,
        typer.Option(
            "--libraries",
            metavar="NAMES",
            help="Modules to import in advance, separated by commas.",
        ),
    ] = ",".join(LIBRARIES),
) -> None:
    """Start a device's SuperNode with ClientApps that have imported the libraries.

    All other options are those of flower-supernode, which this starts. A process that
    has imported torch and the other libraries stays beside it and forks for each
    message, instead of a new process that imports them again. Uploads travel in pieces
    that also slow links carry. Linux only.
    """
    import os
    import sys
    from importlib.util import find_spec

    from flasc_flwr.app.cli.common import fail
    from flasc_flwr.app.runs.commands import own_first

    if not sys.platform.startswith("linux"):
        fail("supernode needs Linux: start flower-supernode instead")
    spec = find_spec("flasc_flwr.app.prepared.keeper")
    if spec is None or spec.origin is None:
        fail("supernode needs flasc-flwr to be installed in a folder")
    # By its path: a fork that had imported this package would not import the run's.
    words = [sys.executable, spec.origin, libraries, "flower-supernode", *context.args]
    os.environ |= SMALL_OBJECTS | os.environ  # what is set already counts
    os.environ["PATH"] = own_first()
    os.execv(sys.executable, words)
