"""Rules that aggregate products B A, not factors: exact for any ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flasc_flwr.core.aggregation.contribution import Aggregate, Aggregator, Contribution
from flasc_flwr.core.factors import Matrix, Module, best_factors, modules
from flasc_flwr.core.layout import Layout, Role, Vector


class Products:
    """``sum_k p_k B_k A_k`` of each module, as stacked thin factors.

    Takes memory in proportion to the sum of the cohort's ranks, and of everything
    that is no factor, the head, it keeps the average update.
    """

    def __init__(self, layout: Layout, vector: Vector) -> None:
        self.count = 0
        self.layout = layout
        self.vector = vector
        self._weight = 0.0
        self.modules = modules(layout)
        self._terms: dict[str, list[tuple[Matrix, Matrix]]] = {
            module.name: [] for module in self.modules
        }
        self._sum = np.zeros(layout.size, np.float64)

    def add(self, contribution: Contribution) -> None:
        """Add one client's product."""
        contribution.check(len(self._sum))
        update, weight = contribution.update, contribution.weight
        trained = contribution.trained(self.layout, self.vector)
        for module in self.modules:
            b, a = module.factors(trained)
            rank = min(contribution.rank, module.rank)
            # The weight goes into one factor only.
            self._terms[module.name].append((weight * b[:, :rank], a[:rank]))
        np.add.at(self._sum, update.positions, weight * update.values)
        self._weight += weight
        self.count += 1

    def stack(self, module: Module) -> tuple[Matrix, Matrix]:
        """Return B (out, R) and A (R, in) whose product is the weighted mean's."""
        terms = self._terms[module.name]
        b = np.concatenate([b for b, _ in terms], axis=1) / self._weight
        return b, np.concatenate([a for _, a in terms], axis=0)

    def mean_head(self) -> Vector:
        """Return the mean update, shape (N,), zero in all factors.

        Raises
        ------
        ValueError
            If there was no contribution.
        """
        if self.count == 0:
            raise ValueError("there is no product of no updates")
        mean = (self._sum / self._weight).astype(np.float32)
        for tensor, place in self.layout.slices():
            if tensor.role in (Role.A, Role.B):
                mean[place] = 0
        return mean


class OfProducts:
    """Aggregates products.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    finish : Callable[[Products], Aggregate]
        What is made of them in the end.
    """

    def __init__(
        self,
        layout: Layout,
        vector: Vector,
        finish: Callable[[Products], Aggregate],
    ) -> None:
        self._products = Products(layout, vector)
        self._finish = finish

    @property
    def count(self) -> int:
        """How many contributions it has taken."""
        return self._products.count

    def add(self, contribution: Contribution) -> None:
        """Take one contribution."""
        self._products.add(contribution)

    def result(self) -> Aggregate:
        """Return what was made of them."""
        return self._finish(self._products)


def stacked(products: Products) -> Aggregate:
    """Merge the stack of all factors into the backbone (FLoRA, arXiv 2409.05976).

    ``B A = sum_k p_k B_k A_k`` exactly, for any ranks. The adapter begins anew each
    round, from the same A and a zero B.
    """
    update = products.mean_head()
    terms = {m.name: products.stack(m) for m in products.modules}
    for module in products.modules:
        update[module.b_place] = -products.vector[module.b_place]
    return Aggregate(update, terms)


def refactored(products: Products) -> Aggregate:
    """Find the best factors of the mean product (FlexLoRA, arXiv 2402.11505).

    A client of rank r takes the first r components, which are the largest ones.
    """
    update = products.mean_head()
    for module in products.modules:
        b, a = best_factors(*products.stack(module), module.rank)
        # Where the product has fewer components than the adapter, A keeps its rows:
        # with zeros in both factors, they would never train again.
        target_b, target_a = module.factors(products.vector)
        target_b[:] = 0
        target_b[:, : b.shape[1]], target_a[: a.shape[0]] = b, a
        for place, target in ((module.b_place, target_b), (module.a_place, target_a)):
            start = products.vector[place]
            update[place] = target.astype(np.float32).ravel() - start
    return Aggregate(update)


class Exact:
    """FedEx-LoRA (arXiv 2410.09432): average the factors, merge what that misses.

    ``sum_k p_k B_k A_k - B A``, of rank up to the sum of all ranks, is merged into
    the backbone, where A and B are the averages by the rule inside.

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
        """How many contributions it has taken."""
        return self._products.count

    def add(self, contribution: Contribution) -> None:
        """Take one contribution."""
        self._inner.add(contribution)
        self._products.add(contribution)

    def result(self) -> Aggregate:
        """Return the average, and its error for the backbone."""
        averaged = self._inner.result()
        own = self._products
        target = own.vector + averaged.update
        terms = {}
        for module in own.modules:
            b, a = own.stack(module)
            mean_b, mean_a = module.factors(target)
            terms[module.name] = (
                np.concatenate([b, -mean_b], axis=1),
                np.concatenate([a, mean_a], axis=0),
            )
        return Aggregate(averaged.update, terms)
