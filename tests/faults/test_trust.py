"""Invariants 5 and 8, over the whole of the code: nothing stored is executed, and no number needs an image."""

import ast
import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore.evaluate import EvalRequest, evaluate
from featstore.store import NewRows, Store
from featstore_training import TrainConfig, train
from tests.store_factory import add_set

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for part in ("featstore", "training", "cli") for path in (ROOT / part).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "yaml"}
# two readers that take no more than plain data, each with tests that try to get more through
PLAIN_READERS = {"plain_pickle.py": {"pickle"}, "recipes.py": {"yaml"}}
HARMLESS = {"UnpicklingError"}  # what torch's restricted reader raises
CALLS = {"eval", "exec", "compile", "__import__"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_reads_pickles_or_executes_text(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and {alias.name for alias in node.names} - HARMLESS
    }
    found = {name.partition(".")[0] for name in imported} & MODULES
    assert found <= PLAIN_READERS.get(source.name, set())
    for name, words in calls(tree):
        assert name not in CALLS | {
            "pickle.load",
            "pickle.loads",
            "pickle.Unpickler",
            "yaml.unsafe_load",
            "yaml.full_load",
        }
        assert name != "torch.load" or words.get("weights_only") == "True"
        assert words.get("allow_pickle", "False") == "False"
        assert words.get("trust_remote_code", "False") == "False"
        assert name != "np.load" or words.get("allow_pickle") == "False"


def test_training_in_head_mode_and_evaluation_read_no_image(tmp_path, monkeypatch):
    """The images that the dataset names are there, and are never opened."""
    images = tmp_path / "images"
    images.mkdir()
    ids = [f"{n}.png" for n in range(80)]
    for name in ids:
        Image.new("RGB", (2, 2)).save(images / name)
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 8
    centres = draw.normal(size=(8, 6))
    store = Store.init(tmp_path / "store")
    store.create_dataset("d", NewRows(ids, [f"c{label}" for label in labels]), root=str(images))
    for name in ("old", "new"):
        add_set(store, "d", name, (centres[labels] + 0.1 * draw.normal(size=(80, 6))).astype(np.float32))

    opened = builtins.open

    def guarded(file, *args, **kwargs):
        assert not str(file).startswith(str(images))
        return opened(file, *args, **kwargs)

    def refused(*_args, **_kwargs):
        raise AssertionError("an image was opened")

    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr("io.open", guarded)
    monkeypatch.setattr(Image, "open", refused)
    config = TrainConfig(loss="l2", new="d/new", old="d/old", epochs=1, batch=32, lr=0.01, val_fraction=0.2)
    assert train(store, config, tmp_path / "run").classes == 8
    result = evaluate(store, EvalRequest(old="d/old", new="d/new", bootstrap=50, allow_unrelated=True))
    assert {cell.role for cell in result.cells} == {"old/old", "new/old", "new/new"}
