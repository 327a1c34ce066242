"""The state of a run: everything that changes, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flasc_flwr.core.layout import Arrays, Layout, Vector
from flasc_flwr.core.merged import Merged
from flasc_flwr.core.methods.selection import Supports
from flasc_flwr.core.optimizers import OptimizerState
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.feedback.fleet_memory import FleetMemory


@dataclass
class RunState:
    """Everything that changes during a run. Random draws are seeded by the round.

    Attributes
    ----------
    layout : Layout
        Layout of the adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector, always dense: masks act on what is sent.
    optimizer : OptimizerState
        State of the server optimizer.
    supports : Supports
        Supports that were selected once and stay.
    selected_from : NDArray[np.float32], shape (N,), optional
        The server vector that these are selected from, whenever a client needs one;
        None before there are any.
    ranks : dict[str, int]
        Ranks that the server assigned, by the client's name.
    rank_nodes : dict[str, int]
        The node of each client, as it last took part before it was assigned a rank:
        the rank is that node's. Not in checkpoints: node ids may differ in a resumed
        run, and do in every simulation.
    merged : Merged
        What was merged into the backbone.
    bases : Arrays
        Measured bases of cores, as every device has them; empty before that.
    privacy : dict[str, Any]
        What a private run has spent, and its clipping norm, in JSON types.
    traffic : Traffic
        Every message so far.
    fleet : FleetMemory
        What the server remembers of its devices, with error feedback.
    history : list[dict[str, Any]]
        One row for each round; round 0 is before the first.
    """

    layout: Layout
    vector: Vector
    optimizer: OptimizerState
    supports: Supports = field(default_factory=dict)
    selected_from: Vector | None = None
    ranks: dict[str, int] = field(default_factory=dict)
    rank_nodes: dict[str, int] = field(default_factory=dict)
    merged: Merged = field(default_factory=dict)
    bases: Arrays = field(default_factory=dict)
    privacy: dict[str, Any] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    fleet: FleetMemory = field(default_factory=FleetMemory)
    history: list[dict[str, Any]] = field(default_factory=list)
