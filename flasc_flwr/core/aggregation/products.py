"""Rules that aggregate the products B A instead of the factors: exact for any ranks."""

from __future__ import annotations

import numpy as np

from flasc_flwr.core.aggregation.contribution import Aggregate, Aggregator, Contribution
from flasc_flwr.core.factors import LoraModule, Matrix, lora_modules
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.ranks import rank_of


class Products:
    """``sum_k p_k B_k A_k`` of each module, kept as stacked factors.

    ``[p_1 B_1, p_2 B_2, ...] [A_1; A_2; ...]``, in memory proportional to the sum of
    the cohort's ranks. Tensors outside the factors, such as the head, are not touched.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    """

    def __init__(self, layout: Layout, vector: Vector) -> None:
        self.count = 0
        self.weight = 0.0
        self.layout = layout
        self.vector = vector
        self.modules = lora_modules(layout)
        self._weight_of_rank = np.zeros(max(1, rank_of(layout)) + 1, np.float64)
        self._factors: dict[str, list[tuple[Matrix, Matrix]]] = {
            module.name: [] for module in self.modules
        }

    def add(self, contribution: Contribution) -> None:
        """Add one client's product."""
        contribution.check(self.layout.size)
        for module in self.modules:
            b, a = module.as_matrices(
                contribution.trained(self.layout, self.vector, module.b_place),
                contribution.trained(self.layout, self.vector, module.a_place),
            )
            rank = min(contribution.rank, module.rank)
            self._factors[module.name].append(
                (contribution.weight * b[:, :rank], a[:rank])
            )
        self._weight_of_rank[max(1, contribution.rank)] += contribution.weight
        self.weight += contribution.weight
        self.count += 1

    def owned(self, rank: int) -> Matrix:
        """Return the weight of the clients that have each component, shape (rank,)."""
        return np.cumsum(self._weight_of_rank[::-1])[::-1][1 : rank + 1]

    def divisor(self, rank: int) -> Matrix | float:
        """Return what the products of the first `rank` components are divided by."""
        return self.weight

    def stacked(self, module: LoraModule) -> tuple[Matrix, Matrix]:
        """Return B (out, R) and A (R, in) whose product is the weighted mean."""
        factors = self._factors[module.name]
        shares = [b / self.divisor(b.shape[1]) for b, _ in factors]
        return (
            np.concatenate(shares, axis=1),
            np.concatenate([a for _, a in factors], axis=0),
        )


class ProductsAndHead(Products):
    """The products, and the sum of the updates themselves.

    Attributes
    ----------
    sum : NDArray[np.float64], shape (N,)
        The weighted sum of the updates.
    """

    def __init__(self, layout: Layout, vector: Vector) -> None:
        super().__init__(layout, vector)
        self.sum = np.zeros(layout.size, np.float64)

    def add(self, contribution: Contribution) -> None:
        """Add one client's product, and its update of the other tensors."""
        super().add(contribution)
        update = contribution.update
        weighted = np.multiply(update.values, contribution.weight, dtype=np.float64)
        np.add.at(self.sum, update.positions, weighted)

    def mean_head(self) -> Vector:
        """Return the mean update, shape (N,), with zeros in all factors.

        Raises
        ------
        ValueError
            If there was no contribution.
        """
        if self.count == 0:
            raise ValueError("there are no updates to aggregate")
        mean = (self.sum / self.weight).astype(np.float32)
        for tensor, place in self.layout.slices():
            if tensor.role in (Role.A, Role.B):
                mean[place] = 0
        return mean


class Stacking(ProductsAndHead):
    """FLoRA (Wang et al., arXiv 2409.05976): merge the mean product into the backbone.

    ``W0 += s sum_k p_k B_k A_k``, exact for any ranks. The adapter is reset every
    round, to the same A and a zero B.
    """

    def result(self) -> Aggregate:
        """Return the reset adapter, and the stacked factors for the backbone."""
        update = self.mean_head()
        terms = {m.name: self.stacked(m) for m in self.modules}
        for module in self.modules:
            update[module.b_place] = -self.vector[module.b_place]
        return Aggregate(update, terms)


class ExactResidual:
    """FedEx-LoRA (arXiv 2410.09432): average the factors, merge the error of that.

    ``sum_k p_k B_k A_k - B A``, with B and A averaged by the inner rule, is merged into
    the backbone. Its rank is at most the sum of all ranks.

    p_k are the clients' own weights, also where the inner rule averages factors with
    others (`frobenius`): the whole is then the mean product that the run's weights
    define, as with every other rule, and the residual undoes those of the rule, too.
    Only the head keeps them. HetLoRA's paper has no residual, and FedEx-LoRA's no such
    weights, so that neither says more.

    Parameters
    ----------
    inner : Aggregator
        The averaging rule.
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    """

    def __init__(self, inner: Aggregator, layout: Layout, vector: Vector) -> None:
        self._inner = inner
        self._products = Products(layout, vector)

    @property
    def count(self) -> int:
        """Number of contributions added."""
        return self._products.count

    def add(self, contribution: Contribution) -> None:
        """Add one contribution."""
        self._inner.add(contribution)
        self._products.add(contribution)

    def result(self) -> Aggregate:
        """Return the average, and its error for the backbone."""
        averaged = self._inner.result()
        vector, update = self._products.vector, averaged.update
        terms = {}
        for module in self._products.modules:
            b, a = self._products.stacked(module)
            mean_b, mean_a = module.as_matrices(
                vector[module.b_place] + update[module.b_place],
                vector[module.a_place] + update[module.a_place],
            )
            terms[module.name] = (
                np.concatenate([b, -mean_b], axis=1),
                np.concatenate([a, mean_a], axis=0),
            )
        return Aggregate(averaged.update, terms)
