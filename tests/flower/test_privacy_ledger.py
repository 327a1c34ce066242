"""The release ledger: what a private run has released survives a crash."""

import json
import logging
import os
from collections import Counter

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event, rdp
from flwr.app import MetricRecord

from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.privacy import private as private_module
from flasc_flwr.flower.privacy.release_ledger import Release, ReleaseLedger
from flasc_flwr.flower.state.checkpoint_files import Checkpoints, found, read
from flasc_flwr.flower.state.health import DivergedError
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app
from tests.flower.test_private import CLIENTS, epsilons, privacy, run, strategy_of

SECRET = {"noise_seed": None}
POISSON = {"noise_seed": None, "sampling": "poisson"}  # accounted for much faster


class Crashed(Exception):
    """Stands in for a process that is killed."""


def crash_in(round):
    """Return an ``on_round`` that crashes when a round has ended."""

    def on_round(row):
        if row["round"] == round:
            raise Crashed

    return on_round


def epsilon_of(lines, delta=CLIENTS**-1.1):
    """Compute epsilon of a ledger's lines without this project's code."""
    relations, events = set(), Counter()
    for line in lines:
        gaussian = dp_event.GaussianDpEvent(line["noise_multiplier"])
        sample, population = line["sample_size"], line["population_size"]
        if line["sampling"] == "poisson":
            event = dp_event.PoissonSampledDpEvent(sample / population, gaussian)
            relations.add(NeighboringRelation.ADD_OR_REMOVE_ONE)
        else:
            event = dp_event.SampledWithoutReplacementDpEvent(
                population, sample, gaussian
            )
            relations.add(NeighboringRelation.REPLACE_ONE)
        events[event] += 1
    (relation,) = relations
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    for event, count in events.items():
        accountant.compose(event, count)
    return accountant.get_epsilon(delta)


def lines_of(ledger):
    return [json.loads(line) for line in ledger.path.read_text().splitlines()]


@pytest.fixture
def ledger(tmp_path):
    return ReleaseLedger(tmp_path / "releases.jsonl")


def test_a_run_resumed_from_round_10_of_19_counts_29_releases(tmp_path, ledger):
    own = privacy(**POISSON)
    folder = tmp_path / "checkpoints"
    with pytest.raises(Crashed):
        run(
            own,
            20,
            release_ledger=ledger,
            on_checkpoint=Checkpoints(folder, 10),
            on_round=crash_in(19),
        )
    assert read(folder).round == 10
    resumed = run(own, 20, release_ledger=ledger, resume=read(folder))
    rounds = [line["round"] for line in lines_of(ledger)]
    assert rounds == [*range(1, 20), *range(11, 21)]
    assert epsilons(resumed)[-1] == pytest.approx(epsilon_of(lines_of(ledger)))
    # Each row after the resume counts all releases up to its own.
    for row in resumed.state.history[11:]:
        assert row["epsilon"] == pytest.approx(
            epsilon_of(lines_of(ledger)[: 19 + row["round"] - 10])
        )
    compositions = resumed.state.privacy["accountant"]["compositions"]
    assert sum(entry["count"] for entry in compositions) == 29
    # A second crash, from the same checkpoint: nothing is charged twice.
    again = run(own, 11, release_ledger=ledger, resume=read(folder))
    assert len(lines_of(ledger)) == 30
    assert epsilons(again)[-1] == pytest.approx(epsilon_of(lines_of(ledger)))


def test_an_undisturbed_resume_is_charged_nothing_more(tmp_path, ledger):
    own = privacy(**SECRET)
    run(own, 3, release_ledger=ledger, on_checkpoint=Checkpoints(tmp_path, 1))
    resumed = run(own, 5, release_ledger=ledger, resume=read(tmp_path))
    assert epsilons(resumed) == pytest.approx(epsilons(run(own, 5)))


def test_a_release_is_on_the_disk_before_it_is_used(ledger, monkeypatch):
    steps = []
    fsync, released = os.fsync, private_module.released

    def spying_fsync(handle):
        fsync(handle)
        steps.append(("flushed", len(lines_of(ledger))))

    def spying_released(*arguments, **settings):
        steps.append(("used", len(lines_of(ledger))))
        return released(*arguments, **settings)

    monkeypatch.setattr(os, "fsync", spying_fsync)
    monkeypatch.setattr(private_module, "released", spying_released)
    run(privacy(), 3, release_ledger=ledger)
    # The first line also flushes the folder's names.
    assert steps == [
        ("flushed", 1),
        ("flushed", 1),
        ("used", 1),
        ("flushed", 2),
        ("used", 2),
        ("flushed", 3),
        ("used", 3),
    ]


def test_a_ledger_that_cannot_be_written_ends_the_run_before_the_release(
    ledger, monkeypatch
):
    used = []
    monkeypatch.setattr(private_module, "released", lambda *a, **k: used.append(a))

    def fail(handle):
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        run(privacy(), 3, release_ledger=ledger)
    assert not used


