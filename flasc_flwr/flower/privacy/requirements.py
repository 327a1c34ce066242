"""What a run's other settings must be, so that its differential privacy holds."""

from __future__ import annotations

from collections.abc import Mapping

from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.sampling import Sampling

_CARRIED = "because a residual carries what one round has trained into later ones"
_MEASURED = "because clients' first gradients would be sent without noise"


def require_private(
    method: Method,
    privacy: Privacy,
    *,
    weighting: str,
    sampling: Sampling,
    min_replies: int,
) -> None:
    """Check that a run's other settings keep the guarantee of noise and clipping.

    Raises
    ------
    ValueError
        If one does not; the message names it and what is allowed.
    """
    aggregation = method.aggregation
    _refuse(
        "differential privacy",
        {
            "weighting must be 'uniform', because a client's weight would change the "
            f"bound on its update, got {weighting!r}": weighting != "uniform",
            "aggregation must be 'zero-padded-updates', the only rule that sums "
            f"clipped updates, got {aggregation!r}": (
                aggregation != "zero-padded-updates"
            ),
            f"error-feedback must be 'none', {_CARRIED}, "
            f"got {method.error_feedback!r}": method.error_feedback != "none",
            f"core-basis must be 'seed' or 'weights', {_MEASURED}, got 'gradient'": (
                method.measures_bases
            ),
            "exact-residual must be False, because it is computed from the clients' "
            "factors without noise, got True": method.exact_residual,
            "rank-assignment must be 'own', because the clients' losses would decide "
            f"without noise, got {method.rank_assignment!r}": (
                method.rank_assignment != "own"
            ),
            "oversample must be 1, because the first replies are not a random sample, "
            f"got {sampling.oversample!r}": sampling.oversample != 1,
            "fraction-evaluate must be 0, because clients' metrics would be reported "
            "without noise, "
            f"got {sampling.fraction_evaluate!r}": sampling.fraction_evaluate != 0,
            "fraction-train must be above 0, because epsilon would count rounds in "
            "which nobody trains, got 0.0": sampling.fraction_train == 0,
            "dp-population must be >= the smallest cohort, min-nodes = "
            f"{sampling.min_train_nodes}, with dp-sampling 'fixed', "
            f"got {privacy.population}": (
                privacy.sampling == "fixed"
                and sampling.min_train_nodes > privacy.population
            ),
            "min-replies must be 1 with dp-sampling 'poisson', because a skipped round "
            "would reveal that its sample was small, "
            f"got {min_replies!r}": privacy.sampling == "poisson" and min_replies != 1,
        },
    )


def unaccounted(privacy: Privacy, stop: Stop, *, min_replies: int) -> list[str]:
    """Return what a run decides by its clients' replies, without noise.

    Epsilon counts the releases, and none of these decisions.

    Parameters
    ----------
    privacy : Privacy
        The settings.
    stop : Stop
        When the run ends early.
    min_replies : int
        Fewest updates of a round that makes a step.
    """
    if not privacy.noise_multiplier:
        return []
    bytes_of_updates = "the bytes of the updates, which vary with the clients' data"
    decided = {
        f"stop-megabytes ends the run by {bytes_of_updates}": stop.megabytes,
        f"stop-client-megabytes ends the run by {bytes_of_updates}": (
            stop.client_megabytes
        ),
        f"min-replies = {min_replies} skips a round by the number of valid updates": (
            min_replies > 1
        ),
    }
    return [what for what, there in decided.items() if there]


def require_local(method: Method, *, fraction_evaluate: float) -> None:
    """Check that a run's settings can be used where clients add the noise.

    Raises
    ------
    ValueError
        If one cannot; the message names it and what is allowed.
    """
    beside = "because it sends merged products beside the adapter, which clients refuse"
    unequal = "because clients of unequal ranks would add unequal noise"
    _refuse(
        "local differential privacy",
        {
            f"aggregation must not be 'stacking', {beside}, got 'stacking'": (
                method.aggregation == "stacking"
            ),
            f"core-basis must be 'seed' or 'weights', {_MEASURED}, got 'gradient'": (
                method.measures_bases
            ),
            f"exact-residual must be False, {beside}, got True": method.exact_residual,
            f"error-feedback must be 'none', {_CARRIED}, "
            f"got {method.error_feedback!r}": method.error_feedback != "none",
            f"tiers must be 'none' or 'density', {unequal}, got {method.tiers!r}": (
                method.tiers == "rank"
            ),
            f"rank-assignment must be 'own', {unequal}, "
            f"got {method.rank_assignment!r}": method.rank_assignment != "own",
            "fraction-evaluate must be 0, because clients send no metrics, "
            f"got {fraction_evaluate!r}": fraction_evaluate != 0,
        },
    )


def _refuse(what: str, wrong: Mapping[str, bool]) -> None:
    for problem, there in wrong.items():
        if there:
            raise ValueError(f"with {what}, {problem}")
