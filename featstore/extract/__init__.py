"""Extraction: images through encoders into feature sets, decoded once, resumable at any point."""

from featstore.extract.again import EncodeAgain, encode_rows
from featstore.extract.doctor import Diagnosis, doctor
from featstore.extract.extract import extract
from featstore.extract.outputs import Output
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport

__all__ = [
    "Diagnosis",
    "EncodeAgain",
    "ExtractReport",
    "ExtractRequest",
    "Output",
    "SetReport",
    "doctor",
    "encode_rows",
    "extract",
]
