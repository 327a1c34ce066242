"""Central differential privacy in a run: clipping, noise, and what they have spent."""

from __future__ import annotations

import secrets
from dataclasses import replace
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.serverapp import GaussianPrivacyEvent

from flasc_flwr.core.aggregation import Aggregate, Aggregator
from flasc_flwr.core.aggregation.average import Average
from flasc_flwr.core.clipping import clip_to_norm, l2_norm
from flasc_flwr.core.noise import adapted_norm, released
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.clients.guard import RejectedReplyError
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.accounting import cohort_of, release_of
from flasc_flwr.flower.privacy.release_ledger import ReleaseLedger
from flasc_flwr.flower.privacy.spending import Spending

_NOISE, _COUNT = 1, 2


class Private:
    """Clips updates, adds noise to their sum, and accounts for it.

    Parameters
    ----------
    privacy : Privacy
        The settings.
    known : dict[str, Any]
        What changes during the run, in the run's state: the clipping norm, what was
        accounted for, and the secret seed of cohorts. Filled here if empty.
    ledger : ReleaseLedger, optional
        Where each release is written before it is used.

    Raises
    ------
    ValueError
        If the ledger is another run's.
    ImportError
        If dp-accounting is not installed.
    """

    def __init__(
        self,
        privacy: Privacy,
        known: dict[str, Any],
        ledger: ReleaseLedger | None = None,
    ) -> None:
        self.privacy = privacy
        self._known = known
        self._remarked = False
        self._unclipped = 0
        self._round = 0
        self._cohort = 0
        self._event: GaussianPrivacyEvent | None = None
        self._spending = Spending(privacy, known, ledger)
        known.setdefault("clip_norm", privacy.clip_norm)
        # Also where a run is resumed: it may repeat rounds whose sums were released,
        # and two sums of the same cohort reveal more than is accounted for.
        known["secret"] = secrets.randbits(128)
        if privacy.noise_seed is not None:
            log(
                WARNING,
                "Noise and cohorts come from dp-noise-seed: anyone who knows it can "
                "remove the noise. This is an experiment, not a private run",
            )
        if not privacy.noise_multiplier:
            log(WARNING, "Updates are clipped but get no noise: this is not private")
        elif privacy.reported_delta >= 1 / privacy.population:
            log(
                WARNING,
                "dp-delta = %g should be below 1 / dp-population = %.3g: a run that "
                "reveals one client entirely could still satisfy it",
                privacy.reported_delta,
                1 / privacy.population,
            )

    @property
    def clip_norm(self) -> float:
        """The clipping norm of this round."""
        return float(self._known["clip_norm"])

    @property
    def epsilon(self) -> float | None:
        """Epsilon spent so far; None without noise."""
        return self._spending.epsilon

    def draw(
        self, sampling: Sampling, online: list[Participant], server_round: int
    ) -> list[Participant]:
        """Begin a round: draw its cohort, from a secret seed.

        A cohort of fixed size is as large as one of dp-population clients: what a round
        spends does not change where more are online.

        Parameters
        ----------
        sampling : Sampling
            How cohorts are drawn in a run that is not private.
        online : list[Participant]
            Who could take part, at least dp-population.
        server_round : int
            The round.

        Raises
        ------
        ValueError
            If the round would exceed dp-max-epsilon.
        """
        privacy, seed = self.privacy, self.privacy.noise_seed
        # Amplification by sampling requires secret cohorts.
        secret = int(self._known["secret"]) if seed is None else seed
        drawn = replace(sampling, seed=secret).training(online, server_round)
        self._round, self._unclipped = server_round, 0
        self._cohort = cohort_of(
            privacy, sampling.fraction_train, at_least=sampling.min_train_nodes
        )
        if privacy.sampling == "fixed":
            # The first of a random order are a random sample, too.
            drawn = drawn[: self._cohort]
        self._remark(len(online))
        if privacy.noise_multiplier:
            self._event = release_of(privacy, self._cohort)
        if reason := self.exhausted():
            raise ValueError(reason)
        return drawn

    @property
    def client_clip_norm(self) -> float | None:
        """The norm that clients clip to before they select; None if they do not."""
        return self.clip_norm if self.privacy.clip == "before" else None

    def fewest(self, at_least: int) -> int:
        """Return how many updates a step needs: none, unless the run asks for several.

        An empty cohort makes a step. One whose clients all fail would otherwise make
        none, and so reveal, without noise, that they failed.
        """
        privacy = self.privacy
        if privacy.sampling == "poisson" or (privacy.noise_multiplier and at_least < 2):
            return 0
        return at_least

    def describe(self) -> str:
        """Return the settings as a line."""
        privacy = self.privacy
        return (
            f"Privacy: noise multiplier {privacy.noise_multiplier:g}, clipping norm "
            f"{self.clip_norm:.4g} ({privacy.clip} selection), {privacy.sampling} "
            f"cohorts of {privacy.population} clients, "
            f"delta {privacy.reported_delta:.3g}"
        )

    def _remark(self, online: int) -> None:
        """Log once what it means that more clients are online than dp-population."""
        population = self.privacy.population
        if online <= population or self._remarked:
            return
        self._remarked = True
        if self.privacy.sampling == "fixed":
            log(
                INFO,
                "%d clients are online, more than dp-population = %d: each round still "
                "draws %d of them, as epsilon counts",
                online,
                population,
                self._cohort,
            )
            return
        log(
            WARNING,
            "%d clients are online, more than dp-population = %d: samples are larger, "
            "and the sum of the updates is still divided by %d, so steps are %.2g "
            "times as large. Epsilon holds. Raise dp-population in a new run",
            online,
            population,
            self._cohort,
            online / population,
        )

    def exhausted(self) -> str | None:
        """Return why another round like this one may not run; None if it may."""
        return self._spending.exhausted(self._event) if self._event else None

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

    def release(self, aggregator: Aggregator) -> tuple[Aggregate, dict[str, Any]]:
        """Return the mean with noise, and what the history reports of it.

        The release is accounted for, and in the ledger, before it is returned.

        Parameters
        ----------
        aggregator : Aggregator
            Has taken in the clipped updates.

        Raises
        ------
        TypeError
            If it does not sum them.
        """
        if not isinstance(aggregator, Average):
            raise TypeError(
                f"noise needs a sum of clipped updates, got {type(aggregator).__name__}"
            )
        privacy, norm, replies = self.privacy, self.clip_norm, aggregator.count
        if self._event is not None:
            self._spending.charge(self._event, self._round)
        noisy = released(
            aggregator.total(),
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
