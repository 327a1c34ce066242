"""The round that measures the bases of cores, before anything is trained."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from logging import INFO

from flwr.app import ConfigRecord

from flasc_flwr.flower.compat import log
from flasc_flwr.flower.round import run_round
from flasc_flwr.flower.run import Run
from flasc_flwr.flower.server.bases_vector import BasesVector
from flasc_flwr.flower.wire import MEASURE


def measure_bases(run: Run, current: int) -> None:
    """Let a cohort measure bases in place of training, and take their mean.

    A FLASC round of other tensors: each client sends the factors of its first step
    (:mod:`~flasc_flwr.core.measured_bases`), and its replies are read, bounded and
    averaged as updates are. If there are too few, the next round measures again.
    """
    server, measured = run.server, BasesVector(run.server)
    measuring = copy(run)  # with the same ledger and clients
    measuring.server = measured
    measuring.train_config = ConfigRecord({**run.train_config, MEASURE: True})
    # The bound is on updates. Factors have one of their own.
    measuring.guard = replace(run.guard, max_norm=0.0)
    # What is evaluated is the adapter, afterwards.
    measuring.sampling = replace(run.sampling, fraction_evaluate=0.0)
    measuring.evaluate_at = lambda _: False
    run.ledger.counts_entries_of(measured.state.layout)
    run_round(measuring, current)
    bases = measured.result()
    if bases is not None:
        server.take_bases(bases)
        count = run.ledger.outcome.updates
        log(INFO, "Round %d: bases of cores measured by %d clients", current, count)
    run.ledger.counts_entries_of(server.state.layout)
    if bases is not None:  # without any, there is nothing to evaluate
        run.evaluate_at_clients(current)
    run.evaluate_at_server(current)
