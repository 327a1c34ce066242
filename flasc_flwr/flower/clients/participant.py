"""A client that takes part in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.upload_pace import UploadPace


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client that takes part in a run.

    Attributes
    ----------
    node_id : int
        Flower's id of the node.
    name : str
        Name of the client, equal in every run, and of one node at a time.
    budget : Budget
        What it may use: its own budget in the roster, this turn's in a cohort.
    partitions : int or None
        Into how many parts it splits the run's data, of which it trains on one; None
        if that is not known, or it has its own data.
    pace : UploadPace
        How long its uploads may take, and what it says of its bandwidth.
    paced : bool
        Whether its upload bytes follow from that: ``upload-bytes="auto"``.
    answer : Mapping[str, Any]
        Its answer to its introduction, which also says what it remembers.
    """

    node_id: int
    name: str
    budget: Budget
    partitions: int | None = None
    pace: UploadPace = field(default_factory=UploadPace)
    paced: bool = False
    answer: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
