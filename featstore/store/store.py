"""The store: one location that a team shares."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import NotFoundError, UnknownNameError, UsageError
from featstore.progress import SILENT, Progress
from featstore.spaces import Space
from featstore.store.cache import cached, feature_groups, row_groups
from featstore.store.columns import Categories
from featstore.store.dataset import Dataset, NewRows
from featstore.store.declarations import Declaration, declare_spaces, declared_with
from featstore.store.features import FeatureSet, features_log, plan_key
from featstore.store.files import Files, open_files
from featstore.store.job import FeatureJob
from featstore.store.log import Log
from featstore.store.materialise import Fetched, fetch_groups
from featstore.store.names import check_name, parse_dataset, parse_set
from featstore.store.plans import plan_rows_to_come, segment_name
from featstore.store.probe import PROBE, probe_create_only
from featstore.store.records import (
    DatasetVersion,
    FeatureSetVersion,
    Plan,
    StoreRecord,
    TagEntry,
    Version,
    dump,
    fetch,
    fetch_if_there,
)
from featstore.store.rows import append, create, overlay, relocate, remove, rows_log

__all__ = ["DEFAULT_FOLDER", "Store"]

DEFAULT_FOLDER = ".featstore"
_MARKER = "featstore.json"


class Store:
    """Datasets, feature sets and their versions under one folder. Cheap to open and to pickle.

    Example:
        >>> import tempfile, numpy as np
        >>> from featstore.spaces import Space
        >>> store = Store.init(tempfile.mkdtemp() + "/team")
        >>> cats = store.create_dataset("cats", NewRows(ids=["a.jpg", "b.jpg"], labels=["tabby", "siamese"]))
        >>> job = store.plan_features(cats, "old", Space.named("resnet", 4), np.dtype("float32"), shard_rows=8)
        >>> job.publish(0, np.eye(2, 4, dtype=np.float32))
        True
        >>> _ = job.commit({"made by": "hand"})
        >>> store.features("cats/old").gather([1])
        array([[0., 1., 0., 0.]], dtype=float32)
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def __repr__(self) -> str:
        return f"Store({self.location})"

    @property
    def location(self) -> str:
        """Where the store is."""
        return self.files.location

    @classmethod
    def init(cls, path: str | Path | Files | None = None) -> Store:
        """Make a store, in `.featstore` of the current folder unless told otherwise; an existing one is opened.

        Raises:
            UsageError: the folder holds something else, or lies where files cannot be published.
        """
        files = open_files(path if path is not None else Path.cwd() / DEFAULT_FOLDER)
        if not files.exists(_MARKER):
            # looked at again: another process may be making the same store
            if not _is_empty(files) and not files.exists(_MARKER):
                raise UsageError(
                    f"{files.location} is not empty and not a store", hint="choose another place for the store"
                )
            probe_create_only(files)
            files.put_new(_MARKER, [dump(StoreRecord())])
        return cls.open(files)

    @classmethod
    def open(cls, path: str | Path | Files | None = None) -> Store:
        """Open a store: the one given, else `$FEATSTORE_STORE`, else the nearest `.featstore` folder upwards.

        Raises:
            NotFoundError: there is none.
        """
        given = path if path is not None else os.environ.get("FEATSTORE_STORE")
        if given:
            store = cls(open_files(given))
        else:
            here = Path.cwd()
            found = next(
                (f / DEFAULT_FOLDER for f in (here, *here.parents) if (f / DEFAULT_FOLDER / _MARKER).is_file()),
                None,
            )
            if found is None:
                raise NotFoundError(
                    f"no store in {here} or above it",
                    hint="make one with `featstore init`, or name one with --store",
                )
            store = cls(open_files(found))
        try:
            fetch(store.files, StoreRecord, _MARKER)
        except NotFoundError:
            raise NotFoundError(
                f"{store.location} is not a store", hint=f"make one with `featstore init {store.location}`"
            ) from None
        return store

    # --- what there is ---------------------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        """Names of the datasets, sorted."""
        return [name for name in self.files.names("datasets") if self.has_dataset(name)]

    def feature_sets(self, dataset: str) -> list[str]:
        """Names of the committed feature sets of a dataset, sorted, without the dataset's name."""
        return [name for name in self.files.names(f"features/{dataset}") if self.has_features(f"{dataset}/{name}")]

    def has_dataset(self, name: str) -> bool:
        """Whether a dataset has a committed version."""
        return bool(rows_log(self.files, check_name(name, "dataset")).numbers())

    def has_features(self, reference: str) -> bool:
        """Whether a feature set has a committed version."""
        ref = parse_set(reference)
        return bool(features_log(self.files, ref.dataset, ref.name).numbers())

    def dataset(self, name: str, version: int | str | None = None) -> Dataset:
        """A dataset at a version, a tag, or its newest version; `NAME@version` works too."""
        plain, inside = parse_dataset(name)
        try:
            record = rows_log(self.files, plain).resolve(version or inside, what=f"dataset {plain}")
        except NotFoundError:
            raise UnknownNameError(
                "dataset", plain, self.datasets(), hint="`featstore extract` and `featstore import` make one"
            ) from None
        return Dataset(cached(self.files, row_groups(record)), record)

    def features(self, reference: str) -> FeatureSet:
        """The feature set `DATASET/NAME[@version]`."""
        ref = parse_set(reference)
        log = features_log(self.files, ref.dataset, ref.name)
        try:
            record = log.resolve(ref.version, what=f"feature set {ref.key}")
        except NotFoundError:
            self.dataset(ref.dataset)  # says so if that is what does not exist
            known = self.feature_sets(ref.dataset)
            raise UnknownNameError(f"feature set of dataset {ref.dataset}", ref.name, known) from None
        # read after the set: rows are committed before their features, so it has all that the set has
        dataset = self.dataset(ref.dataset)
        if record.layout < dataset.layout:
            try:
                dataset = self.dataset(ref.dataset, dataset.record.earlier[record.layout - 1])
            except UnknownNameError:
                if record.number in log.numbers():
                    raise
                return self.features(reference)  # it was compacted, and collected without grace, since it was read
        return FeatureSet(cached(self.files, feature_groups(record)), record, dataset)

    def materialise(self, reference: str, progress: Progress = SILENT) -> FeatureSet:
        """The feature set `DATASET/NAME[@version]`, read from copies on this machine, which are fetched if they are missing.

        The copies are named by their digests in `$FEATSTORE_CACHE` (else `~/.cache/featstore`); whoever opens the set on this
        machine reads them. A store that is on this machine already needs none.

        Args:
            reference: The set.
            progress: Listener.

        Raises:
            CorruptStoreError: what the store holds is not what was published.
        """
        return self.fetch(reference, progress)[0]

    def fetch(self, reference: str, progress: Progress = SILENT) -> tuple[FeatureSet, Fetched]:
        """Like `materialise`, and what had to be copied for it."""
        features = self.features(reference)
        if self.files.local:
            return features, Fetched()
        groups = [*row_groups(features.dataset.record), *feature_groups(features.record)]
        fetched = fetch_groups(self.files, groups, what=features.ref, progress=progress)
        return self.features(features.ref), fetched

    def tag(self, reference: str, name: str, *, note: str | None = None) -> None:
        """Let `name` stand for the version that the reference resolves to, `DATASET/NAME[@version]`; `note` says why."""
        features = self.features(reference)
        features_log(self.files, features.record.dataset, features.record.name).tag(name, features.version, note)

    def tag_entries(self, reference: str, name: str) -> list[TagEntry]:
        """Every move of a tag of a feature set, oldest first."""
        ref = parse_set(reference)
        return features_log(self.files, ref.dataset, ref.name).entries(name)

    def declare(self, left: str, right: str, *, note: str = "", withdraw: bool = False) -> Declaration:
        """Declare vectors of two feature sets comparable, although nothing recorded says so; or take that back.

        From then on the spaces of both know of each other, in every set and version that lies in them.

        Args:
            left: A feature set.
            right: Another one, of the same width.
            note: Why, for those who come later.
            withdraw: Take an earlier declaration back.

        Raises:
            AlignmentError: the widths differ, so nothing could be compared.
            UsageError: both lie in one space, or what is to be taken back was never declared.
        """
        sets = self.features(left), self.features(right)
        names, spaces = (sets[0].name, sets[1].name), (sets[0].space, sets[1].space)
        return declare_spaces(self.files, names, spaces, note=note, withdraw=withdraw)

    def declarations(self, reference: str) -> list[Declaration]:
        """What is declared of the space of a feature set."""
        return declared_with(self.files, self.features(reference).space.digest)

    def history(self, what: str) -> list[Version]:
        """The versions of `DATASET` or `DATASET/NAME`, newest first.

        Raises:
            UnknownNameError: there is no such dataset or feature set.
        """
        log: Log[DatasetVersion] | Log[FeatureSetVersion]
        if "/" in what:
            record = self.features(what).record
            log = features_log(self.files, record.dataset, record.name)
        else:
            log = rows_log(self.files, self.dataset(what).name)
        return log.history()

    def damaged_documents(self, what: str) -> list[str]:
        """Keys of the versions and tags of `DATASET` or `DATASET/NAME` that are not as they were published."""
        if "/" in what:
            ref = parse_set(what)
            return list(features_log(self.files, ref.dataset, ref.name).damaged())
        return list(rows_log(self.files, parse_dataset(what)[0]).damaged())

    # --- rows ------------------------------------------------------------------------------------------------------

    def create_dataset(
        self, name: str, rows: NewRows, *, root: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> Dataset:
        """Make a dataset.

        Args:
            name: Its name.
            rows: Its first rows, at least one.
            root: Folder the ids are relative to, if they are files.
            provenance: Where the rows come from, as plain JSON.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        check_name(name, "dataset")
        return Dataset(self.files, create(self.files, name, rows, root=root, provenance=dict(provenance or {})))

    def append_rows(self, name: str, rows: NewRows, *, provenance: Mapping[str, Any] | None = None) -> Dataset:
        """Add rows with new ids as a new version.

        Raises:
            AlreadyExistsError: the dataset has one of the ids already.
        """
        self.dataset(name)
        return Dataset(self.files, append(self.files, name, rows, provenance=dict(provenance or {})))

    def add_columns(
        self,
        name: str,
        columns: Mapping[str, NDArray[Any] | Sequence[str | None] | Categories],
        *,
        provenance: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Add columns (or replace them) as a new version; rows and features stay as they are.

        Args:
            name: The dataset.
            columns: One value a row, in row order.
            provenance: Where they come from, as plain JSON.

        Raises:
            AlignmentError: a column has another number of values than the dataset has rows.
        """
        return Dataset(self.files, overlay(self.files, self.dataset(name), columns, provenance=dict(provenance or {})))

    def remove_rows(
        self, name: str, ids: Sequence[str], *, provenance: Mapping[str, Any] | None = None
    ) -> tuple[Dataset, int]:
        """Take rows out of a dataset as a new version: no id finds them and none of their features is read any more.

        Their bytes stay until `compact` rewrites what holds them and `collect_garbage` drops the old copies.

        Args:
            name: The dataset.
            ids: Which rows.
            provenance: Why, as plain JSON.

        Returns:
            The dataset, and how many rows this call removed.

        Raises:
            AlignmentError: the dataset has no such ids (or not any more); nothing is removed then.
        """
        dataset = self.dataset(name)
        rows = np.unique(dataset.rows_of(ids, advice="nothing was removed"))
        if len(rows):
            dataset = Dataset(self.files, remove(self.files, dataset, rows, provenance=dict(provenance or {})))
        return dataset, len(rows)

    def relocate(self, name: str, root: str | None, *, provenance: Mapping[str, Any] | None = None) -> Dataset:
        """Say where the files that the ids name are now, as a new version; rows and features stay as they are."""
        self.dataset(name)
        return Dataset(self.files, relocate(self.files, name, root, provenance=dict(provenance or {})))

    # --- features --------------------------------------------------------------------------------------------------

    def plan_features(
        self,
        dataset: Dataset,
        name: str,
        space: Space,
        dtype: np.dtype[Any],
        *,
        shard_rows: int,
        source: str = "",
        rows: int | None = None,
    ) -> FeatureJob | None:
        """Plan the rows of a dataset that a feature set does not cover yet; None if it covers all.

        A plan is create-only: whoever comes later (another worker, the same command after a crash) gets the same plan and
        obeys its dtype and shard size.

        Args:
            dataset: The rows; its version is recorded.
            name: Name of the set, without the dataset's.
            space: Space of the features.
            dtype: float16, float32 or float64.
            shard_rows: Rows of a shard, a power of two (`plan_shard_rows` proposes one).
            source: What the features are made from where the space does not say it all (the digest of an imported file, the
                version of the set a map is applied to); a job with another source never continues this one's shards.
            rows: Plan the first so many rows of the dataset only.

        Raises:
            SpaceMismatchError: the set exists in another space.
        """
        plan = plan_rows_to_come(
            self.files, dataset, name, space, dtype, shard_rows=shard_rows, source=source, rows=rows
        )
        return FeatureJob.planned(self.files, plan) if plan else None

    def begun_features(self, dataset: Dataset, name: str, space: Space, *, source: str = "") -> FeatureJob | None:
        """The unfinished job that `plan_features` would continue, None if it would begin one; nothing is written."""
        newest = features_log(self.files, dataset.name, name).latest()
        start = newest.rows if newest else 0
        segment = segment_name(start, dataset.rows, space, source, dataset.layout)
        if start >= dataset.rows:
            return None
        plan = fetch_if_there(self.files, Plan, f"{plan_key(dataset.name, name, segment)}/plan.json")
        return FeatureJob(self.files, plan) if plan else None


def _is_empty(files: Files) -> bool:
    # what a probe left behind that was killed does not count
    return all(name.startswith(PROBE) for name in files.names("")) and all(
        info.key.startswith(PROBE) for info in files.walk()
    )
