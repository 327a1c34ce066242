import pytest
from flwr.app import Error, Message

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.clients.roster import Roster
from flasc_flwr.flower.compat import ErrorCode
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.ledger import Ledger
from tests.flower.apps import client_app

BUDGET = Budget(download_density=0.5, upload_density=0.25)


def present(grid, at_least=1):
    roster = Roster(lambda name, own: BUDGET.limited_by(own), timeout=5)
    return roster.present(grid, Ledger(0, Traffic()), at_least=at_least)


def test_budgets_are_the_nodes_own_where_it_sets_them():
    configs = [{}, {"upload-density": 0.125}, {"download-density": 1.0}]
    grid = LocalGrid(client_app(), 3, node_configs=configs)
    budgets = [participant.budget for participant in present(grid)]
    assert budgets == [
        BUDGET,
        Budget(download_density=0.5, upload_density=0.125),
        Budget(download_density=1.0, upload_density=0.25),
    ]


def test_a_node_with_an_absurd_budget_stays_out(caplog):
    grid = LocalGrid(client_app(), 2, node_configs=[{"upload-density": 7.0}, {}])
    assert [participant.node_id for participant in present(grid)] == [2]


def test_a_node_that_is_away_is_asked_again():
    calls = []
    app = client_app()

    def flaky(message, context):
        calls.append(message.metadata.dst_node_id)
        if len(calls) == 1:
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="away")
            return Message(error, reply_to=message)
        return app(message, context)

    assert [participant.node_id for participant in present(LocalGrid(flaky, 1))] == [1]
    assert calls == [1, 1]


def test_an_app_that_cannot_introduce_itself_is_asked_once():
    calls = []

    def broken(message, context):
        calls.append(1)
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="none of the 1 connected nodes"):
        present(LocalGrid(broken, 1))
    assert len(calls) == 1
