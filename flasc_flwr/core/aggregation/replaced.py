"""Rules that replace the factors, so that B A is close to the mean product.

What a client downloads stays one adapter: nothing travels beside it.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from flasc_flwr.core.aggregation.contribution import Aggregate
from flasc_flwr.core.aggregation.products import ProductsAndHead
from flasc_flwr.core.factors import LoraModule, Matrix, ridge_inverse, truncated_svd
from flasc_flwr.core.layout import Layout, Vector


class Replaced(ProductsAndHead):
    """A rule that computes new factors from the mean product, module by module."""

    @abstractmethod
    def factors(
        self, module: LoraModule, b: Matrix, a: Matrix
    ) -> tuple[Matrix, Matrix]:
        """Return the new B (out, r) and A (r, in) of a module.

        Parameters
        ----------
        module : LoraModule
            The module, of rank r.
        b : NDArray[np.float64], shape (out, R)
        a : NDArray[np.float64], shape (R, in)
            Finite; their product is the mean product.
        """

    def result(self) -> Aggregate:
        """Return the new factors at the server's rank."""
        update = self.mean_head()
        for module in self.modules:
            b, a = self.stacked(module)
            if not (np.isfinite(b).all() and np.isfinite(a).all()):
                # It has no decomposition. The step refuses what is not finite.
                return Aggregate(np.full_like(update, np.nan))
            new_b, new_a = self.factors(module, b, a)
            for place, new in ((module.b_place, new_b), (module.a_place, new_a)):
                update[place] = new.astype(np.float32).ravel() - self.vector[place]
        return Aggregate(update)


class Svd(Replaced):
    """FlexLoRA (Bai et al., arXiv 2402.11505): factor the mean product by an SVD.

    ``U S V^T = sum_k p_k B_k A_k``, B = U S, A = V^T. A client of rank r receives the
    first r components, which are the largest.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    energy : float
        Fraction of the squared norm that the components kept must have; 1 keeps as many
        as the rank allows. FLoRIST (arXiv 2506.09199) keeps fewer.
    """

    def __init__(self, layout: Layout, vector: Vector, *, energy: float = 1.0) -> None:
        super().__init__(layout, vector)
        self._energy = energy

    def factors(
        self, module: LoraModule, b: Matrix, a: Matrix
    ) -> tuple[Matrix, Matrix]:
        """Return U S and V^T."""
        b, a = truncated_svd(b, a, module.rank, energy=self._energy)
        # With fewer components than the adapter has, A keeps its last rows: components
        # that are zero in both factors could never train again.
        new_b, new_a = module.factors(self.vector)
        new_b[:] = 0
        new_b[:, : b.shape[1]], new_a[: a.shape[0]] = b, a
        return new_b, new_a


class RankPartitioned(Svd):
    """raFLoRA (arXiv 2602.13486): an SVD of products averaged over those who have them.

    Component j of the clients counts ``p_k / sum_{r_i > j} p_i``, as in replication:
    clients of a lower rank do not dilute it. Read from the paper's abstract.
    """

    def divisor(self, rank: int) -> Matrix:
        """Return the weight of the clients that have each component."""
        return self.owned(rank)


class Fair(Replaced):
    """LoRA-FAIR (Bian et al., arXiv 2411.14961): average, then correct B.

    A and B are averages, each component over the clients that have it. B becomes
    ``B + dB``, where dB minimises ``||T - (B + dB) A||_F^2 + lambda ||dB||_F^2`` for
    the mean product T: ``dB = (T - B A) A^T (A A^T + lambda I)^-1``. The paper solves a
    similar problem; this closed form is ours. `ridge` is lambda in multiples of the
    mean squared norm of a row of A.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    ridge : float
        At least 0. Default: 0.001.
    """

    def __init__(self, layout: Layout, vector: Vector, *, ridge: float = 0.001) -> None:
        super().__init__(layout, vector)
        self._ridge = ridge

    def factors(
        self, module: LoraModule, b: Matrix, a: Matrix
    ) -> tuple[Matrix, Matrix]:
        """Return the corrected B, and the mean A."""
        mean_b, mean_a = self._means(module)
        missing = b @ (a @ mean_a.T) - mean_b @ (mean_a @ mean_a.T)
        return mean_b + missing @ ridge_inverse(mean_a @ mean_a.T, self._ridge), mean_a

    def _means(self, module: LoraModule) -> tuple[Matrix, Matrix]:
        """Return B and A averaged; a component that no client has is unchanged."""
        b, a = module.factors(self.vector)
        sum_b, sum_a = module.as_matrices(
            self.sum[module.b_place], self.sum[module.a_place]
        )
        owned = self.owned(module.rank)
        share = np.divide(1.0, owned, out=np.zeros_like(owned), where=owned > 0)
        return b + sum_b * share, a + sum_a * share[:, None]


class Alternating(Replaced):
    """FedSRD's server (arXiv 2510.04601): project the missing product onto one factor.

    What the clients changed of the product, ``D = sum_k p_k (B_k A_k - B A)``, goes
    into B in odd turns, ``dB = D pinv(A)``, and into A in even ones,
    ``dA = pinv(B) D``; the other factor stays. B A counts only the components that the
    client has. Here without the paper's pruned uploads and random download masks, and
    with a ridge (see :class:`Fair`): B is small in the first rounds, and its
    pseudoinverse so large that the digits task diverges.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    turn : int
        1 before the first step of the server optimizer, 2 after it, and so on.
    ridge : float
        At least 0; 0 is the pseudoinverse. Default: 1.
    """

    def __init__(
        self, layout: Layout, vector: Vector, *, turn: int, ridge: float = 1.0
    ) -> None:
        super().__init__(layout, vector)
        # B is first: while it is zero, nothing can be projected onto A.
        self._changes_b = turn % 2 == 1
        self._ridge = ridge

    def factors(
        self, module: LoraModule, b: Matrix, a: Matrix
    ) -> tuple[Matrix, Matrix]:
        """Return the factors, of which one has changed."""
        own_b, own_a = module.factors(self.vector)
        had = own_b * (self.owned(module.rank) / self.weight)
        if self._changes_b:
            gram = own_a @ own_a.T
            missing = b @ (a @ own_a.T) - had @ gram
            return own_b + missing @ ridge_inverse(gram, self._ridge), own_a
        gram = own_b.T @ own_b
        missing = (own_b.T @ b) @ a - (own_b.T @ had) @ own_a
        return own_b, own_a + ridge_inverse(gram, self._ridge) @ missing
