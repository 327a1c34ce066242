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
from flasc_flwr.core.clipping import clip_to_norm, l2_norm
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.privacy import Privacy, adapted_norm, released
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.clients.guard import RejectedReplyError
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.accounting import (
    accountant,
    cohort_of,
    release_of,
    spent,
)

_NOISE, _COUNT = 1, 2


def require_private(
    method: Method, *, weighting: str, oversample: float, fraction_evaluate: float
) -> None:
    """Check that a run's other settings keep the guarantee of noise and clipping.

    Raises
    ------
    ValueError
        If one does not; the message names it and what is allowed.
    """
    aggregation = method.aggregation
    wrong = {
        "weighting must be 'uniform', because a client's weight would change the bound "
        f"on its update, got {weighting!r}": weighting != "uniform",
        "aggregation must be 'zero-padded-updates', the only rule that sums clipped "
        f"updates, got {aggregation!r}": aggregation != "zero-padded-updates",
        "exact-residual must be False, because it is computed from the clients' "
        "factors without noise, got True": method.exact_residual,
        "rank-assignment must be 'own', because the clients' losses would decide "
        f"without noise, got {method.rank_assignment!r}": (
            method.rank_assignment != "own"
        ),
        "oversample must be 1, because the first replies are not a random sample, got "
        f"{oversample!r}": oversample != 1,
        "fraction-evaluate must be 0, because clients' metrics would be reported "
        f"without noise, got {fraction_evaluate!r}": fraction_evaluate != 0,
    }
    for problem, there in wrong.items():
        if there:
            raise ValueError(f"with differential privacy, {problem}")


class Private:
    """Clips updates, adds noise to their sum, and accounts for it.

    Parameters
    ----------
    privacy : Privacy
        The settings.
    known : dict[str, Any]
        What changes during the run, in the run's state: the clipping norm, what was
        accounted for, and the secret seed of cohorts. Filled here if empty.

    Raises
    ------
    ImportError
        If dp-accounting is not installed.
    """

    def __init__(self, privacy: Privacy, known: dict[str, Any]) -> None:
        self.privacy = privacy
        self._known = known
        self._unclipped = 0
        self._round = 0
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
                "Noise and cohorts come from dp-noise-seed: anyone who knows it can "
                "remove the noise. This is an experiment, not a private run",
            )
        if not privacy.noise_multiplier:
            log(WARNING, "Updates are clipped but get no noise: this is not private")

    @property
    def clip_norm(self) -> float:
        """The clipping norm of this round."""
        return float(self._known["clip_norm"])

    @property
    def epsilon(self) -> float | None:
        """Epsilon spent so far; None without noise."""
        if not self.privacy.noise_multiplier:
            return None
        return float(self._accountant.get_epsilon(self.privacy.reported_delta))

    def sampling(self, sampling: Sampling) -> Sampling:
        """Return how cohorts are drawn: from a secret seed."""
        seed = self.privacy.noise_seed
        # Amplification by sampling requires secret cohorts.
        secret = int(self._known["secret"]) if seed is None else seed
        return replace(sampling, seed=secret)

    @property
    def client_clip_norm(self) -> float | None:
        """The norm that clients clip to before they select; None if they do not."""
        return self.clip_norm if self.privacy.clip == "before" else None

    def fewest(self, at_least: int) -> int:
        """Return how many updates a step needs: none, if a Poisson sample is empty."""
        empty = self.privacy.sampling == "poisson" and not self._drawn
        return 0 if empty else at_least

    def open_round(self, server_round: int, drawn: int, fraction: float) -> None:
        """Begin a round.

        Parameters
        ----------
        server_round : int
            The round.
        drawn : int
            Number of clients drawn.
        fraction : float
            Sampling probability: a Poisson sample is accounted by it.

        Raises
        ------
        ValueError
            If the cohort is larger than the population, or the round would exceed
            dp-max-epsilon.
        """
        self._round = server_round
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
        """Return why another round like this one may not run; None if it may."""
        bound = self.privacy.max_epsilon
        if not bound or self._event is None:
            return None
        # The accountant's own ``would_exceed`` composes every release again.
        if spent(self.privacy, self._releases() + Counter([self._event])) <= bound:
            return None
        return (
            f"epsilon is {self.epsilon:.4g}; another round would spend more than "
            f"dp-max-epsilon = {bound:g}"
        )

    def _releases(self) -> Counter[GaussianPrivacyEvent]:
        """Return the number of releases of each kind that were accounted for."""
        releases: Counter[GaussianPrivacyEvent] = Counter()
        for entry in self._known["accountant"]["compositions"]:
            releases[GaussianPrivacyEvent(**entry["event"])] += entry["count"]
        return releases

    def clip(self, update: SparseVector) -> SparseVector:
        """Return an update within the clipping norm, whatever its client did.

        Raises
        ------
        RejectedReplyError
            If it is not finite.
        """
        try:
            self._unclipped += l2_norm(update.values) <= self.clip_norm
            values = clip_to_norm(update.values, self.clip_norm)
            return replace(update, values=values)
        except ValueError as error:
            raise RejectedReplyError(str(error)) from None

    def release(
        self, aggregator: Aggregator, *, size: int
    ) -> tuple[Aggregate, dict[str, Any]]:
        """Return the mean with noise, and what the history reports of it.

        The release is accounted for before it is returned.

        Parameters
        ----------
        aggregator : Aggregator
            Has taken in the clipped updates.
        size : int
            N, the length of the server vector.
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
            generator=self._generator(_NOISE),
        )
        if privacy.adapts:
            self._known["clip_norm"] = adapted_norm(
                privacy,
                norm,
                unclipped=self._unclipped,
                replies=replies,
                cohort=self._cohort,
                generator=self._generator(_COUNT),
            )
        report = {
            "epsilon": self.epsilon,
            "delta": privacy.reported_delta,
            "clip_norm": norm,
        }
        return Aggregate(noisy), report

    def _generator(self, purpose: int) -> np.random.Generator:
        seed = self.privacy.noise_seed
        if seed is None:
            return np.random.default_rng()
        return np.random.default_rng([seed, self._round, purpose])
