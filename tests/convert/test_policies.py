"""Which rows of a file become which rows of the store, and what happens when the same command comes again."""

import multiprocessing
import os
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import safetensors.numpy

from featstore.convert import import_features, importing
from featstore.errors import AlignmentError, AlreadyExistsError, BadInputError, NonFiniteError, SpaceMismatchError
from featstore.store import NewRows, Store

VALUES = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
IDS = [f"{n}.png" for n in range(12)]


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def save(path, values=VALUES, ids=IDS, **more):
    np.savez(path, features=values, **({} if ids is None else {"ids": np.array(ids)}), **more)
    return path


# --- an id that stands there twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["0.png", "a\u0308.png"])
def test_repeated_ids_are_refused_merged_or_dropped_as_asked(store, tmp_path, again):
    ids = ["0.png", "\u00e4.png", *IDS[2:10], again, again]
    first = {"0.png": 0, "a\u0308.png": 1}[again]
    values = VALUES.copy()
    values[10] = values[11] = values[first]
    path = save(tmp_path / "a.npz", values, ids, size=np.arange(12))
    with pytest.raises(BadInputError, match="an id that stood there before in 2 of ") as caught:
        import_features(store, path, "d/f")
    assert "--duplicates same" in caught.value.hint
    report = import_features(store, path, "d/f", duplicates="same")
    assert (report.rows, report.merged, report.absent) == (10, 2, 0)
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(10)), values[:10])
    assert store.dataset("d").column("size").tolist() == list(range(10))

    values[11] += 1
    path = save(tmp_path / "b.npz", values, ids)
    with pytest.raises(BadInputError, match=r"another feature, in 1 of 12 rows"):
        import_features(store, path, "e/f", duplicates="same")
    assert not store.has_dataset("e")
    assert import_features(store, path, "e/f", duplicates="first").merged == 2
    np.testing.assert_array_equal(store.features("e/f").gather(np.arange(10)), values[:10])
    # joined to the dataset that is there
    assert import_features(store, path, "d/g", duplicates="first").rows == 10


def test_rows_that_are_merged_have_one_label(store, tmp_path):
    values, ids = np.concatenate([VALUES, VALUES[:2]]), [*IDS, *IDS[:2]]
    labels = np.array(["a"] * 12 + ["", "b"])
    path = save(tmp_path / "a.npz", values, ids, labels=labels)
    with pytest.raises(BadInputError, match="another label; the first is row 13: 'a' and 'b'"):
        import_features(store, path, "d/f", duplicates="same")
    assert store.datasets() == []
    import_features(store, path, "d/f", duplicates="first")
    assert store.dataset("d").labels.texts() == ["a"] * 12


def test_rows_that_are_dropped_are_not_checked(store, tmp_path):
    values = np.concatenate([VALUES, VALUES[:1] * np.nan])
    path = save(tmp_path / "a.npz", values, [*IDS, IDS[0]])
    with pytest.raises(BadInputError, match="another feature"):
        import_features(store, path, "d/f", duplicates="same")
    assert import_features(store, path, "d/f", duplicates="first").rows == 12


# --- the same command again --------------------------------------------------------------------------------------------


def test_another_key_or_csv_of_the_same_file_is_another_import(store, tmp_path):
    np.savez(tmp_path / "a.npz", a=VALUES, b=-VALUES, ids=np.array(IDS))
    import_features(store, tmp_path / "a.npz", "d/f", keys={"features": "a"})
    assert import_features(store, tmp_path / "a.npz", "d/f", keys={"features": "a"}).cached
    with pytest.raises(AlreadyExistsError):
        import_features(store, tmp_path / "a.npz", "d/f", keys={"features": "b"})
    with pytest.raises(AlreadyExistsError):
        import_features(store, tmp_path / "a.npz", "d/f", keys={"features": "a"}, dtype="float64")
    with pytest.raises(SpaceMismatchError, match="other"):
        import_features(store, tmp_path / "a.npz", "d/f", keys={"features": "a"}, space="other")


class StoppedError(Exception):
    pass


