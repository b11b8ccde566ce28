"""Tables of the forward studies, made from kept results alone."""

from __future__ import annotations


def write_tables(*a): ...
