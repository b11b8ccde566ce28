import pytest

from featstore.evaluate import EvalRequest, evaluate
from featstore.spaces import Space
from featstore.store import NewRows, Store
from tests.store_factory import add_set


class World:
    """A store that is filled with datasets of one feature set `f` each."""

    def __init__(self, folder):
        self.store = Store.init(folder)

    def add(self, dataset, features, *, ids=None, labels=None, columns=None, space="f", name="f", failed=()):
        n = len(features)
        if dataset not in self.store.datasets():
            self.store.create_dataset(
                dataset,
                NewRows(
                    ids or [f"{dataset}/{row:05d}.jpg" for row in range(n)],
                    None if labels is None else [None if label is None else str(label) for label in labels],
                    columns or {},
                ),
            )
        add_set(self.store, dataset, name, features, space=Space.named(space, features.shape[1]), failed=failed)

    def evaluate(self, query, gallery=None, **settings):
        settings = {"bootstrap": 0} | settings
        return evaluate(self.store, EvalRequest(query=query, gallery=gallery or query, **settings))

    def values(self, query, gallery=None, **settings):
        """Every query's values of the one cell."""
        return self.evaluate(query, gallery, **settings).evidence.per_query["query/gallery"].values


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "store")
