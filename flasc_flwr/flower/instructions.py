"""What the server asks of a client, and the record that carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord

from flasc_flwr.core.methods.role_densities import NONE, RoleDensities
from flasc_flwr.core.methods.trainable import ALL, Trainable
from flasc_flwr.core.printable import printable
from flasc_flwr.core.segments import Segment
from flasc_flwr.flower.read_instructions import REPLIES, SPARSE, read_instructions


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What the server asks of a client.

    Attributes
    ----------
    density : float, optional
        Largest fraction of the update to send, in (0, 1]; None: send no arrays.
    upload_bytes : int
        Most bytes of the payload; 0 is no limit.
    value_format : str
        Value format of the payload.
    trainable : Trainable
        What the client may change of what it received.
    init_seed : int, optional
        Seed of the initial values that the download is added to.
    clip_norm : float, optional
        L2 norm to scale the update down to before its largest entries are selected.
    on_support : bool
        Send the update on the download's support (all of it at `density` 1) without
        positions: clients with the same download send the same entries.
    roles : RoleDensities
        Densities of roles, which replace `density` for their entries.
    segment : Segment, optional
        The part of the update to send of; None: all. `density` is a fraction of it.
    sparse : Mapping[str, tuple[int, ...]]
        Only in messages of :class:`~flasc_flwr.SparseTransport`: for each ArrayRecord
        the indices of the arrays inside the payload. The others travel whole.
    replies : Mapping[str, str]
        Likewise, what the user says that replies hold, where it is said.
    quota : str
        Likewise, where entries of an update compete: within each tensor, or over all.
    prescribed : frozenset[str]
        Keys of the densities that the device has set itself and that the method
        exceeds: ``dense`` sends everything.
    """

    density: float | None = None
    upload_bytes: int = 0
    value_format: str = "float32"
    trainable: Trainable = ALL
    init_seed: int | None = None
    clip_norm: float | None = None
    on_support: bool = False
    roles: RoleDensities = NONE
    segment: Segment | None = None
    sparse: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prescribed: frozenset[str] = frozenset()
    replies: Mapping[str, str] = field(default_factory=dict)
    quota: str = "none"

    def to_record(self) -> ConfigRecord:
        """Return the ConfigRecord that carries them, without defaults."""
        record = ConfigRecord()
        if self.density is not None:
            record["upload-density"] = self.density
            record["value-format"] = self.value_format
            if self.upload_bytes:
                record["upload-bytes"] = self.upload_bytes
        if not self.trainable.everything:
            record["trains"] = sorted(role.value for role in self.trainable.roles)
            record["support-only"] = self.trainable.support_only
        if self.init_seed is not None:
            record["init-seed"] = self.init_seed
        if self.clip_norm is not None:
            record["clip-norm"] = self.clip_norm
        if self.on_support:
            record["on-support"] = True
        if self.density is not None and self.roles:
            record["role-densities"] = self.roles.to_list()
        if self.segment is not None:
            record["upload-segment"] = [self.segment.index, self.segment.count]
        if self.prescribed:
            record["prescribed"] = sorted(self.prescribed)
        self._add_transport_to(record)
        return record

    def _add_transport_to(self, record: ConfigRecord) -> None:
        """Add what only messages of SparseTransport have."""
        for key, indices in self.sparse.items():
            record[SPARSE + key] = list(indices)
        for key, word in self.replies.items():
            record[REPLIES + key] = word
        if self.quota != "none":
            record["quota"] = self.quota

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Instructions:
        """Read the instructions from their ConfigRecord, which may hold anything.

        Raises
        ------
        ValueError
            If an entry is missing, unknown, of another type or out of range.
        """
        try:
            return cls(**read_instructions(dict(record)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"the message's 'flasc' record cannot be read ({printable(error)}): "
                "server and client must run the same version of flasc-flwr"
            ) from None
