"""Paces: what devices' links can carry within a round, and within their own seconds."""

from __future__ import annotations

from dataclasses import replace
from logging import INFO, WARNING
from math import log2

from flwr.app import Message

from flasc_flwr.core.methods.budget import Budget, on_grid
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.upload_speeds import UploadSpeeds
from flasc_flwr.flower.compat import log

_BITS = {"float32": 27, "bfloat16": 11, "int8": 7.5, "int4": 4}
"""About what the codec needs for a value (docs/performance.md)."""

_FEW_BITS = 4


class Paces:
    """Chooses the bytes of devices that say ``upload-bytes="auto"``, and warns.

    Bandwidths are what a device's owner has given (``upload-mbits``), else what was
    measured (:class:`UploadSpeeds`). They are not in checkpoints: a resumed run
    measures again.

    Parameters
    ----------
    timeout : float
        Seconds to wait for the replies of a round.
    speeds : UploadSpeeds, optional
        Measures (default: a new one).
    """

    def __init__(self, timeout: float, speeds: UploadSpeeds | None = None) -> None:
        self._timeout = timeout
        self._speeds = speeds or UploadSpeeds()
        self._warned: set[str] = set()
        self._said = False

    def came(self, node: int, reply: Message) -> None:
        """Note that a reply of a node has just arrived."""
        self._speeds.arrived(node, reply)

    def paced(self, client: Participant) -> Participant:
        """Return a client with the upload bytes that fit into its seconds."""
        if not client.paced:
            return client
        most = client.pace.most_bytes(self._speeds.of(client.node_id))
        budget = replace(client.budget, upload_bytes=on_grid(most))
        return replace(client, budget=budget)

    def warn(self, client: Participant, size: int, values: str) -> None:
        """Warn, once for each client, where its upload cannot make the time-out.

        The first client's upload also goes into the log with the bandwidth it needs.

        Parameters
        ----------
        client : Participant
            The client, with its budget of this turn.
        size : int
            Entries of its adapter.
        values : str
            Value format of payloads.
        """
        expected = expected_upload(client.budget, size, values)
        if not self._said:
            self._said = True
            log(
                INFO,
                "An upload has about %.3g MB: round-timeout (%g s) needs %.3g Mbit/s",
                expected / 1e6,
                self._timeout,
                expected * 8e-6 / self._timeout,
            )
        speed = client.pace.bytes_per_second or self._speeds.of(client.node_id)
        if speed is None or client.name in self._warned:
            return
        seconds = expected / speed
        if seconds > self._timeout:
            self._warned.add(client.name)
            log(
                WARNING,
                "Client %s: an upload of about %.2f MB takes %.0f s at its %.3g "
                "Mbit/s, and round-timeout is %g s. Set its upload-bytes (or 'auto') "
                "or a lower upload-density, or raise round-timeout",
                client.name,
                expected / 1e6,
                seconds,
                speed * 8e-6,
                self._timeout,
            )


def expected_upload(budget: Budget, size: int, values: str) -> int:
    """Return about how many bytes an upload's payload has.

    Values in the bits that the codec usually needs, and each position in the entropy
    of a random support.

    Parameters
    ----------
    budget : Budget
        The client's budget in this turn.
    size : int
        Entries of its adapter, or of the segment that it sends.
    values : str
        Value format.
    """
    density = budget.upload_density
    bits = _BITS.get(values, _FEW_BITS)
    if density < 1:
        other = 1 - density
        bits -= log2(density) + other / density * log2(other)
    whole = int(size * density * bits / 8)
    return min(whole, budget.upload_bytes) if budget.upload_bytes else whole
