"""A memory in a folder is still there when a SuperNode was killed."""

import os
import shutil

import pytest
from flwr.app import Context, RecordDict

from flasc_flwr.flower.feedback.kept_memory import (
    MEMORY_FOLDER,
    MOST_MEMORIES,
    MemoryFolderError,
    kept_memory,
    recalled,
)
from tests.flower.feedback.patchy import PatchyGrid
from tests.flower.feedback.test_protocol import NODES, references, run, strategy_of

VICTIM = 1


class Restarting(PatchyGrid):
    """The first node's memory is in a folder; its SuperNode is killed in between.

    ``before`` maps the number of a training message to what happens before it.
    """

    def __init__(self, folder, before):
        self.folder, self.before = folder, before
        config = {MEMORY_FOLDER: str(folder)}
        super().__init__(NODES, node_configs=[config, {}, {}, {}])

    def _run_app(self, message):
        context = self._contexts[VICTIM]
        if message.metadata.dst_node_id == VICTIM:
            if happens := self.before.get(self.seen[VICTIM] + 1):
                happens(self.folder)
            context.state = RecordDict()  # the process that had it is gone
        return super()._run_app(message)


def delete(folder):
    shutil.rmtree(folder)


def damage(folder):
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(folder):
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])


def copied(folder):
    shutil.copytree(folder, folder.with_name("backup"))


def restored(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("backup"), folder)


def sent_to_victim(grid):
    return [(ctl, len(data)) for node, ctl, data in grid.sent if node == VICTIM]


def test_a_killed_node_goes_on_from_its_file_as_if_nothing_had_happened(tmp_path):
    grid = Restarting(tmp_path / "memory", {})
    strategy = run(strategy_of(), grid, 6)
    assert all(row["replies"] == NODES for row in strategy.state.history[1:])
    whole = [bool(ctl.get("memory-whole")) for ctl, _ in sent_to_victim(grid)]
    assert whole == [True] + 5 * [False]
    assert len(grid.digests()) == NODES
    assert set(grid.digests().values()) == references(strategy)
    # Its residual, too.
    other = PatchyGrid(NODES)
    run(strategy_of(), other, 6)
    assert (grid.memory(1).residual == other.memory(1).residual).all()
    assert not grid._contexts[VICTIM].state


@pytest.mark.parametrize("lost", [delete, damage, cut])
def test_a_node_without_its_file_is_sent_the_whole_reference(lost, tmp_path):
    grid = Restarting(tmp_path / "memory", {4: lost})
    strategy = run(strategy_of(), grid, 6)
    replies = [row["replies"] for row in strategy.state.history[1:]]
    assert replies == [4, 4, 4, 3, 4, 4]
    sizes = [size for _, size in sent_to_victim(grid)]
    wholes = [bool(ctl.get("memory-whole")) for ctl, _ in sent_to_victim(grid)]
    assert wholes == [True, False, False, False, True, False]
    assert sizes[4] > 2 * sizes[3]
    assert set(grid.digests().values()) == references(strategy)


def test_an_older_file_is_noticed_and_catches_up(tmp_path):
    grid = Restarting(tmp_path / "memory", {4: copied, 6: restored})
    strategy = run(strategy_of(), grid, 8)
    replies = [row["replies"] for row in strategy.state.history[1:]]
    assert replies == [4, 4, 4, 4, 4, 3, 4, 4]
    control, _ = sent_to_victim(grid)[6]
    # The payloads since the third round, of which the last one's length is implied.
    assert not control.get("memory-whole")
    assert len(control["memory-lengths"]) == 3
    assert set(grid.digests().values()) == references(strategy)


def test_whatever_is_killed_or_lost_references_are_equal_at_the_end(tmp_path):
    grid, saved = Restarting(tmp_path / "memory", {5: delete}), []
    grid.events = {(VICTIM, 3): "reply lost", (2, 4): "reply lost"}
    run(strategy_of(on_checkpoint=saved.append), grid, 7)
    assert [row["replies"] for row in saved[-1].state.history[1:]] == [
        *(4, 4, 3, 3, 3, 4, 4)
    ]
    resumed = run(strategy_of(resume=saved[4]), grid, 9)
    assert all(row["replies"] == NODES for row in resumed.state.history[6:])
    assert len(grid.digests()) == NODES
    assert set(grid.digests().values()) == references(resumed)


def node(folder, run_id=7, **more):
    config = {"partition-id": 0, MEMORY_FOLDER: str(folder), **more}
    return Context(run_id, 1, config, state=RecordDict(), run_config={})


def memory():
    grid = PatchyGrid(NODES)
    run(strategy_of(), grid, 1)
    return {key: array.numpy() for key, array in grid.stored(1).items()}


def test_a_memory_is_of_one_run_and_one_device(tmp_path):
    kept_memory(node(tmp_path)).write(memory())
    assert recalled(node(tmp_path))
    assert recalled(node(tmp_path, run_id=8)) is None
    assert recalled(node(tmp_path, **{"partition-id": 1})) is None


def test_the_last_sixteen_memories_stay(tmp_path):
    stored = memory()
    kept_memory(node(tmp_path, **{"partition-id": 1})).write(stored)
    for run_id in range(MOST_MEMORIES + 2):
        kept_memory(node(tmp_path, run_id=run_id)).write(stored)
        for file in tmp_path.iterdir():  # file systems may have coarse clocks
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 10))
    found = [bool(recalled(node(tmp_path, run_id=i))) for i in range(MOST_MEMORIES + 2)]
    assert found == [False, False] + MOST_MEMORIES * [True]
    assert recalled(node(tmp_path, **{"partition-id": 1}))
    assert len(list(tmp_path.iterdir())) == MOST_MEMORIES + 1


def test_memories_of_several_records_are_apart(tmp_path):
    stored = memory()
    for key in ("one", "../other"):
        context = node(tmp_path)
        kept_memory(context, key).write(stored | {"residual": stored["residual"] * 2})
        assert recalled(context) is None
        assert (recalled(context, key).residual == stored["residual"] * 2).all()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("given", ["here/memory", "", 3, True])
def test_a_folder_that_is_not_an_absolute_path_is_refused(given):
    context = node("")
    context.node_config[MEMORY_FOLDER] = given
    with pytest.raises(MemoryFolderError, match="must be an absolute path$"):
        recalled(context)


def test_a_folder_that_cannot_be_written_is_an_error_that_does_not_name_it(tmp_path):
    (tmp_path / "secret").write_text("a file, not a folder")
    context = node(tmp_path / "secret" / "memory")
    for use in (recalled, lambda one: kept_memory(one).write(memory())):
        with pytest.raises(MemoryFolderError, match="cannot be used: Not a dir") as e:
            use(context)
        assert "secret" not in str(e.value)


def test_a_write_that_fails_leaves_the_memory_as_it_was(tmp_path, monkeypatch):
    stored = memory()
    kept_memory(node(tmp_path)).write(stored)

    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MemoryFolderError, match="No space left on device$"):
        kept_memory(node(tmp_path)).write(
            {**stored, "residual": stored["residual"] * 2}
        )
    assert (recalled(node(tmp_path)).residual == stored["residual"]).all()
