"""What the benchmark must know about a foreign app."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FLOWER = "https://github.com/adap/flower"
COMMIT = "fdef7afb1dca3030553be302366cfd285ed6632c"


@dataclass(frozen=True, kw_only=True)
class App:
    """A public Flower app, and how it is run here.

    Attributes
    ----------
    name : str
        Name in the table.
    folder : str
        Its folder in the repository.
    nodes : int
        Number of nodes of the simulation.
    config : Mapping[str, Any]
        Run-config keys that differ from the app's own. ``package:NAME/FOLDER`` is a
        folder of an installed package, ``llm:NAME`` the GGUF file of one, unpacked,
        and ``bert:tiny`` a small model that is made here (models.py).
    strategy : str
        The name under which its server module constructs the strategy.
    metric : str
        Name of its own metric, by ``server`` (evaluated centrally), ``clients`` (the
        mean over clients) or ``train`` (of the training), such as ``server:accuracy``.
        With `evaluation`, what that returns.
    evaluation : str
        ``module:function`` that evaluates the final arrays, where the app itself
        evaluates nothing: from arrays and run config to a number.
    seeds : int
        Number of runs, with different seeds.
    needs : tuple[str, ...]
        Modules that it imports and this project does not need.
    data : bool
        Whether it needs the folder FLASC_DATA.
    words : str
        The model and the data.
    repository, commit : str
        Where it is.
    """

    name: str
    folder: str
    nodes: int
    metric: str
    words: str
    config: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "FedAvg"
    evaluation: str = ""
    seeds: int = 3
    needs: tuple[str, ...] = ()
    data: bool = False
    repository: str = FLOWER
    commit: str = COMMIT
