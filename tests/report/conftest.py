"""A store whose names are as hostile as the store lets them be, with images for some of its rows."""

import numpy as np
import pytest
from PIL import Image

from featstore.evaluate import EvalRequest, evaluate
from featstore.spaces import Space
from featstore.store import NewRows, Store
from tests.store_factory import add_set

CLASSES, EACH, WIDTH = 9, 12, 12
N = CLASSES * EACH
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
OVERRIDE = "\u202e"


def id_of(row):
    return f"{ATTACK.replace('/', '|')}/{row}.png" if row % 3 == 0 else f"plain/{row}.png"


def class_of(row):
    return f"{ATTACK}{OVERRIDE} {row // EACH}"


@pytest.fixture(scope="session")
def features():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(CLASSES), EACH)
    centres = rng.normal(size=(CLASSES, WIDTH))
    noise = rng.normal(size=(N, WIDTH))
    return {
        "old": (centres[labels] + 2.2 * noise).astype(np.float32),
        "better": (centres[labels] + 1.5 * noise).astype(np.float32),
        "twin": (centres[labels] + 2.2 * noise + 0.02 * rng.normal(size=(N, WIDTH))).astype(np.float32),
        "best": (centres[labels] + 0.4 * noise).astype(np.float32),
        "other": rng.normal(size=(N, WIDTH)).astype(np.float32),
    }


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Pictures for the rows in plain/; row n is a flat grey of value n."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "plain").mkdir()
    for row in range(N):
        if row % 3:
            Image.new("RGB", (200, 120), (row, row, row)).save(folder / id_of(row))
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory, features, images):
    store = Store.init(tmp_path_factory.mktemp("store"))
    rows = NewRows([id_of(row) for row in range(N)], [class_of(row) for row in range(N)])
    store.create_dataset("shop", rows, root=str(images))
    old = Space.named(ATTACK, WIDTH)
    add_set(store, "shop", "old", features["old"], space=old)
    for name in ("better", "twin", "best"):
        identity = {"kind": ATTACK, "map": name}
        space = Space(name=name, width=WIDTH, identity=identity, compatible_with=(old.digest,))
        add_set(store, "shop", name, features[name], space=space)
    add_set(store, "shop", "other", features["other"])
    return store


@pytest.fixture(scope="session")
def compatible(store):
    request = EvalRequest(
        old="shop/old",
        new="shop/better",
        reference="shop/best",
        bootstrap=400,
        backfill=("random", "label"),
        fpr=(0.01, 1e-9),
    )
    return evaluate(store, request)


@pytest.fixture(scope="session")
def undecided(store):
    return evaluate(store, EvalRequest(old="shop/old", new="shop/twin", bootstrap=400))


@pytest.fixture(scope="session")
def chain(store):
    return evaluate(
        store, EvalRequest(generations=("shop/old", "shop/better", "shop/best"), allow_unrelated=True, bootstrap=200)
    )
