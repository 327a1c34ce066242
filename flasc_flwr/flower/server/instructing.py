"""What a client is instructed to do in a turn, by its budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.sparsity import Positions
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.server.server_vector import ServerVector


def instructions_for(
    server: ServerVector, budget: Budget, clip_norm: float | None
) -> Instructions:
    """Return what a client that trains is to do.

    Parameters
    ----------
    server : ServerVector
        The server vector and its method.
    budget : Budget
        The client's budget in this turn.
    clip_norm : float or None
        L2 norm that the client itself scales its update down to.
    """
    shared = server.method.uploads == "support"
    # Where bytes limit the download, it has less than the budget's density.
    sent = replace(budget, download_density=server.encode(budget).density)
    return Instructions(
        density=sent.download_density if shared else budget.upload_density,
        upload_bytes=budget.upload_bytes,
        value_format=server.value_format,
        trainable=server.method.trainable_at(server.turn, sent),
        init_seed=server.init_seed,
        clip_norm=clip_norm,
        on_support=shared,
        roles=server.method.scoring.roles,
        segment=budget.segment,
        prescribed=budget.prescribed,
    )


def shared_support(server: ServerVector, budget: Budget) -> Positions | None:
    """Return where an update without positions lies; None if it has its own.

    In the vector of the client's rank.
    """
    if server.method.uploads != "support":
        return None
    download = server.downloads.at(budget)
    if download.density == 1:
        return np.arange(download.cut.layout.size)
    return download.support
