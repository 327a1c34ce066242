"""Central differential privacy in a run: clipping, noise, and what they have spent."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from logging import WARNING
from typing import Any

import numpy as np
from flwr.serverapp import GaussianPrivacyEvent

from flasc_flwr.core.aggregation import Aggregate, Aggregator
from flasc_flwr.core.clipping import clipped, norm_of
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.privacy import Privacy, adapted_norm, released
from flasc_flwr.flower.clients.replies import RejectedReplyError, Update
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.accounting import (
    accountant,
    cohort_of,
    release_of,
    spent,
)
from flasc_flwr.flower.wire import Order

_NOISE, _COUNT = 1, 2


def require_private(
    method: Method, *, weighting: str, oversample: float, fraction_evaluate: float
) -> None:
    """Check that a run's other settings keep what noise and clipping promise.

    Raises
    ------
    ValueError
        If one does not; it names it, and what is allowed.
    """
    aggregation = method.aggregation
    wrong = {
        f"weighting is {weighting!r}: allowed is 'uniform', as one client's weight "
        "would be another bound than the clipping norm": weighting != "uniform",
        f"aggregation is {aggregation!r}: allowed is 'zero-padded-updates', the only "
        "one that is a sum of clipped updates": aggregation != "zero-padded-updates",
        "exact-residual is True: it is made of the clients' factors, without noise": (
            method.exact_residual
        ),
        f"rank-assignment is {method.rank_assignment!r}: it is decided by the clients' "
        "losses, without noise; allowed is 'own'": method.rank_assignment != "own",
        f"oversample is {oversample!r}: allowed is 1, as who answers first is no "
        "random sample": oversample != 1,
        f"fraction-evaluate is {fraction_evaluate!r}: allowed is 0, as the clients' "
        "metrics would be told without noise": fraction_evaluate != 0,
    }
    for problem, there in wrong.items():
        if there:
            raise ValueError(f"with differential privacy, {problem}")


class Private:
    """Clips updates, adds noise to their sum, and accounts for it.

    Parameters
    ----------
    privacy : Privacy
        How much.
    known : dict[str, Any]
        What changes while the run goes on, in the run's state: the clipping norm, what
        was accounted for, and the secret seed of cohorts. Filled here where empty.

    Raises
    ------
    ImportError
        If dp-accounting is not installed.
    """

    def __init__(self, privacy: Privacy, known: dict[str, Any]) -> None:
        self.privacy = privacy
        self._known = known
        self._unclipped = 0
        self._drawn = 0
        self._cohort = 0
        self._event: GaussianPrivacyEvent | None = None
        self._accountant = accountant(privacy)
        if "accountant" in known:
            self._accountant.load_state_dict(known["accountant"])
        known.setdefault("clip_norm", privacy.clip_norm)
        known.setdefault("accountant", self._accountant.state_dict())
        known.setdefault("secret", secrets.randbits(128))
        if privacy.noise_seed is not None:
            log(
                WARNING,
                "Noise and cohorts come from dp-noise-seed: whoever knows it can take "
                "the noise off. This is an experiment, and not private",
            )
        if not privacy.noise_multiplier:
            log(WARNING, "Updates are clipped, but get no noise: this is not private")

    @property
    def clip_norm(self) -> float:
        """The clipping norm of this round."""
        return float(self._known["clip_norm"])

    @property
    def epsilon(self) -> float | None:
        """What was spent so far; None without noise."""
        if not self.privacy.noise_multiplier:
            return None
        return float(self._accountant.get_epsilon(self.privacy.reported_delta))

    def sampling(self, sampling: Sampling) -> Sampling:
        """Return how cohorts are drawn: from a seed that nobody is told."""
        seed = self.privacy.noise_seed
        # Amplification by sampling needs cohorts to be secret.
        secret = int(self._known["secret"]) if seed is None else seed
        return replace(sampling, seed=secret)

    def order(self, order: Order) -> Order:
        """Return what is asked of a client that trains."""
        if self.privacy.clip == "before":
            return replace(order, clip_norm=self.clip_norm)
        return order

    def fewest(self, at_least: int) -> int:
        """Return how many updates a step needs: an empty Poisson sample is one."""
        empty = self.privacy.sampling == "poisson" and not self._drawn
        return 0 if empty else at_least

    def open_round(self, drawn: int, fraction: float) -> None:
        """Begin a round.

        Parameters
        ----------
        drawn : int
            How many clients were drawn.
        fraction : float
            Which fraction is: what a Poisson sample is accounted by.

        Raises
        ------
        ValueError
            If the cohort is larger than the population, or the round would spend more
            than is allowed.
        """
        self._drawn = drawn
        self._cohort = cohort_of(self.privacy, drawn, fraction)
        self._unclipped = 0
        if self.privacy.noise_multiplier:
            self._event = release_of(self.privacy, self._cohort)
        if reason := self.exhausted():
            raise ValueError(reason)

    def describe(self) -> str:
        """Return the settings as a line."""
        privacy = self.privacy
        return (
            f"Privacy: noise multiplier {privacy.noise_multiplier:g}, clipping norm "
            f"{self.clip_norm:.4g} ({privacy.clip} selection), {privacy.sampling} "
            f"cohorts of {privacy.population} clients, "
            f"delta {privacy.reported_delta:.3g}"
        )

    def exhausted(self) -> str | None:
        """Return why no further round like this one may run; None if it may."""
        bound = self.privacy.max_epsilon
        if not bound or self._event is None:
            return None
        # The accountant's own ``would_exceed`` composes every release once more.
        if spent(self.privacy, self._releases() + Counter([self._event])) <= bound:
            return None
        return (
            f"epsilon is {self.epsilon:.4g}, and another round would spend more than "
            f"dp-max-epsilon = {bound:g}"
        )

    def _releases(self) -> Counter[GaussianPrivacyEvent]:
        """Return how many releases of each kind were accounted for."""
        releases: Counter[GaussianPrivacyEvent] = Counter()
        for entry in self._known["accountant"]["compositions"]:
            releases[GaussianPrivacyEvent(**entry["event"])] += entry["count"]
        return releases

    def clip(self, update: Update) -> Update:
        """Return an update within the clipping norm, whatever its client did.

        Raises
        ------
        RejectedReplyError
            If it is not finite.
        """
        try:
            self._unclipped += norm_of(update.sparse) <= self.clip_norm
            return replace(update, sparse=clipped(update.sparse, self.clip_norm))
        except ValueError as error:
            raise RejectedReplyError(str(error)) from None

    def release(
        self, aggregator: Aggregator, *, size: int, server_round: int
    ) -> tuple[Aggregate, dict[str, Any]]:
        """Return the mean with noise, and what is told of it in the history.

        Accounts for it first: what was not accounted for is never returned.

        Parameters
        ----------
        aggregator : Aggregator
            Has taken in the clipped updates.
        size : int
            N, the length of the server vector.
        server_round : int
            The round.
        """
        privacy, norm, replies = self.privacy, self.clip_norm, aggregator.count
        mean = aggregator.result().update if replies else np.zeros(size, np.float32)
        if self._event is not None:
            self._accountant.compose(self._event)
            self._known["accountant"] = self._accountant.state_dict()
        noisy = released(
            mean,
            replies=replies,
            cohort=self._cohort,
            deviation=privacy.update_multiplier * norm,
            generator=self._generator(server_round, _NOISE),
        )
        if privacy.adapts:
            self._known["clip_norm"] = adapted_norm(
                privacy,
                norm,
                unclipped=self._unclipped,
                replies=replies,
                cohort=self._cohort,
                generator=self._generator(server_round, _COUNT),
            )
        told = {
            "epsilon": self.epsilon,
            "delta": privacy.reported_delta,
            "clip_norm": norm,
        }
        return Aggregate(noisy), told

    def _generator(self, server_round: int, purpose: int) -> np.random.Generator:
        seed = self.privacy.noise_seed
        if seed is None:
            return np.random.default_rng()
        return np.random.default_rng([seed, server_round, purpose])
