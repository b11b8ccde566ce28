"""One shop: three generations in one space, a wider model, and maps between the spaces."""

import numpy as np
import pytest
import torch

from featstore.maps import LinearConfig, build_map, save_map
from featstore.spaces import Space
from tests.evaluate.upgrades.shop import CLASSES, WIDTH, N
from tests.store_factory import add_set, labelled_store


@pytest.fixture(scope="package")
def features():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    centres, noise = rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=(N, WIDTH))
    rotation = np.linalg.qr(rng.normal(size=(16, WIDTH)))[0]
    found = {
        name: (centres[labels] + spread * noise + 0.1 * rng.normal(size=(N, WIDTH))).astype(np.float32)
        for name, spread in (("a", 2.4), ("b", 1.8), ("c", 1.2))
    }
    found["wide"] = (found["c"] @ rotation.T).astype(np.float32)
    found["twin"] = found["c"][:, ::-1].copy()
    return found


@pytest.fixture(scope="package")
def store(tmp_path_factory, features):
    store = labelled_store(tmp_path_factory.mktemp("store"), "shop", np.arange(N) % CLASSES)
    space = Space.named("shared", WIDTH)
    for name in "abc":
        add_set(store, "shop", name, features[name], space=space)
    add_set(store, "shop", "wide", features["wide"], space=Space.named("wide", 16))
    return store


@pytest.fixture(scope="package")
def runs(tmp_path_factory, store, features):
    """Run folders of maps fitted by least squares: wide → shared, shared → wide, and within shared."""
    folder = tmp_path_factory.mktemp("runs")
    spaces = {name: store.features(f"shop/{name}").space for name in ("a", "wide")}
    for name, source, target in (("down", "wide", "a"), ("up", "a", "wide"), ("flat", "a", "a")):
        inside, outside = (features["wide" if side == "wide" else "c"] for side in (source, target))
        module = build_map(LinearConfig(), inside.shape[1], outside.shape[1])
        with torch.no_grad():
            weight = np.linalg.lstsq(inside, outside, rcond=None)[0].T
            module.body.weight.copy_(torch.from_numpy(weight))
            module.body.bias.zero_()
        declared = (spaces[target].digest,)
        save_map(
            folder / name,
            module,
            config=LinearConfig(),
            input_space=spaces[source],
            name=name,
            compatible_with=declared,
            training={},
        )
    return folder
