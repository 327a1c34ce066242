"""The bases of cores, while clients measure them: LoRA factors, averaged exactly."""

from __future__ import annotations

import numpy as np

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.layout import Arrays, Layout, Role
from flasc_flwr.core.measured_bases import (
    basis_format,
    orthonormal,
    require_share,
    rounded,
    with_bases,
)
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.run_state import RunState

_METHOD = Method(
    name="bases",
    source="the singular vectors of the mean product, as FlexLoRA's server",
    download_density=1.0,
    upload_density=1.0,
    aggregation="svd",
    server_optimizer="sgd",
)


class BasesVector(ServerVector):
    """Takes the place of a run's server vector in the round that measures its bases.

    Clients receive the adapter with zeros in place of each core: B (out, R) and A
    (R, in). They send ``B = U_k S_k`` and ``A = V_k^T`` (:mod:`~.measured_bases`), and
    the products are averaged. The head is sent only for the gradients at it.

    Parameters
    ----------
    server : ServerVector
        The run's server vector, which lacks bases.
    """

    def __init__(self, server: ServerVector) -> None:
        state = server.state
        super().__init__(
            allotment=Allotment(
                method=_METHOD,
                most=Budget(download_density=1.0, upload_density=1.0),
                decay=Decay(),
            ),
            value_format=basis_format(server.value_format),
            optimizer=Sgd(),
            seed=0,
            validation=None,
        )
        layout = with_bases(state.layout, server.core_sides)
        vector = _without_cores(state.layout, state.layout.views(state.vector), layout)
        optimizer = self.optimizer.init(layout.size)
        self.resume(RunState(layout, vector, optimizer, traffic=state.traffic))

    def measure(self, client: str, contribution: Contribution) -> None:
        """Check that a client's factors are no larger than its share."""
        require_share(self.state.layout, contribution.update)

    def result(self) -> Arrays | None:
        """Return the bases as everyone will have them; None if nothing was measured."""
        if self.turn == 1:
            return None
        return rounded(
            orthonormal(self.state.layout, self.state.vector), self.value_format
        )


def _without_cores(
    own: Layout, arrays: Arrays, layout: Layout
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return an adapter's head, and zeros, as a vector of the layout with bases."""
    kept = {t.name: arrays[t.name] for t in own.tensors if t.role != Role.CORE}
    zeros = {
        t.name: np.zeros(t.shape, np.float32)
        for t in layout.tensors
        if t.name not in kept
    }
    return layout.flatten({t.name: (kept | zeros)[t.name] for t in layout.tensors})
