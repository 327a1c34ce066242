"""``flasc-flwr noise``."""

from __future__ import annotations

from typing import Annotated

import typer

from flasc_flwr.app.cli.numbers import number, whole


def noise(
    epsilon: Annotated[
        float,
        typer.Option(
            click_type=number("(0, 1e6]"),
            help="Privacy budget of the run.",
            show_default=False,
        ),
    ],
    rounds: Annotated[
        int,
        typer.Option(
            click_type=whole(1, 10**9), help="Number of rounds.", show_default=False
        ),
    ],
    cohort: Annotated[
        int,
        typer.Option(
            click_type=whole(1, 10**12),
            help="Clients in each round.",
            show_default=False,
        ),
    ],
    population: Annotated[
        int,
        typer.Option(
            click_type=whole(1, 10**12), help="Clients in total.", show_default=False
        ),
    ],
    delta: Annotated[
        float | None,
        typer.Option(
            click_type=number("(0, 1)"),
            help="Default: population ** -1.1.",
            show_default=False,
        ),
    ] = None,
    sampling: Annotated[
        str, typer.Option(help="How cohorts are drawn, as dp-sampling: fixed, poisson.")
    ] = "fixed",
) -> None:
    """Find the smallest dp-noise-multiplier that keeps a run within epsilon."""
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from math import ceil

        from flasc_flwr.core.privacy import Privacy
        from flasc_flwr.flower.privacy.accounting import noise_for

        least = noise_for(
            epsilon,
            rounds=rounds,
            cohort=cohort,
            population=population,
            delta=delta,
            sampling=sampling,
        )
        # Rounded down, it would spend more than epsilon.
        found = ceil(least * 10_000) / 10_000
        privacy = Privacy(
            clip_norm=1.0,
            noise_multiplier=found,
            population=population,
            delta=delta,
            sampling=sampling,
        )
    typer.echo(
        f"dp-noise-multiplier = {found:.4f}  # delta {privacy.reported_delta:.4g}"
    )
