"""A device's update: what it received, and what it sends of what training changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from flasc_flwr.core.clipping import clip_to_norm
from flasc_flwr.core.codec import read_layout
from flasc_flwr.core.finite import require_finite_tensors
from flasc_flwr.core.fitting import fit_payload
from flasc_flwr.core.layout import Arrays, Layout, Vector
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.received import received_arrays, received_vector
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.feedback.device_session import DeviceSession
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.wire import array_record, views_of


@dataclass(frozen=True, eq=False)
class Received:
    """A download, decoded.

    Attributes
    ----------
    layout : Layout
        Its layout, of size N.
    start : NDArray[np.float32], shape (N,), or Arrays
        What training starts from: a vector, or the arrays of the app's record.
    kept : int
        Number of entries that travelled.
    support : NDArray[np.int64], optional
        Which they are, where the update is to have the same.
    entries : NDArray[np.bool_], shape (N,), optional
        Which entries may change; None: all.
    """

    layout: Layout
    start: Vector | Arrays
    kept: int = 0
    support: Positions | None = None
    entries: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, payload: bytes, instructions: Instructions) -> Received:
        """Decode a payload.

        Raises
        ------
        PayloadError
            If it is corrupt.
        """
        layout = read_layout(payload)
        sparse, start = received_vector(layout, payload, instructions.init_seed)
        entries = None
        if not instructions.trainable.everything:
            entries = instructions.trainable.entries(layout, sparse.positions)
        support = sparse.positions if instructions.on_support else None
        return cls(layout, start, sparse.kept, support, entries)

    def handed_over(self) -> tuple[Received, ArrayRecord]:
        """Return the arrays that the app sees, and this, which is compared with them.

        Where these hold the same numbers, the vector is not kept beside them: while the
        app trains, a device needs all the memory that it has.
        """
        assert isinstance(self.start, np.ndarray)
        record = array_record(received_arrays(self.layout, self.start))
        exact = all(tensor.dtype == "float32" for tensor in self.layout.tensors)
        return (replace(self, start=views_of(record)) if exact else self), record

    def trainable(self) -> dict[str, NDArray[np.bool_]] | None:
        """Return for each array which entries may change; None where all may."""
        if self.entries is None:
            return None
        return {
            tensor.name: self.entries[place].reshape(tensor.shape)
            for tensor, place in self.layout.slices()
        }

    def update(self, trained: Arrays) -> Vector:
        """Return trained minus received, zero in frozen entries.

        Raises
        ------
        ValueError
            If the arrays do not fit those received, or hold no numbers.
        """
        for name, array in trained.items():
            # numpy would read text as numbers, and quote what it cannot read.
            if array.dtype.kind not in "fiub":
                raise ValueError(
                    f"array {name!r} of the reply must hold numbers, got {array.dtype}"
                )
        update = self.layout.flatten(trained)
        if isinstance(self.start, np.ndarray):
            update -= self.start
        else:
            for tensor, place in self.layout.slices():
                update[place] -= self.start[tensor.name].ravel()
        if self.entries is not None:
            update[~self.entries] = 0
        return update


def encode_update(
    received: Received,
    update: Vector,
    instructions: Instructions,
    limits: DeviceLimits,
    session: DeviceSession | None = None,
) -> bytes:
    """Select and encode what is sent back of an update, shape (N,).

    With error feedback, that is also of what earlier replies left out.

    Raises
    ------
    ValueError
        If it holds NaN or infinity, or no entry fits into the bytes.
    """
    require_finite_tensors(received.layout, update)
    if session:
        update = session.owed(received.layout, update, received.entries)
    if instructions.clip_norm is not None:
        update = clip_to_norm(update, instructions.clip_norm)
    density, values, layout = instructions.density, update, None
    assert density is not None
    start = 0
    if not instructions.on_support:
        layout = received.layout
        if instructions.segment is not None:
            place = instructions.segment.place(layout.size)
            values, start = update[place], place.start
    elif density < 1:
        assert received.support is not None
        values = update[received.support]
    scoring = Scoring(roles=instructions.roles)

    def select(share: float) -> SparseVector:
        # The server knows the support: all values, without positions or layout.
        if layout is None:
            return SparseVector.of_dense(values) if share == 1 else top_k(values, share)
        if instructions.segment is None:
            return scoring.largest(layout, values, share, share / density)
        sparse = top_k(values, share)
        return SparseVector(len(update), sparse.positions + start, sparse.values)

    fitted = fit_payload(
        select,
        instructions.value_format,
        layout=layout,
        size=len(values),
        density=1.0 if layout is None else density,
        most=most_bytes(received.layout, instructions, limits),
        key="upload-bytes",
    )
    if session:
        session.sent(fitted.payload)
    return fitted.payload


def most_bytes(layout: Layout, instructions: Instructions, limits: DeviceLimits) -> int:
    """Return the most bytes of an update's payload; 0 is no limit.

    Raises
    ------
    RefusedDownloadError
        If that is too few for one entry.
    """
    asked, values = instructions.upload_bytes, instructions.value_format
    return limits.most_upload_bytes(asked, layout, values)
