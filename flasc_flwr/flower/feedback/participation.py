"""How often devices must take part for error feedback to pay."""

from __future__ import annotations

from logging import WARNING

from flasc_flwr.flower.compat import log

PAYS_FROM = 1 / 3
"""Fraction of the devices that trains in a round from which on error feedback was
measured to pay (docs/error-feedback.md)."""


def warn_if_seldom(fraction_train: float) -> None:
    """Warn at the start of a run whose devices take part too seldom."""
    if fraction_train < PAYS_FROM:
        log(
            WARNING,
            "Error feedback pays where devices take part often: fraction-train should "
            "be >= %.2f, got %.3g (docs/error-feedback.md)",
            PAYS_FROM,
            fraction_train,
        )
