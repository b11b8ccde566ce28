"""Extraction: images through encoders into feature sets, decoded once, resumable at any point."""

from featstore.extract.again import EncodeAgain
from featstore.extract.doctor import Diagnosis, doctor
from featstore.extract.extract import extract
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport

__all__ = ["Diagnosis", "EncodeAgain", "ExtractReport", "ExtractRequest", "SetReport", "doctor", "extract"]
