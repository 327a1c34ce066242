"""A wrapper whose attributes are those of the strategy inside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Transparent(Strategy):
    """A wrapped strategy that is used as if it were not wrapped.

    Attributes and methods that the wrapper does not have are those of `inner`. What is
    set on the wrapper is set on `inner`, methods as well. The wrapper's own attributes
    are those that its constructor sets before `inner`.

    Attributes
    ----------
    inner : Strategy
        The wrapped strategy. Constructors set it last.
    """

    inner: Strategy

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the inner strategy.

        Its methods are called with grids that encode messages, if they take a grid.
        """
        # Copies and unpickled objects have no inner strategy yet.
        if "inner" not in vars(self) or name.startswith("__"):
            raise AttributeError(name)
        try:
            value = getattr(self.inner, name)
        except AttributeError as error:
            kinds = f"{type(self).__name__} nor {type(self.inner).__name__}"
            raise AttributeError(
                f"neither {kinds} has an attribute {name!r}", name=name, obj=self.inner
            ) from error
        if getattr(value, "__self__", None) is self.inner and callable(value):
            return self._with_encoding_grids(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the inner strategy, or one of the wrapper's own."""
        if "inner" not in vars(self) or name in vars(self):
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute of the inner strategy."""
        delattr(self.inner, name)

    def __dir__(self) -> list[str]:
        """Return the names of the wrapper's and the inner strategy's attributes."""
        return sorted({*super().__dir__(), *dir(self.inner)})

    def encoding_grid(self, grid: Grid) -> Grid:
        """Return a grid that encodes what is sent through `grid`."""
        raise NotImplementedError

    def _with_encoding_grids(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of the inner strategy that is called with encoding grids."""

        def encoding(value: Any) -> Any:
            return self.encoding_grid(value) if isinstance(value, Grid) else value

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            named = {key: encoding(value) for key, value in kwargs.items()}
            return method(*map(encoding, args), **named)

        return call
