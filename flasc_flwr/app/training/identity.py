"""What a model starts from: a few numbers that devices compare with the server's."""

from __future__ import annotations

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import Model, starts_of
from flasc_flwr.app.training.tuners.build import tuner_of
from flasc_flwr.app.training.tuners.frozen import alike, sketch


def needs_identity(config: RunConfig) -> bool:
    """Return whether tensors travel as differences to seeded initial values."""
    return bool(config.peft_config) or config.roles.head is not None


def identity_of(model: Model, config: RunConfig) -> list[float]:
    """Return numbers that are equal, up to rounding, where a model was built alike.

    Empty where nothing depends on that. The first is a hash of the PEFT config, 0
    without one.
    """
    if not needs_identity(config):
        return []
    tuner = tuner_of(model)
    own = tuner.identity if tuner else [0.0]
    return [*own, *sketch(starts_of(model))]


def require_alike(model: Model, config: RunConfig, sent: object) -> None:
    """Check that this device's model starts from what the server's does.

    Raises
    ------
    ValueError
        If what it does not train, or its initial values, differ by more than rounding.
    """
    if not _alike(identity_of(model, config), sent):
        what = "peft-config" if config.peft_config else "head-density"
        raise ValueError(
            f"{what} needs the same initial values and frozen state as at the server, "
            "got others: the versions of PEFT or torch, or the models, differ"
        )


def identity_in(saved: object, ours: list[float]) -> list[float]:
    """Return the identity that a checkpoint has, where it is ours up to rounding.

    Sums differ in their last digits between machines and numbers of threads.
    """
    return list(saved) if isinstance(saved, list) and _alike(ours, saved) else ours


def _alike(ours: list[float], given: object) -> bool:
    """Compare a hash, and sketches of 4 numbers each."""
    numbers = given if isinstance(given, list) else []
    floats = [float(each) for each in numbers if isinstance(each, int | float)]
    if len(floats) != len(ours) or floats[:1] != ours[:1]:
        return False
    parts = zip(*[iter(ours[1:])] * 4, strict=True)
    theirs = zip(*[iter(floats[1:])] * 4, strict=True)
    pairs = zip(parts, theirs, strict=True)
    return all(alike(list(one), list(other)) for one, other in pairs)
