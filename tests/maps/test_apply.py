"""Applying maps to feature sets of a store."""

from datetime import timedelta

import numpy as np
import pytest
import torch

import featstore.maps.apply as apply_module
from featstore.errors import AlreadyExistsError, NonFiniteError, SpaceMismatchError, UsageError
from featstore.maps import LinearConfig, MlpConfig, apply_map, build_map, load_map, save_map
from featstore.ranks import Rank
from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, collect_garbage, compact

SPACE = Space.named("backbone", 6)
ROWS = 150


class Listener:
    def __init__(self):
        self.total = self.done = self.advanced = 0
        self.notes = []

    def start(self, task, total, unit, *, done=0):
        self.task, self.unit = task, unit
        self.total, self.done = total, done

    def advance(self, n):
        self.advanced += n

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def store(tmp_path):
    made = Store.init(tmp_path / "store")
    made.create_dataset("d", NewRows(ids=[f"{n}.png" for n in range(ROWS)]))
    return made


def values_of(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


def fill(store, name, values, *, dtype="float32", space=SPACE, status=None, failures=()):
    job = store.plan_features(store.dataset("d"), name, space, np.dtype(dtype), shard_rows=32)
    digests = np.arange(job.stop * 16, dtype=np.uint32).reshape(-1, 16).astype(np.uint8)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(
            shard,
            values[start:stop],
            status=None if status is None else status[start:stop],
            digests=digests[start:stop],
            failures=[failure for failure in failures if start <= failure.row < stop],
        )
    job.commit({})
    return store.features(f"d/{name}")


def trained(folder, config=None, *, scale=1.0):
    config = config or MlpConfig(hidden=9)
    torch.manual_seed(0)
    module = build_map(config, 6, 4)
    module.fit_input(torch.full((6,), 0.1), torch.full((6,), 1 / scale))
    save_map(folder, module, config=config, input_space=SPACE, name="m", compatible_with=("ab",), training={})
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("config", [LinearConfig(normalise=False), MlpConfig(hidden=9)], ids=repr)
def test_apply_is_gather_then_forward(store, tmp_path, dtype, config, monkeypatch):
    monkeypatch.setattr(apply_module, "_BATCH_BYTES", 4 * 9 * 5)  # several batches in a chunk, the last one short
    source = fill(store, "old", values_of(ROWS), dtype=dtype)
    run = trained(tmp_path / "run", config)
    listener = Listener()
    report = apply_map(store, run, "d/old", "d/new", progress=listener)
    made = store.features(report.set)
    x = torch.from_numpy(source.gather(np.arange(ROWS))).float()
    expected = load_map(run).module(x).detach().numpy()
    np.testing.assert_allclose(made.gather(np.arange(ROWS)), expected, atol=1e-6)
    assert made.dtype == np.float32
    assert (made.space, made.space.compatible_with) == (load_map(run).space, ("ab",))
    np.testing.assert_array_equal(made.input_digests(), source.input_digests())
    assert (report.set, report.source, report.rows, report.invalid, report.cached) == (
        "d/new@1",
        "d/old@1",
        ROWS,
        0,
        False,
    )
    assert (listener.total, listener.done, listener.advanced) == (ROWS, 0, ROWS)


def test_lineage_is_in_the_commit_and_no_path_is(store, tmp_path):
    source = fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    apply_map(store, run, "d/old", "d/new")
    record = store.features("d/new").record
    card = load_map(run).card
    assert record.provenance["source"] == {"set": "d/old@1", "uuid": source.record.uuid}
    assert record.provenance["files"] == card.files
    assert record.provenance["map"] == card.space.identity["map"]
    assert str(tmp_path) not in record.model_dump_json()


def test_rows_without_a_feature_stay_so_with_their_reason(store, tmp_path):
    status = np.full(ROWS, RowStatus.VALID, np.uint8)
    status[[3, 70]], status[71] = RowStatus.FAILED, RowStatus.ABSENT
    ledger = [RowFailure(row=n, id=f"{n}.png", stage="decode", error=f"broken {n}") for n in (3, 70)]
    source = fill(store, "old", values_of(ROWS), status=status, failures=ledger)
    run = trained(tmp_path / "run")
    report = apply_map(store, run, "d/old", "d/new")
    made = store.features("d/new")
    np.testing.assert_array_equal(made.status(), status)
    assert made.failures() == ledger == source.failures()
    assert (report.rows, report.invalid) == (ROWS - 3, 3)
    valid = source.valid_rows()
    expected = load_map(run).module(torch.from_numpy(source.gather(valid))).detach().numpy()
    np.testing.assert_allclose(made.gather(valid), expected, atol=1e-6)


def test_pending_shards_only(store, tmp_path):
    """Invariant 1: what another worker published stays; the same command does the rest."""
    source = fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    space = load_map(run).space
    origin = f"{source.ref} {source.record.uuid}"
    job = store.plan_features(store.dataset("d"), "new", space, np.dtype("f4"), shard_rows=32, source=origin)
    marks = np.full((32, 4), 7, np.float32)
    for shard in (1, 3):
        assert job.publish(shard, marks)
    listener = Listener()
    apply_map(store, run, "d/old", "d/new", progress=listener)
    made = store.features("d/new").gather(np.arange(ROWS))
    assert (made[32:64] == 7).all()
    assert (made[96:128] == 7).all()
    rest = np.r_[0:32, 64:96, 128:ROWS]
    expected = load_map(run).module(torch.from_numpy(source.gather(rest))).detach().numpy()
    np.testing.assert_allclose(made[rest], expected, atol=1e-6)
    assert (listener.total, listener.done, listener.advanced) == (ROWS, 64, ROWS - 64)


def test_a_second_call_is_cached(store, tmp_path):
    fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    first = apply_map(store, run, "d/old", "d/new")
    again = apply_map(store, run, "d/old@1", "d/new")
    assert (first.cached, again.cached, again.set, again.rows) == (False, True, "d/new@1", ROWS)


def test_a_source_that_grew_gives_the_rows_that_lack(store, tmp_path):
    fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    apply_map(store, run, "d/old", "d/new")
    before = store.features("d/new").gather(np.arange(ROWS))
    store.append_rows("d", NewRows(ids=[f"new/{n}.png" for n in range(40)]))
    # the dataset has the rows, the source has not: nothing to do, and no row is invented
    assert apply_map(store, run, "d/old", "d/new").cached
    fresh = apply_map(store, run, "d/old", "d/fresh")
    assert (fresh.rows, store.features("d/fresh").rows) == (ROWS, ROWS)
    source = fill(store, "old", values_of(ROWS + 40))
    report = apply_map(store, run, "d/old", "d/new")
    assert (report.set, report.source, report.rows) == ("d/new@2", "d/old@2", ROWS + 40)
    made = store.features("d/new").gather(np.arange(ROWS + 40))
    np.testing.assert_array_equal(made[:ROWS], before)
    expected = load_map(run).module(torch.from_numpy(source.gather(np.arange(ROWS, ROWS + 40)))).detach().numpy()
    np.testing.assert_allclose(made[ROWS:], expected, atol=1e-6)
    assert apply_map(store, run, "d/old@1", "d/new").cached


def test_a_source_that_was_compacted_is_still_the_same(store, tmp_path):
    fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    apply_map(store, run, "d/old", "d/new")
    store.remove_rows("d", store.dataset("d").ids.take([3]))
    compact(store, "d")
    for _ in range(2):
        assert apply_map(store, run, "d/old", "d/new").cached
        collect_garbage(store, grace=timedelta(0))
    store.append_rows("d", NewRows(ids=["new.png"]))
    fill(store, "old", values_of(ROWS))
    assert apply_map(store, run, "d/old", "d/new").rows == ROWS


def test_another_set_of_the_same_space_is_not_taken_for_cached(store, tmp_path):
    """A cached augmented view lies in the clean view's space; its mapped features are other features."""
    fill(store, "old", values_of(ROWS))
    fill(store, "old.v1", values_of(ROWS, seed=1))
    run = trained(tmp_path / "run")
    apply_map(store, run, "d/old", "d/new")
    with pytest.raises(AlreadyExistsError, match=r"made from d/old@1, not from d/old\.v1@1"):
        apply_map(store, run, "d/old.v1", "d/new")


def test_another_space_is_refused_by_its_field(store, tmp_path):
    """Invariant 6."""
    fill(store, "other", values_of(ROWS), space=Space.named("resnet", 6))
    fill(store, "wide", np.ones((ROWS, 7), np.float32), space=Space.named("backbone", 7))
    fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    with pytest.raises(SpaceMismatchError, match=r"name: backbone \(expected\) · resnet \(got\)"):
        apply_map(store, run, "d/other", "d/new")
    with pytest.raises(SpaceMismatchError, match=r"width: 6 \(expected\) · 7 \(got\)"):
        apply_map(store, run, "d/wide", "d/new")
    with pytest.raises(SpaceMismatchError, match="d/other exists"):
        apply_map(store, run, "d/old", "d/other")
    assert not store.has_features("d/new")


def test_the_target_is_a_set_of_the_same_dataset(store, tmp_path):
    fill(store, "old", values_of(ROWS))
    store.create_dataset("e", NewRows(ids=["a"]))
    run = trained(tmp_path / "run")
    with pytest.raises(UsageError, match="--as d/new"):
        apply_map(store, run, "d/old", "e/new")
    with pytest.raises(UsageError, match="names a version"):
        apply_map(store, run, "d/old", "d/new@2")


def test_dtype(store, tmp_path):
    fill(store, "old", values_of(ROWS))
    run = trained(tmp_path / "run")
    half = apply_map(store, run, "d/old", "d/half", dtype="float16")
    assert store.features(half.set).dtype == np.float16
    listener = Listener()
    apply_map(store, run, "d/old", "d/half", dtype="float32", progress=listener)
    assert listener.notes == ["d/half@1 was begun as float16 and stays so"]
    large = trained(tmp_path / "large", LinearConfig(normalise=False), scale=1e6)
    with pytest.raises(NonFiniteError, match="--dtype float32"):
        apply_map(store, large, "d/old", "d/large", dtype="float16")


def test_ranks_map_what_one_process_maps(store, tmp_path):
    fill(store, "source", values_of(ROWS))
    run = trained(tmp_path / "run")
    alone = store.features(apply_map(store, run, "d/source", "d/alone").set)
    second = apply_map(store, run, "d/source", "d/mapped", rank=Rank(1, 2))
    assert (second.set, second.rows, second.cached) == ("d/mapped", 0, False)
    assert 0 < second.left < ROWS
    assert not store.has_features("d/mapped")
    last = apply_map(store, run, "d/source", "d/mapped", rank=Rank(0, 2))
    assert (last.left, last.rows) == (0, ROWS)
    mapped = store.features("d/mapped")
    np.testing.assert_allclose(mapped.gather(range(ROWS)), alone.gather(range(ROWS)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mapped.input_digests(), alone.input_digests())
    assert apply_map(store, run, "d/source", "d/mapped", rank=Rank(1, 2)).cached
