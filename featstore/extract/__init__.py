"""Extraction: images through encoders into feature sets, decoded once, resumable at any point."""

from featstore.extract.again import EncodeAgain, encode_rows
from featstore.extract.doctor import Diagnosis, doctor
from featstore.extract.dry_run import ExtractPlan, SetPlan, plan_extraction
from featstore.extract.extract import extract
from featstore.extract.outputs import Output
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport
from featstore.extract.stages import StageReport

__all__ = [
    "Diagnosis",
    "EncodeAgain",
    "ExtractPlan",
    "ExtractReport",
    "ExtractRequest",
    "Output",
    "SetPlan",
    "SetReport",
    "StageReport",
    "doctor",
    "encode_rows",
    "extract",
    "plan_extraction",
]