@dataclass
class Listener:
    stop_after: int = 1 << 30
    task: str = ""
    started: list = field(default_factory=list)

    def start(self, task, total, _unit, *, done=0):
        self.task = task
        self.started.append((task.split()[0], total, done))

    def advance(self, n):
        if self.task.startswith("importing"):
            self.stop_after -= n
            if self.stop_after <= 0:
                raise StoppedError

    def note(self, message): ...


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "numbered"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_interrupted_import_goes_on_where_it_stopped(store, tmp_path, suffix, ids):
    values = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        save(path, values, [f"{n}.png" for n in range(1000)] if ids else None)
    else:
        safetensors.numpy.save_file({"features": values, **({"ids": np.arange(1000)} if ids else {})}, path)
    with pytest.raises(StoppedError):
        import_features(store, path, "d/f", progress=Listener(stop_after=300))
    assert store.has_dataset("d")
    assert not store.has_features("d/f")
    listener = Listener()
    report = import_features(store, path, "d/f", progress=listener)
    assert (report.rows, report.created, report.cached) == (1000, False, False)
    checking, (task, rows, done) = listener.started
    assert (checking, task, rows) == (("checking", 1000, 0), "importing", 1000)
    assert done in (384, 512, 640)  # three shards of 128 rows were done, and up to two were under way
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(1000)), values)
    assert import_features(store, path, "d/f").cached


def test_an_import_that_stopped_after_the_dataset_goes_on_without_ids(store, tmp_path, monkeypatch):
    path = save(tmp_path / "a.npz", ids=None)
    monkeypatch.setattr(importing, "_fill", lambda *_: (_ for _ in ()).throw(StoppedError))
    with pytest.raises(StoppedError):
        import_features(store, path, "d/f")
    monkeypatch.undo()
    assert import_features(store, path, "d/f").rows == 12
    with pytest.raises(AlignmentError, match="no ids to join"):
        import_features(store, save(tmp_path / "b.npz", -VALUES, None), "d/g")


def _import_and_die(store, path):
    class Deadly(Listener):
        def advance(self, n):
            try:
                super().advance(n)
            except StoppedError:
                os.kill(os.getpid(), signal.SIGKILL)

    import_features(Store.open(store), path, "d/f", progress=Deadly(stop_after=300))


def test_a_killed_import_goes_on_where_it_stopped(store, tmp_path):
    values = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    path = save(tmp_path / "a.npz", values, None)
    child = multiprocessing.get_context("spawn").Process(target=_import_and_die, args=(store.location, path))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    listener = Listener()
    assert import_features(store, path, "d/f", progress=listener).rows == 1000
    assert listener.started[1] in [("importing", 1000, done) for done in (384, 512, 640)]
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(1000)), values)


# --- a dataset that has grown ------------------------------------------------------------------------------------------


def test_a_set_takes_the_rows_its_dataset_got_since(store, tmp_path):
    import_features(store, save(tmp_path / "a.npz", VALUES[:8], IDS[:8]), "d/f")
    with pytest.raises(AlreadyExistsError, match="something else"):
        import_features(store, save(tmp_path / "b.npz", VALUES[8:], IDS[8:]), "d/f")
    with pytest.raises(AlignmentError, match=r"4 of \d+ ids of the file are not in dataset d"):
        import_features(store, tmp_path / "b.npz", "d/g")
    store.append_rows("d", NewRows(IDS[8:]))
    with pytest.raises(AlreadyExistsError, match=r"covers 8 of these rows already: 0\.png"):
        import_features(store, save(tmp_path / "c.npz"), "d/f")
    wide = save(tmp_path / "c.npz", VALUES[8:].astype("f8") * 1e60, IDS[8:])
    with pytest.raises(NonFiniteError, match="need float64 to be exact, and d/f is stored as float32"):
        import_features(store, wide, "d/f")
    with pytest.raises(NonFiniteError, match="do not fit float32"):
        import_features(store, wide, "d/f", dtype="float32")
    report = import_features(store, tmp_path / "b.npz", "d/f")
    assert (report.set, report.rows, report.cached) == ("d/f@2", 12, False)
    np.testing.assert_array_equal(store.features("d/f").take_ids(IDS), VALUES)
    for name in ("a", "b"):
        assert import_features(store, tmp_path / f"{name}.npz", "d/f").cached
