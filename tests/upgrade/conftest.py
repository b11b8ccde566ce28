import numpy as np
import pytest

from featstore.spaces import Space
from featstore.store import Store
from tests.store_factory import add_set, labelled_store

N, CLASSES, WIDTH = 200, 8, 12
LACKING = (3, 17, 60)  # rows that the new set has no feature of
NEW = Space.named("new", WIDTH)
MAPPED = Space(name="lifted", width=WIDTH, identity={"kind": "map", "map": "of a test"}, compatible_with=(NEW.digest,))


@pytest.fixture(scope="session")
def features():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    centres, noise = rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=(N, WIDTH))
    found = {
        name: (centres[labels] + spread * noise).astype(np.float32)
        for name, spread in (("mapped", 2.0), ("new", 1.0), ("unrelated", 2.0))
    }
    found["old"] = (found["mapped"] @ rng.normal(size=(WIDTH, 6))).astype(np.float32)
    return found


@pytest.fixture(scope="session")
def _made(tmp_path_factory, features):
    """A store with an old set, the same mapped into the new space, and a new set that lacks some rows."""
    root = tmp_path_factory.mktemp("made") / "store"
    columns = {"popularity": np.random.default_rng(1).integers(0, 1000, N)}
    store = labelled_store(root, "shop", np.arange(N) % CLASSES, columns=columns)
    add_set(store, "shop", "old", features["old"])
    add_set(store, "shop", "mapped", features["mapped"], space=MAPPED)
    add_set(store, "shop", "new", features["new"], space=NEW, failed=LACKING)
    add_set(store, "shop", "unrelated", features["unrelated"])
    return root


@pytest.fixture
def root(_made, tmp_path):
    """A copy of the store that a test may change."""
    import shutil

    return shutil.copytree(_made, tmp_path / "store")


@pytest.fixture
def store(root):
    return Store.open(root)
