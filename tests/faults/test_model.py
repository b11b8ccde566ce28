"""Invariants 1 to 4 at once: any sequence of what users and crashes do, against a dictionary of what must be there."""

import contextlib
import copy
import itertools
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featstore.errors import ConflictError, FeatstoreError, UnknownNameError
from featstore.spaces import Space
from featstore.store import NewRows, Store, collect_garbage, compact, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles
from featstore.testing.strategies import id_lists

SPACE = Space.named("s", 2)
TAGS = ("live", "old")
FAULTS = st.none() | st.builds(
    Fault, st.sampled_from(["fail", "lose", "tear"]), at=st.integers(1, 60), persistent=st.booleans()
)


def feature(label):
    """Labels are numbers in order of arrival, and the feature of a row follows from its label."""
    return [float(label), -1.0 / (1 + int(label))]


@dataclass
class Model:
    """What must be there: (label, note) by id of every live row, the ids with features, and those of each tag."""

    rows: dict = field(default_factory=dict)
    covered: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)


class AnyHistory(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
        self.folder = Path(tempfile.mkdtemp(prefix="featstore-model-", dir=memory))
        self.root = self.folder / "store"
        self.model = Model()
        self.count = itertools.count()
        self.unfinished = False

    def teardown(self):
        try:
            assert verify(Store.open(self.root), full=True).problems == []
        finally:
            shutil.rmtree(self.folder)

    # --- doing ---------------------------------------------------------------------------------------------------

    def do(self, work, after, fault):
        """Do it, perhaps meeting a fault; then it happened, or it did not and the same again does it."""
        before = self.model
        try:
            work(Store(FaultyFiles(LocalFiles(self.root), *([fault] if fault else []))))
        except ConflictError:
            raise
        except FeatstoreError:
            assert fault
            self.model = after if self.holds(after) else before
            self.agrees()
            if self.model is before:
                work(Store.open(self.root))
        self.model = after

    def holds(self, model):
        try:
            self.check(model)
        except (AssertionError, UnknownNameError):
            return False
        return True

    def added(self, ids):
        """The model, the rows and the labels when ids are added."""
        labels = [str(next(self.count)) for _ in ids]
        after = copy.deepcopy(self.model)
        after.rows.update({text: (label, None) for text, label in zip(ids, labels, strict=True)})
        for text in ids:
            after.covered.pop(text, None)  # it may have been there before, with another feature
        return after, NewRows(ids=ids, labels=labels)

    @initialize(ids=st.lists(st.sampled_from("abcdefghijkl"), min_size=1, unique=True))
    def create(self, ids):
        store = Store.init(self.root)
        self.model, rows = self.added(ids)
        store.create_dataset("d", rows)

    @rule(ids=id_lists(max_size=3) | st.lists(st.sampled_from("abcdefghijkl"), min_size=1, unique=True), fault=FAULTS)
    def append(self, ids, fault):
        new = [text for text in map(_normal, ids) if text not in self.model.rows]
        if new:
            after, rows = self.added(new)
            self.do(lambda store: store.append_rows("d", rows), after, fault)

    @precondition(lambda self: len(self.model.rows) > 1)
    @rule(data=st.data(), fault=FAULTS)
    def remove(self, data, fault):
        live = sorted(self.model.rows)
        gone = data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=len(live) - 1, unique=True))
        after = copy.deepcopy(self.model)
        for text in gone:
            del after.rows[text]
            after.covered.pop(text, None)
        self.do(lambda store: store.remove_rows("d", gone), after, fault)

    @rule(fault=FAULTS)
    def add_columns(self, fault):
        dataset = Store.open(self.root).dataset("d")
        note = next(self.count)
        notes = [f"{note}-{row}" for row in range(dataset.rows)]
        after = copy.deepcopy(self.model)
        for text, row in zip(after.rows, dataset.ids.rows_of(list(after.rows)).tolist(), strict=True):
            after.rows[text] = (after.rows[text][0], notes[row])
        self.do(lambda store: store.add_columns("d", {"note": notes}), after, fault)

    @rule(fault=FAULTS, shard_rows=st.sampled_from([1, 2, 8]), shards=st.none() | st.integers(0, 2))
    def fill(self, fault, shard_rows, shards):
        """Publish so many shards and then stop, or all of them and commit."""

        def work(store):
            dataset = store.dataset("d")
            job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=shard_rows)
            if job is None:
                return
            labels = dataset.labels.texts()
            for shard in job.pending()[:shards]:
                start, stop = job.shard_range(shard)
                job.publish(shard, np.array([feature(label) for label in labels[start:stop]], np.float32))
            if shards is None:
                job.commit({})

        after = copy.deepcopy(self.model)
        if shards is None:
            after.covered = {text: label for text, (label, _) in after.rows.items()}
        self.do(work, after, fault)
        self.unfinished = shards is not None

    @precondition(lambda self: self.model.covered)
    @rule(name=st.sampled_from(TAGS), fault=FAULTS)
    def tag(self, name, fault):
        after = copy.deepcopy(self.model)
        after.tags[name] = dict(after.covered)
        self.do(lambda store: store.tag("d/f", name), after, fault)

    @rule(fault=FAULTS)
    def compact(self, fault):
        try:
            self.do(lambda store: compact(store, "d"), copy.deepcopy(self.model), fault)
        except ConflictError:
            assert self.unfinished or fault  # somebody may still be filling the set
        if fault:
            with contextlib.suppress(ConflictError):
                compact(Store.open(self.root), "d")

    @rule(fault=FAULTS)
    def collect_garbage(self, fault):
        self.do(lambda store: collect_garbage(store, grace=timedelta(0)), copy.deepcopy(self.model), fault)

    # --- looking -------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self):
        self.check(self.model)

    def check(self, model):
        store = Store.open(self.root)
        dataset = store.dataset("d")
        rows = dataset.live_rows()
        ids = dataset.ids.take(rows)
        labels = dataset.labels.texts()
        notes = dataset.column("note").texts() if "note" in dataset.column_names else [None] * dataset.rows
        assert {text: (labels[row], notes[row]) for text, row in zip(ids, rows.tolist(), strict=True)} == model.rows
        assert len(ids) == len(model.rows)
        assert dataset.ids.rows_of(list(model.rows)).tolist() == [rows[ids.index(text)] for text in model.rows]
        assert store.has_features("d/f") == bool(model.covered) or not model.covered
        if store.has_features("d/f"):
            self.check_features(store.features("d/f"), model.covered)
        for name, held in model.tags.items():
            # rows that were removed since may be gone from what a tag names, but none is another
            still = {text: label for text, label in held.items() if model.rows.get(text, ("",))[0] == label}
            self.check_features(store.features(f"d/f@{name}"), still, within=held)

    @staticmethod
    def check_features(features, held, within=None):
        rows = features.valid_rows()
        found = dict(zip(features.dataset.ids.take(rows), features.gather(rows).tolist(), strict=True))
        for text, label in held.items():
            assert found.get(text) == np.array(feature(label), np.float32).tolist()
        assert found.keys() <= (held if within is None else within).keys()


def _normal(text):
    return unicodedata.normalize("NFC", text)


def histories(count, steps):
    # a failing history is shown as it was found: shrinking one takes longer than reading it
    budget = settings(max_examples=count, stateful_step_count=steps, deadline=None, phases=[Phase.generate])
    run_state_machine_as_test(AnyHistory, settings=budget)


def test_any_history():
    histories(8, 12)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_any_long_history():
    histories(150, 30)
