"""For the tests of featstore and of whatever builds on it: places that fail on command, and strategies for bad input.

`FaultyFiles` stands in front of any `Files`, so a plug-in author can put a store through the same faults:

    >>> import tempfile
    >>> from featstore.errors import FeatstoreError
    >>> from featstore.store import NewRows, Store
    >>> folder = tempfile.mkdtemp() + "/store"
    >>> files = FaultyFiles(Store.init(folder).files, Fault("fail", at=3))
    >>> try:
    ...     _ = Store(files).create_dataset("d", NewRows(ids=["a"]))
    ... except FeatstoreError as error:
    ...     print(type(error).__name__, len(files.log))
    FeatstoreError 3
    >>> Store(files).create_dataset("d", NewRows(ids=["a"])).rows  # the same again finishes
    1

`featstore.testing.strategies` holds the hypothesis strategies; it alone needs hypothesis (`pip install 'featstore[testing]'`).
"""

from featstore.testing.faulty import Fault, FaultyFiles, Operation

__all__ = ["Fault", "FaultyFiles", "Operation"]