def crashed(tmp_path, ledger, own, rounds=5):
    """Crash after some rounds; return the checkpoint of round 2."""
    with pytest.raises(Crashed):
        run(
            own,
            rounds + 1,
            release_ledger=ledger,
            on_checkpoint=Checkpoints(tmp_path / "checkpoints", 2),
            on_round=crash_in(rounds),
        )
    older, _ = found(tmp_path / "checkpoints")
    assert older.name == "checkpoint-000002.flasc"
    return older


def test_a_line_cut_short_anywhere_is_charged_as_a_release(tmp_path, ledger):
    own = privacy(**POISSON)
    checkpoint = crashed(tmp_path, ledger, own)
    whole = ledger.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    before, last = b"".join(lines[:-1]), lines[-1]
    for kept in (1, 2, 30, len(last) - 2, len(last) - 1, len(last)):
        ledger.path.write_bytes(before + last[:kept])
        strategy = strategy_of(own, release_ledger=ledger, resume=read(checkpoint))
        strategy.start(LocalGrid(client_app(), CLIENTS), array_record(adapter()), 0)
        assert len(lines_of(ledger)) == 5, kept
        spent = strategy.state.privacy["spent"]["epsilon"]
        assert spent == pytest.approx(epsilon_of(lines_of(ledger)))
    # The next line does not continue the one that was cut short.
    ledger.path.write_bytes(before + last[:30])
    ledger.add(Release.of_line(last))
    assert [Release.of_line(line) is None for line in ledger.path.open("rb")] == [
        *[False] * 4,
        True,
        False,
    ]


