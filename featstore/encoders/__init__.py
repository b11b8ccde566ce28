"""Encoders: networks with their preprocessing, found by URI."""

from featstore.encoders.architectures import architecture_names, build_architecture
from featstore.encoders.augment import Augment, View
from featstore.encoders.encoder import Encoder, weights_digest
from featstore.encoders.export import export_encoder
from featstore.encoders.numerics import Numerics, has_compiler
from featstore.encoders.preprocess import Preprocess
from featstore.encoders.uris import load_encoder, save_encoder
from featstore.encoders.views import Preparation, ViewRecipe, view_recipe

__all__ = [
    "Augment",
    "Encoder",
    "Numerics",
    "Preparation",
    "Preprocess",
    "View",
    "ViewRecipe",
    "architecture_names",
    "build_architecture",
    "export_encoder",
    "has_compiler",
    "load_encoder",
    "save_encoder",
    "view_recipe",
    "weights_digest",
]
