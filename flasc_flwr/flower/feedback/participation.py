"""How often devices must take part for error feedback to pay."""

from __future__ import annotations

from logging import WARNING

from flasc_flwr.flower.compat import log

PAYS_FROM = 1 / 3
"""Fraction of the devices that trains in a round from which on error feedback was
measured to pay (docs/error-feedback.md)."""


def is_seldom(fraction_train: float) -> bool:
    """Return whether devices take part too seldom for error feedback to pay."""
    return fraction_train < PAYS_FROM


def seldom(fraction_train: float) -> str:
    """Return what to say of a run whose devices take part too seldom."""
    return (
        "Error feedback pays where devices take part often: fraction-train should be "
        f">= {PAYS_FROM:.2f}, got {fraction_train:.3g} (docs/error-feedback.md)"
    )


def warn_if_seldom(fraction_train: float) -> None:
    """Warn at the start of a run whose devices take part too seldom."""
    if is_seldom(fraction_train):
        log(WARNING, "%s", seldom(fraction_train))
