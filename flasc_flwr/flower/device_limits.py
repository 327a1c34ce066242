"""A device's own limits: what it accepts from a server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.codec import MOST_TENSORS
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.budget import AUTO, BYTES, OWN_UPLOAD_BYTES, RANK
from flasc_flwr.core.methods.least import require_upload_bytes
from flasc_flwr.core.methods.upload_pace import UploadPace
from flasc_flwr.core.ranges import integer, switch
from flasc_flwr.core.settings import check, setting, settings_of
from flasc_flwr.core.sparsity import DENSITY

_GRID = 1 / 4096
"""Densities below this are rounded up to it by the server."""

_RANK_AXES = {Role.A: 0, Role.B: 1, Role.CORE: 0}


class RefusedDownloadError(ValueError):
    """A download that a device's own limits do not allow; the message names one."""


@dataclass(frozen=True, kw_only=True)
class DeviceLimits:
    """What a device accepts from a server: its own settings.

    Its bytes always hold: the server fits downloads into them, and the device its
    uploads. The densities are limits, too, unless the message declares that the method
    prescribes more (``dense`` sends everything). A server can always declare that; with
    `strict_budget` the device refuses such rounds.

    Attributes
    ----------
    download_density, upload_density : float, optional
        Largest fractions of its adapter that it receives and sends; None: any.
    download_bytes, upload_bytes : int
        Most bytes of one payload that it receives and sends; 0: any. For uploads also
        ``auto``: as many as the server asks for, which knows the device's bandwidth.
    lora_rank : int, optional
        Largest rank that it trains; None: any.
    max_entries : int
        Most entries of all arrays in one message together.
    max_download_bytes : int, optional
        Most bytes of all arrays in one message together, as they travel; None: any.
    strict_budget : bool
        Whether the densities hold even where the method prescribes others.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download_density: float | None = setting(
        None, DENSITY, "largest fraction of its adapter that it receives"
    )
    upload_density: float | None = setting(
        None, DENSITY, "largest fraction of its adapter that it sends"
    )
    download_bytes: int = setting(
        0, BYTES, "most bytes of a payload that it receives", unit="bytes"
    )
    upload_bytes: int | str = setting(
        0, OWN_UPLOAD_BYTES, "most bytes of a payload that it sends", unit="bytes"
    )
    lora_rank: int | None = setting(None, RANK, "largest rank that it trains")
    max_entries: int = setting(
        1 << 31,
        integer(1),
        "most entries of all arrays in one message",
        unit="entries",
    )
    max_download_bytes: int | None = setting(
        None, integer(1), "most bytes of all arrays in one message", unit="bytes"
    )
    strict_budget: bool = setting(
        False,
        switch(),
        "refuse rounds whose method prescribes more than its densities",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> DeviceLimits:
        """Return the limits that a ``--node-config`` sets.

        Raises
        ------
        ValueError
            If one is out of range.
        """
        keys = {name: declared.key for name, declared in settings_of(cls).items()}
        given = {n: node_config[key] for n, key in keys.items() if key in node_config}
        limits, pace = cls(**given), UploadPace.of(node_config)
        if limits.upload_bytes == AUTO and pace.bytes_per_second:
            return replace(limits, upload_bytes=pace.most_bytes())
        return limits

    def let_in_records(self, records: Iterable[ArrayRecord]) -> None:
        """Check the size of a message's arrays, as they travel.

        Raises
        ------
        RefusedDownloadError
            If it is above `max_download_bytes`.
        """
        if self.max_download_bytes is None:
            return
        size = sum(len(array.data) for record in records for array in record.values())
        if size > self.max_download_bytes:
            raise RefusedDownloadError(
                "size of the download's arrays must be <= "
                f"{self.max_download_bytes} bytes, this device's max-download-bytes, "
                f"got {size}"
            )

    def let_in_payload(self, payload: bytes) -> None:
        """Check the size of a payload.

        Raises
        ------
        RefusedDownloadError
            If it is above `download_bytes`.
        """
        if 0 < self.download_bytes < len(payload):
            raise RefusedDownloadError(
                f"bytes of the download's payload must be <= {self.download_bytes}, "
                f"this device's download-bytes, got {len(payload)}"
            )

    def most_upload_bytes(self, asked: int, layout: Layout, values: str) -> int:
        """Return the most bytes of the payload to send; 0 is no limit.

        Parameters
        ----------
        asked : int
            The most that the server asks for; 0 is any.
        layout : Layout
            Layout of the adapter.
        values : str
            Value format of the payload.

        Raises
        ------
        RefusedDownloadError
            If that is too few for one entry.
        """
        own = 0 if isinstance(self.upload_bytes, str) else self.upload_bytes
        most = min((limit for limit in (asked, own) if limit), default=0)
        try:
            require_upload_bytes(most, layout, values)
        except ValueError as error:
            raise RefusedDownloadError(str(error)) from None
        return most

    def let_in_layouts(self, layouts: Iterable[Layout]) -> None:
        """Check how much memory the arrays of a message will take, before they take it.

        Raises
        ------
        RefusedDownloadError
            If they have more than `max_entries`, or an unreasonable number of tensors.
        """
        entries = tensors = 0
        for layout in layouts:
            entries += layout.size
            tensors += len(layout.tensors)
            if entries > self.max_entries:
                raise RefusedDownloadError(
                    f"entries of the download must be <= {self.max_entries}, this "
                    f"device's max-entries, got {entries}"
                )
            if tensors > MOST_TENSORS:
                raise RefusedDownloadError(
                    f"tensors of the download must be <= {MOST_TENSORS}, got {tensors}"
                )

    def let_in_adapter(
        self, layout: Layout, kept: int, prescribed: Collection[str] = ()
    ) -> None:
        """Check the rank of an adapter, and how many of its entries travelled.

        Parameters
        ----------
        layout : Layout
            Its layout, of size N.
        kept : int
            Number of entries in the payload.
        prescribed : Collection[str]
            Keys of the densities that the message declares as the method's.

        Raises
        ------
        RefusedDownloadError
            If the rank is above `lora_rank`, or `kept` above `download_density` * N.
        """
        if self.lora_rank is not None and (rank := _rank_of(layout)) > self.lora_rank:
            raise RefusedDownloadError(
                f"rank of the download must be <= {self.lora_rank}, this device's "
                f"lora-rank, got {rank}"
            )
        self._let_in_share("download", kept, layout, prescribed)

    def let_in_upload(
        self, layout: Layout, asked: int, prescribed: Collection[str] = ()
    ) -> None:
        """Check how many entries of an update the server asks for.

        Raises
        ------
        RefusedDownloadError
            If it is above `upload_density` times N.
        """
        self._let_in_share("upload", asked, layout, prescribed)

    def _let_in_share(
        self, way: str, count: int, layout: Layout, prescribed: Collection[str]
    ) -> None:
        key = f"{way}-density"
        own = self.download_density if way == "download" else self.upload_density
        if own is None or (key in prescribed and not self.strict_budget):
            return
        # Where each tensor has its share, each may round it up to one entry.
        most = ceil(max(own, _GRID) * layout.size) + len(layout.tensors)
        if count > most:
            raise RefusedDownloadError(
                f"entries of the {way} must be <= {most} of {layout.size}, at this "
                f"device's {key} {own:.6g}, got {count}" + self._advice(key, prescribed)
            )

    def _advice(self, key: str, prescribed: Collection[str]) -> str:
        if key in prescribed:
            return ": the method prescribes that, and the device sets strict-budget"
        return ""


def _rank_of(layout: Layout) -> int:
    """Return the largest rank of a layout's factors, by their roles and their names.

    The roles are the server's word; what the model takes as a factor follows the names.
    """
    shapes = {
        tensor.name: np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
        for tensor in layout.tensors
    }
    return max(
        (
            tensor.shape[axis]
            for each in (layout, Layout.of(shapes))
            for tensor in each.tensors
            if (axis := _RANK_AXES.get(tensor.role)) is not None
            and axis < len(tensor.shape)
        ),
        default=0,
    )
