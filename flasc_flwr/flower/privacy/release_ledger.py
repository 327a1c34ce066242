"""The release ledger: every noisy sum of a run, on the disk before it is used.

A checkpoint knows what a run had released when it was written. The ledger also knows
the releases since, which a run that is killed and resumed would otherwise forget.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.serverapp import GaussianPrivacyEvent

from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.privacy import SAMPLINGS
from flasc_flwr.core.ranges import choice
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.state.checkpoint_files import sync

_CHECKSUM = "checksum"
_BEGINNING = b"{"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One line of the ledger.

    Attributes
    ----------
    event : GaussianPrivacyEvent
        What is accounted for: noise multiplier, sample size and population.
    sampling : str
        How the cohort was drawn.
    round : int, optional
        The server round; None where it is not known.
    note : str
        Why the line was written later than its release.
    """

    event: GaussianPrivacyEvent
    sampling: str
    round: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check what a file could have wrong."""
        choice(*SAMPLINGS).require("sampling", self.sampling)

    def to_line(self) -> bytes:
        """Return the line, with its checksum."""
        fields = {"round": self.round, **asdict(self.event), "sampling": self.sampling}
        if self.note:
            fields["note"] = self.note
        return as_json({**fields, _CHECKSUM: _checksum(fields)}).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Release | None:
        """Read a line; None if it is damaged."""
        try:
            fields = json.loads(line)
            if fields.pop(_CHECKSUM) != _checksum(fields):
                return None
            event = GaussianPrivacyEvent(
                noise_multiplier=fields.pop("noise_multiplier"),
                sample_size=fields.pop("sample_size"),
                population_size=fields.pop("population_size"),
            )
            return cls(event=event, **fields)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


class ReleaseLedger:
    """A file with a line for each release, to which lines are only added.

    Parameters
    ----------
    path : Path or str
        The file. Each run needs its own; a resumed run continues its file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def add(self, *releases: Release) -> None:
        """Write releases; they are on the disk when this returns."""
        created = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            # A line that was cut short must not take the next one with it.
            cut_short = b""
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                cut_short = b"" if file.read(1) == b"\n" else b"\n"
            file.write(cut_short + b"".join(r.to_line() for r in releases))
            file.flush()
            os.fsync(file.fileno())
        if created:
            sync(self.path.parent)

    def recover(self, worst: Callable[[Sequence[Release]], Release]) -> list[Release]:
        """Return all releases so far, with damaged lines replaced.

        A line is cut short if the process is killed while writing it. Whether its
        release was used cannot be read from the file, so it is never ignored. A damaged
        line with the beginnings of several is replaced by as many.

        Parameters
        ----------
        worst : Callable[[Sequence[Release]], Release]
            Returns what a damaged line is replaced by, given the intact ones.
        """
        lines = self._lines()
        read = {line: Release.of_line(line) for line in lines}
        intact = [release for line in lines if (release := read[line])]
        damaged = len(lines) - len(intact)
        if not damaged:
            return intact
        log(
            WARNING,
            "%d of %d lines of the release ledger are damaged: each is charged as a "
            "release",
            damaged,
            len(lines),
        )
        releases = []
        for line in lines:
            release = read[line]
            instead = [worst(intact)] * max(1, line.count(_BEGINNING))
            releases += [release] if release else instead
        scratch = self.path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            file.writelines(release.to_line() for release in releases)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, self.path)
        sync(self.path.parent)
        return releases

    def _lines(self) -> list[bytes]:
        try:
            return [line for line in self.path.read_bytes().split(b"\n") if line]
        except FileNotFoundError:
            return []


def _checksum(fields: dict[str, Any]) -> str:
    text = as_json(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
