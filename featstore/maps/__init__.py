"""The modules learned maps are made of, their run folders, and applying them to feature sets.

Dimension legend: `B` batch, `N` rows, `D_in` and `D_out` widths of a map's input and output.
"""

from featstore.maps.apply import ApplyReport, apply_map, map_block, map_rows, outcomes
from featstore.maps.branches import Branches, fold
from featstore.maps.config import (
    AffineConfig,
    BasisConfig,
    BranchesConfig,
    LinearConfig,
    MapConfig,
    MixtureConfig,
    MlpConfig,
    PosteriorConfig,
    ResidualConfig,
    SlerpConfig,
)
from featstore.maps.folder import LearnedMap, load_map, output_space, save_map
from featstore.maps.modules import FeatureMap, build_map
from featstore.maps.uncertainty import UNCERTAINTY, uncertainty_name, uncertainty_run, uncertainty_set

__all__ = [
    "UNCERTAINTY",
    "AffineConfig",
    "ApplyReport",
    "BasisConfig",
    "Branches",
    "BranchesConfig",
    "FeatureMap",
    "LearnedMap",
    "LinearConfig",
    "MapConfig",
    "MixtureConfig",
    "MlpConfig",
    "PosteriorConfig",
    "ResidualConfig",
    "SlerpConfig",
    "apply_map",
    "build_map",
    "fold",
    "load_map",
    "map_block",
    "map_rows",
    "outcomes",
    "output_space",
    "save_map",
    "uncertainty_name",
    "uncertainty_run",
    "uncertainty_set",
]
