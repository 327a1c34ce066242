"""Densities by turn: the schedules of methods, and the decay that is theirs."""

import numpy as np
import pytest

from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.sparsity import top_k


def downloads(name, decay, turns, density=0.25):
    """Return the download densities of some turns."""
    most = Budget(download_density=density, upload_density=density)
    allotment = Allotment(method=METHODS[name], most=most, decay=decay)
    own = allotment.of("0", {})
    return [allotment.at(turn, own).download_density for turn in turns]


def test_by_default_only_adapter_lth_prunes_turn_by_turn():
    pruned = downloads("adapter-lth", Decay(), (1, 2, 3, 28, 29, 40))
    # Iterative magnitude pruning: 0.95 of what was kept, until a quarter is left.
    assert pruned == pytest.approx([1.0, 0.95, 0.95**2, 0.95**27, 0.25, 0.25])
    assert pruned[3] > 0.25 > 0.95**28
    assert downloads("flasc", Decay(), (1, 2, 40)) == [0.25, 0.25, 0.25]


def test_a_given_decay_replaces_the_methods_own():
    assert downloads("adapter-lth", Decay(download=0.5), (1, 2, 3, 4)) == [
        *(1.0, 0.5, 0.25, 0.25)
    ]
    assert downloads("adapter-lth", Decay(download=1.0), (1, 40)) == [1.0, 1.0]
    flasc = downloads("flasc", Decay(download=0.5, every=2), (1, 2, 3, 5))
    assert flasc == [0.25, 0.25, 0.125, 0.0625]


def test_a_density_decays_towards_one_entry_and_never_to_none():
    # 0.25 * 0.1 ** 400 is zero in floating point, and zero is no density.
    late = downloads("flasc", Decay(download=0.1, upload=0.1), (2, 401))
    assert late[0] == pytest.approx(0.025)
    assert 0 < late[1] < 1e-300
    assert top_k(np.ones(1000, np.float32), late[1]).kept == 1
