"""What a private run has spent: accountant, checkpoint and release ledger agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from logging import INFO, WARNING
from typing import Any

from flwr.serverapp import GaussianPrivacyEvent

from flasc_flwr.core.privacy import Privacy
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.accounting import accountant, release_of, spent
from flasc_flwr.flower.privacy.release_ledger import Release, ReleaseLedger


def spending_in(known: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's private state that says what it has spent."""
    return {key: known[key] for key in ("accountant", "spent") if key in known}


class Spending:
    """Accounts for every release of a run, also of those that a crash cut off.

    Parameters
    ----------
    privacy : Privacy
        The settings.
    known : dict[str, Any]
        Part of the run's state: ``accountant`` and ``spent``, written here. What a
        resumed run has spent so far is read from it.
    ledger : ReleaseLedger, optional
        Releases are on the disk before they are used. A resumed run is charged what
        the ledger has and `known` has not.

    Raises
    ------
    ValueError
        If the ledger is another run's.
    ImportError
        If dp-accounting is not installed.
    """

    def __init__(
        self, privacy: Privacy, known: dict[str, Any], ledger: ReleaseLedger | None
    ) -> None:
        self._privacy = privacy
        self._known = known
        self._ledger = ledger
        self._accountant = accountant(privacy)
        resumed = "accountant" in known
        if resumed:
            self._accountant.load_state_dict(known["accountant"])
        self._note()
        if privacy.noise_multiplier:
            self._settle(resumed)

    @property
    def epsilon(self) -> float | None:
        """Epsilon spent so far; None without noise."""
        if not self._privacy.noise_multiplier:
            return None
        return float(self._accountant.get_epsilon(self._privacy.reported_delta))

    def charge(self, event: GaussianPrivacyEvent, round: int) -> None:
        """Account for a release, before it is used."""
        if self._ledger:
            self._ledger.add(self._release(event, round=round))
        self._accountant.compose(event)
        self._note()

    def exhausted(self, event: GaussianPrivacyEvent) -> str | None:
        """Return why a release may not be made; None if it may."""
        bound = self._privacy.max_epsilon
        if not bound:
            return None
        # The accountant's own ``would_exceed`` composes every release again.
        if spent(self._privacy, self._releases() + Counter([event])) <= bound:
            return None
        return (
            f"epsilon is {self.epsilon:.4g}; another round would spend more than "
            f"dp-max-epsilon = {bound:g}"
        )

    def _settle(self, resumed: bool) -> None:
        """Charge what only the ledger has, and write what only the state has."""
        ledger = self._ledger
        if ledger is None:
            log(
                WARNING,
                "No release ledger: if this run is killed and resumed, epsilon does "
                "not count the rounds since its checkpoint. Pass "
                "Flasc(release_ledger=ReleaseLedger(path))",
            )
            return
        written: Counter[GaussianPrivacyEvent] = Counter()
        for release in ledger.recover(self._worst):
            self._require_ours(release)
            written[release.event] += 1
        if written and not resumed:
            raise ValueError(
                f"release ledger {str(ledger.path)!r} must be empty for a new run, got "
                f"{written.total()} releases: resume that run, or choose another file"
            )
        counted = self._releases()
        if unwritten := counted - written:
            log(
                WARNING,
                "The release ledger has %d releases fewer than the checkpoint; others "
                "may be missing from epsilon, too",
                unwritten.total(),
            )
            note = "from a checkpoint"
            ledger.add(*(self._release(e, note=note) for e in unwritten.elements()))
        uncounted = written - counted
        for event, count in uncounted.items():
            self._accountant.compose(event, count)
        self._note()
        if uncounted:
            log(
                INFO,
                "Charged %d releases after the checkpoint: epsilon is %.4g",
                uncounted.total(),
                self.epsilon,
            )

    def _worst(self, intact: Sequence[Release]) -> Release:
        """Return what a damaged line may have been: the costliest known release."""
        known = [release.event for release in intact] + list(self._releases())
        costliest = max(
            known,
            key=lambda event: (-event.noise_multiplier, event.sample_size),
            default=release_of(self._privacy, self._privacy.population),
        )
        return self._release(costliest, note="instead of a damaged line")

    def _require_ours(self, release: Release) -> None:
        ours = self._privacy.population, self._privacy.sampling
        theirs = release.event.population_size, release.sampling
        if theirs != ours:
            path = str(self._ledger.path) if self._ledger else ""
            raise ValueError(
                f"release ledger {path!r} must be of a run with dp-population and "
                f"dp-sampling {ours}, got {theirs}"
            )

    def _release(self, event: GaussianPrivacyEvent, **more: Any) -> Release:
        return Release(event=event, sampling=self._privacy.sampling, **more)

    def _releases(self) -> Counter[GaussianPrivacyEvent]:
        """Return the number of releases of each kind that were accounted for."""
        releases: Counter[GaussianPrivacyEvent] = Counter()
        for entry in self._known["accountant"]["compositions"]:
            releases[GaussianPrivacyEvent(**entry["event"])] += entry["count"]
        return releases

    def _note(self) -> None:
        """Write into the state what was spent."""
        self._known["accountant"] = self._accountant.state_dict()
        self._known["spent"] = {
            "epsilon": self.epsilon,
            "delta": self._privacy.reported_delta,
        }
