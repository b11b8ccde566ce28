"""Features from elsewhere into the store, and out of it again."""

from featstore.convert.adding import AddedColumns, add_columns
from featstore.convert.checks import Duplicates
from featstore.convert.exporting import ExportReport, export_features
from featstore.convert.importing import ImportReport, import_features

__all__ = [
    "AddedColumns",
    "Duplicates",
    "ExportReport",
    "ImportReport",
    "add_columns",
    "export_features",
    "import_features",
]
