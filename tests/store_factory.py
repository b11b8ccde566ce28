"""Small stores for tests."""

from featstore.store import NewRows, Store


def labelled_store(folder, dataset, labels, *, columns=None):
    """A store with one dataset: row n has id `n.jpg` and class `class LABEL`."""
    store = Store.init(folder)
    ids, names = [f"{row}.jpg" for row in range(len(labels))], [f"class {label}" for label in labels]
    store.create_dataset(dataset, NewRows(ids, names, columns or {}))
    return store
