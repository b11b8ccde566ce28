"""Extraction: images through encoders into feature sets, decoded once, resumable at any point."""

from featstore.extract.extract import extract
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport

__all__ = ["ExtractReport", "ExtractRequest", "SetReport", "extract"]
