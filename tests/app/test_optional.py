"""Packages that libraries import and a message does not need."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from flasc_flwr.app.optional import without
from tests.app.files import text_task


def test_a_package_is_hidden_only_inside_and_only_if_it_was_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys", "no_such_package"):
        assert find_spec("colorsys") is None
        with pytest.raises(ImportError):
            import colorsys
    import colorsys

    with without("colorsys"):
        assert sys.modules["colorsys"] is colorsys
        assert find_spec("colorsys") is not None


@pytest.mark.slow
def test_a_message_imports_neither_bitsandbytes_nor_scipy_and_finds_them_later():
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    program = (
        "import sys\n"
        "from flasc_flwr.app.optional import without\n"
        "with without('scipy', 'sklearn'):\n"
        "    import flasc_flwr.app.tasks\n"
        "from peft.import_utils import is_bnb_available\n"
        "from transformers.utils import is_scipy_available, is_sklearn_available\n"
        "loaded = {'bitsandbytes', 'scipy', 'sklearn'}.intersection(sys.modules)\n"
        "found = is_bnb_available(), is_scipy_available(), is_sklearn_available()\n"
        "print(bool(loaded), all(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_loading_a_model_does_not_import_all_others(root, monkeypatch):
    """The keys of transformers' table of models are classes, which it imports."""
    from transformers.models.auto import auto_factory

    def imports_all(table):
        raise AssertionError("it asked for the classes of all models")

    monkeypatch.setattr(auto_factory._LazyAutoMapping, "keys", imports_all)
    task = text_task(root / "bert", root / "t-*.jsonl")
    assert len(task.data.test) > 0
