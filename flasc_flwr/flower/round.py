"""FLASC's round, whole and in order: Algorithm 1 of Kuo et al. (arXiv 2406.05233)."""

from __future__ import annotations

from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.run import Run


def run_round(run: Run, current: int) -> None:
    """Run one round: sample, select and encode, train, decode and add, step, evaluate.

    W is the server vector, always dense. Client k receives P_k, trains it to W_k, and
    its update is W_k - P_k. Each way only the largest entries travel.
    """
    server, clock = run.server, run.ledger.phase
    with clock("select"):
        # Sample a cohort of the clients online, seeded by the run and the round.
        cohort = run.sample(current)
        # P_k: the top-k of |W| at the client's rank, encoded once for each budget.
        downloads = {client.budget: server.encode(client.budget) for client in cohort}
        messages = run.training_messages(cohort, downloads)
    # Each client trains all of P_k, and replies with the top-k of |W_k - P_k|
    # (flower/mod.py). Each reply is decoded, checked and added when it arrives.
    inbox, aggregator = run.inbox(cohort), run.aggregator()
    with clock("aggregate"):
        waiting = run.waiting(inbox, cohort)
        replies = exchange(run.grid, messages, run.timeout, **waiting)
        for update in inbox.updates(replies):
            aggregator.add(update)
            del update  # before the next is decoded
        # Step: the aggregate is the negative gradient of the server optimizer. Nothing
        # is stepped along that is not finite.
        if run.has_enough(aggregator) and run.step(run.release(aggregator)):
            run.report_training(inbox.metrics)
        del aggregator  # its sum takes more memory than the server vector
    # Evaluate what clients receive now: at some of them, and at the server.
    run.evaluate_at_clients(current)
    run.evaluate_at_server(current)
