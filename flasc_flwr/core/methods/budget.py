"""A budget: what one client may use of the network and of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import floor
from typing import Any

from flasc_flwr.core.methods.upload_pace import UploadPace
from flasc_flwr.core.ranges import automatic, integer
from flasc_flwr.core.segments import Segment
from flasc_flwr.core.settings import check, setting
from flasc_flwr.core.sparsity import DENSITY

RANK = integer(1)
"""What a rank may be."""

DENSITIES = ("download-density", "upload-density")
"""Keys of the densities."""

AUTO = "auto"
"""A density that is not given: the default, or 1 where bytes limit the payload."""

BYTES = integer(0)
"""What the most bytes of a payload may be; 0 is no limit."""

OWN_UPLOAD_BYTES = automatic(BYTES)
"""What a device may say of its uploads: also ``auto``, what fits into its seconds."""

_STEPS = 4096
"""A device's own density is rounded down to a multiple of 1 / 4096."""

_BITS = 7
"""A device's own bytes are rounded down to so many significant bits: by up to 1/64."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a client may use.

    Attributes
    ----------
    download_density, upload_density : float
        Largest fractions of its adapter that it receives and sends, in (0, 1].
    download_bytes, upload_bytes : int
        Most bytes of one payload each way; 0 is no limit. Of the entries that the
        density allows, the largest that fit are sent. They hold for every method.
    rank : int, optional
        Number of components of its adapter; None: as many as the server's.
    set_by_device : frozenset[str]
        Keys of the densities that the device has set itself.
    prescribed : frozenset[str]
        Those of them that the method exceeds: the device may refuse that.
    segment : Segment, optional
        The part of its update that it sends in this turn; None: all. Its upload density
        is a fraction of that part.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download_density: float = setting(
        1 / 4,
        DENSITY,
        "fraction of the adapter's entries that a client receives",
        used_by="methods with a sparse download",
    )
    upload_density: float = setting(
        1 / 4,
        DENSITY,
        "fraction of the update's entries that a client sends",
        used_by="methods with a sparse upload",
    )
    download_bytes: int = setting(
        0,
        BYTES,
        "most bytes of a download's payload; 0 is no limit",
        unit="bytes",
        used_by="all methods but `flora` and `fedex-lora`",
    )
    upload_bytes: int = setting(
        0,
        BYTES,
        "most bytes of an upload's payload; 0 is no limit",
        unit="bytes",
        used_by="all methods but `flasc-shared-mask`",
    )
    rank: int | None = setting(
        None, RANK, "components of a client's adapter", key="lora-rank"
    )
    set_by_device: frozenset[str] = field(default=frozenset(), compare=False)
    prescribed: frozenset[str] = frozenset()
    segment: Segment | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    @classmethod
    def of(
        cls,
        *,
        download_density: float | str,
        upload_density: float | str,
        download_bytes: int,
        upload_bytes: int,
        usual: float | None = None,
    ) -> Budget:
        """Return a run's budget, whose densities may be `AUTO`.

        Without a limit in bytes that is `usual`, by default those of a budget.

        Raises
        ------
        ValueError
            If one is out of range.
        """
        return cls(
            download_density=density_or_auto(
                "download-density",
                download_density,
                usual or cls.download_density,
                download_bytes,
            ),
            upload_density=density_or_auto(
                "upload-density",
                upload_density,
                usual or cls.upload_density,
                upload_bytes,
            ),
            download_bytes=download_bytes,
            upload_bytes=upload_bytes,
        )

    def limited_by(self, own: Mapping[str, Any]) -> Budget:
        """Return this budget with a device's own settings applied.

        Parameters
        ----------
        own : Mapping[str, Any]
            The device's ``--node-config``: ``download-density`` and
            ``upload-density`` replace this budget's, rounded down to a multiple of
            1 / 4096 and at least that; ``download-bytes`` and ``upload-bytes`` replace
            this budget's, rounded down by up to 1/64; with bytes but no density the
            density is 1; ``lora-rank`` is the highest rank that the device can train.
            ``upload-bytes`` may be `AUTO`: what fits at the bandwidth that the device
            has given, and little as long as none is known.
        """
        if own.get("upload-bytes") == AUTO:
            own = {**own, "upload-bytes": UploadPace.of(own).most_bytes()}
        budget = Budget(
            download_density=_own_density("download", own, self.download_density),
            upload_density=_own_density("upload", own, self.upload_density),
            download_bytes=_own_bytes("download-bytes", own, self.download_bytes),
            upload_bytes=_own_bytes("upload-bytes", own, self.upload_bytes),
            rank=self.rank,
            set_by_device=frozenset(own) & frozenset(DENSITIES),
        )
        if "lora-rank" not in own:
            return budget
        return budget.at_most(RANK.require("lora-rank", own["lora-rank"]))

    def at_most(self, rank: int | None) -> Budget:
        """Return this budget with at most `rank` components; None is no limit."""
        ranks = [r for r in (self.rank, rank) if r is not None]
        return replace(self, rank=min(ranks, default=None))


def density_or_auto(
    key: str, given: float | str, default: float, most_bytes: int
) -> float:
    """Return a density that may be `AUTO`.

    Parameters
    ----------
    key : str
        Its name, for the error.
    given : float or str
        In (0, 1], or `AUTO`.
    default : float
        What `AUTO` is without a limit in bytes; with one it is 1, so that the bytes
        are used.
    most_bytes : int
        Most bytes of the payload in this direction; 0 is no limit.

    Raises
    ------
    ValueError
        If it is out of range.
    """
    if given == AUTO:
        return 1.0 if most_bytes else default
    density: float = DENSITY.require(key, given)
    return density


def _own_density(way: str, own: Mapping[str, Any], of_run: float) -> float:
    """Return a device's density on the grid; the run's where it sets no other.

    Clients with one density share a download. Without the grid each could have one
    that differs in the last digit.
    """
    key = f"{way}-density"
    if key not in own:
        return 1.0 if own.get(f"{way}-bytes") else of_run
    density: float = DENSITY.require(key, own[key])
    return density if density == of_run else max(1, floor(density * _STEPS)) / _STEPS


def _own_bytes(key: str, own: Mapping[str, Any], of_run: int) -> int:
    """Return a device's most bytes on the grid; the run's where it sets no other."""
    if key not in own:
        return of_run
    most: int = BYTES.require(key, own[key])
    return most if most == of_run else on_grid(most)


def on_grid(most: int) -> int:
    """Return a number of bytes rounded down by up to 1/64."""
    below = max(0, most.bit_length() - _BITS)
    return most >> below << below


def up_to_grid(least: int) -> int:
    """Return the fewest bytes that are not below `least` when rounded down."""
    below = on_grid(least)
    step = 1 << max(0, least.bit_length() - _BITS)
    return below if below == least else below + step