def test_any_flipped_bit_is_still_a_release(tmp_path, ledger):
    own = privacy(**POISSON)
    checkpoint = crashed(tmp_path, ledger, own)
    whole = ledger.path.read_bytes()
    spent = epsilon_of(lines_of(ledger))
    rng = np.random.default_rng(0)
    breaks = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for place in [*breaks, *rng.choice(len(whole), 15, replace=False)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        ledger.path.write_bytes(damaged)
        resumed = strategy_of(own, release_ledger=ledger, resume=read(checkpoint))
        resumed.start(LocalGrid(client_app(), CLIENTS), array_record(adapter()), 0)
        assert resumed.state.privacy["spent"]["epsilon"] >= spent * (1 - 1e-9)


def test_a_damaged_line_counts_like_the_costliest_release(ledger):
    own = privacy(population=40)
    events = [
        Release.of_line(
            Release(
                event=private_module.release_of(own, size), sampling="fixed", round=size
            ).to_line()
        )
        for size in (3, 9, 5)
    ]
    for event in events:
        ledger.add(event)
    with ledger.path.open("ab") as file:
        file.write(b'{"round": 4, "noise')
    known = {}
    private_module.Private(own, known)
    private_module.Private(own, known, ledger)
    sizes = Counter(line["sample_size"] for line in lines_of(ledger))
    assert sizes == {3: 1, 9: 2, 5: 1}


def test_with_nothing_known_a_damaged_line_counts_like_the_whole_population(ledger):
    ledger.path.write_bytes(b"\0\0\0")
    known = {}
    private_module.Private(privacy(), known)
    private_module.Private(privacy(), known, ledger)
    (line,) = lines_of(ledger)
    assert line["sample_size"] == CLIENTS
    assert known["spent"]["epsilon"] == pytest.approx(epsilon_of([line]))


def test_a_run_that_began_without_a_ledger_continues_with_a_whole_one(tmp_path, ledger):
    own = privacy(**POISSON)
    run(own, 4, on_checkpoint=Checkpoints(tmp_path, 4))
    checkpoint = found(tmp_path)[-1]
    for _ in range(2):  # the second one forgets the first one's rounds
        resumed = run(own, 6, release_ledger=ledger, resume=read(checkpoint))
    assert len(lines_of(ledger)) == 4 + 2 + 2
    assert epsilons(resumed)[-1] == pytest.approx(epsilon_of(lines_of(ledger)))


def test_a_new_run_does_not_take_the_ledger_of_another(ledger):
    run(privacy(), 2, release_ledger=ledger)
    with pytest.raises(ValueError, match="must be empty for a new run, got 2 releases"):
        run(privacy(), 2, release_ledger=ledger)


def test_a_ledger_of_other_settings_is_refused(tmp_path, ledger):
    own = privacy()
    run(own, 2, on_checkpoint=Checkpoints(tmp_path, 1))
    event = private_module.release_of(privacy(population=99), 3)
    ledger.add(Release(event=event, sampling="fixed"))
    with pytest.raises(ValueError, match=r"\(12, 'fixed'\), got \(99, 'fixed'\)"):
        run(own, 3, release_ledger=ledger, resume=read(tmp_path))


@pytest.mark.parametrize(
    ("own", "given", "warnings"),
    [
        (privacy(), False, 1),
        (privacy(), True, 0),
        (privacy(noise_multiplier=0.0), False, 0),
        (None, False, 0),
    ],
)
def test_a_private_run_without_a_ledger_warns_once(
    ledger, caplog, monkeypatch, own, given, warnings
):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        run(own, 2, release_ledger=ledger if given else None)
    said = [r for r in caplog.records if "No release ledger" in r.getMessage()]
    assert len(said) == warnings


def test_a_resumed_run_draws_other_cohorts_and_other_noise(tmp_path, ledger):
    """Two releases of one cohort reveal more than two of independent cohorts."""
    own = privacy(population=40, **SECRET)
    run(own, 1, clients=40, on_checkpoint=Checkpoints(tmp_path, 1))
    secrets, vectors, cohorts = set(), [], []
    for _ in range(2):
        resumed = run(own, 2, clients=40, resume=read(tmp_path))
        secrets.add(resumed.state.privacy["secret"])
        vectors.append(resumed.state.vector)
        sums = resumed.state.traffic.rounds[2].values()
        cohorts.append({sent.client for sent in sums if sent.vectors})
    assert len(secrets | {read(tmp_path).state.privacy["secret"]}) == 3
    assert not np.array_equal(*vectors)
    assert cohorts[0] != cohorts[1]


def test_a_resumed_run_does_not_pass_its_bound_for_what_the_ledger_has(
    tmp_path, ledger
):
    spent = epsilons(run(privacy(**POISSON), 7))
    six = (spent[5] + spent[6]) / 2  # enough for six releases
    own = privacy(max_epsilon=six, **POISSON)
    checkpoint = crashed(tmp_path, ledger, own)  # after five
    resumed = run(own, 9, release_ledger=ledger, resume=read(checkpoint))
    assert len(lines_of(ledger)) == 6
    assert "another round would spend more" in resumed.ended
    with pytest.raises(ValueError, match="another round would spend more"):
        run(own, 9, release_ledger=ledger, resume=read(checkpoint))
    assert len(lines_of(ledger)) == 6


def test_a_run_that_diverges_has_spent_what_it_released(ledger):
    """Its model is that of an earlier round, but the later ones were sent, too."""
    own = privacy(quantile=0.5, **POISSON)
    strategy = strategy_of(own, release_ledger=ledger, evaluate_every=3)

    def evaluate(current, arrays):
        return MetricRecord({"loss": float("nan") if current == 6 else 1.0})

    grid = LocalGrid(client_app(), CLIENTS)
    with pytest.raises(DivergedError, match="last good state is that after round 3"):
        strategy.start(
            grid, array_record(adapter()), 9, timeout=1, evaluate_fn=evaluate
        )
    state = strategy.state
    assert [row["round"] for row in state.history] == [0, 1, 2, 3]
    assert len(lines_of(ledger)) == 6
    compositions = state.privacy["accountant"]["compositions"]
    assert sum(entry["count"] for entry in compositions) == 6
    spent = pytest.approx(epsilon_of(lines_of(ledger)))
    assert state.privacy["spent"]["epsilon"] == spent
    # A run that resumes from the good state without a ledger counts them, too.
    norm = state.privacy["clip_norm"]  # that of the good model
    resumed = run(own, 4, resume=strategy.good)
    compositions = resumed.state.privacy["accountant"]["compositions"]
    assert sum(entry["count"] for entry in compositions) == 7
    assert resumed.state.history[4]["clip_norm"] == norm


def test_a_second_start_accounts_for_itself():
    """In 0.1 it counted the releases of the first run, too."""
    strategy = strategy_of(privacy())
    seen = []
    for _ in range(2):
        grid = LocalGrid(client_app(), CLIENTS)
        strategy.start(grid, array_record(adapter()), 3)
        seen.append(epsilons(strategy))
    assert len(seen[0]) == 3
    assert seen[0] == seen[1]


def test_a_second_start_resumes_from_the_same_checkpoint(tmp_path):
    run(privacy(), 2, on_checkpoint=Checkpoints(tmp_path, 1))
    strategy = strategy_of(privacy(), resume=read(tmp_path))
    ends = []
    for _ in range(2):
        grid = LocalGrid(client_app(), CLIENTS)
        strategy.start(grid, array_record(adapter()), 4)
        ends.append((epsilons(strategy), strategy.state.vector.copy()))
        assert [row["round"] for row in strategy.state.history] == [0, 1, 2, 3, 4]
    assert ends[0][0] == ends[1][0]
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_a_private_run_reports_nothing_of_its_uploads_without_noise():
    open_, private = run(None), run(privacy())
    assert private.state.history[1].keys() - {"epsilon", "delta", "clip_norm"} == {
        key for key in open_.state.history[1] if not key.startswith("train_")
    }
    assert open_.state.history[1]["kept_up"] > 0
    assert all(row["kept_up"] is None for row in private.state.history)
    assert private.state.history[1]["kept_down"] > 0
    reports = open_.by_tensor(), private.by_tensor()
    for report, known in zip(reports, (True, False), strict=True):
        assert all((t["kept_up"] is not None) == known for t in report["tensors"])
        assert all(t["kept_down"] is not None for t in report["tensors"])
        assert (report["bits_per_parameter"]["up"] is not None) == known
        assert report["bits_per_parameter"]["down"] > 0
