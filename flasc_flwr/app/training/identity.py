"""What a model starts from: a few numbers that devices compare with the server's."""

from __future__ import annotations

from itertools import chain
from weakref import WeakKeyDictionary

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.cores import fixed_factors
from flasc_flwr.app.training.lora import Model, starts_of
from flasc_flwr.app.training.tuners.build import tuner_of
from flasc_flwr.app.training.tuners.frozen import alike, sketch
from flasc_flwr.core.methods.method import Tunes


def needs_identity(config: RunConfig) -> bool:
    """Return whether what travels means something only beside what a device builds.

    That are differences to seeded initial values, and cores between bases of weights.
    """
    differences = bool(config.peft_config) or config.roles.head is not None
    return differences or _of_weights(config)


def _of_weights(config: RunConfig) -> bool:
    method = config.compose()
    return method.tunes == Tunes.CORES and method.core_basis == "weights"


def identity_of(model: Model, config: RunConfig) -> list[float]:
    """Return numbers that are equal, up to rounding, where a model was built alike.

    Empty where nothing depends on that. The first is a hash of the PEFT config, 0
    without one.
    """
    if not needs_identity(config):
        return []
    tuner = tuner_of(model)
    own = tuner.identity if tuner else [0.0]
    bases = _bases_of(model) if _of_weights(config) else []
    return [*own, *sketch(starts_of(model)), *bases]


def _bases_of(model: Model) -> list[float]:
    """Return sketches of B and of A, made once: large models have many."""
    if model not in _BASES:
        _BASES[model] = [*chain(*map(sketch, fixed_factors(model)))]
    return _BASES[model]


_BASES: WeakKeyDictionary[Model, list[float]] = WeakKeyDictionary()


def require_alike(model: Model, config: RunConfig, sent: object) -> None:
    """Check that this device's model starts from what the server's does.

    Raises
    ------
    ValueError
        If what it does not train, or its initial values, differ by more than rounding.
    """
    if not _alike(identity_of(model, config), sent):
        what = "peft-config" if config.peft_config else "head-density"
        what = "core-basis 'weights'" if _of_weights(config) else what
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
