"""What a map is made of, as data: a registered name and its options, never a code path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featstore.errors import UnknownNameError, UsageError

__all__ = [
    "AffineConfig",
    "BasisConfig",
    "BranchesConfig",
    "LinearConfig",
    "MapConfig",
    "MixtureConfig",
    "MlpConfig",
    "PosteriorConfig",
    "ResidualConfig",
    "SlerpConfig",
    "map_config",
]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinearConfig(_Config):
    """Standardised input → one linear layer.

    Attributes:
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["linear"] = "linear"
    normalise: bool = True


class MlpConfig(_Config):
    """Standardised input → linear → activation → linear. Without batch norm, so a row's output never depends on other rows.

    Attributes:
        hidden: Width of the hidden layer.
        activation: What stands between the layers; `gelu` is the exact one, x·Φ(x).
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["mlp"] = "mlp"
    hidden: int = Field(default=1024, gt=0)
    activation: Literal["relu", "gelu"] = "relu"
    normalise: bool = True


class BasisConfig(_Config):
    """Standardised input → one linear layer → two parts of norm 1 and `ratio` → a rotation of both together (BT²).

    Cosines of whole outputs are those of the parts, whatever the rotation; it only decides what stands in the first components.

    Attributes:
        extra: Components of the first part.
        ratio: C, the norm of the second part.
        normalise: Whether outputs have L2 norm 1 instead of √(1 + C²).
    """

    name: Literal["basis"] = "basis"
    extra: int = Field(default=32, gt=0)
    ratio: float = Field(default=2.0, gt=0)
    normalise: bool = True


class AffineConfig(_Config):
    """Input of L2 norm 1 → one linear layer, so that the length of a feature never matters.

    Attributes:
        rank: Rank of the matrix, which is then kept as two factors; None for one matrix.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["affine"] = "affine"
    rank: int | None = Field(default=None, gt=0)
    normalise: bool = True


class BranchesConfig(_Config):
    """The network of FCT: old feature and side-information on a branch each, then together; see `Branches`.

    Attributes:
        side: Width of each set of side-information, which stand behind the old feature; none for none.
        hidden: Width of the joined layers.
        unit: Whether the old feature and every side get L2 norm 1 first.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["branches"] = "branches"
    side: tuple[Annotated[int, Field(gt=0)], ...] = ()
    hidden: int = Field(default=2048, gt=0)
    unit: bool = True
    normalise: bool = True


class MixtureConfig(_Config):
    """Linear maps of several regions, blended; see `Mixture`.

    Attributes:
        parts: How many.
        sharpness: How fast the blend turns to the nearest centre.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["mixture"] = "mixture"
    parts: int = Field(gt=0)
    sharpness: float = Field(gt=0)
    normalise: bool = True


class ResidualConfig(_Config):
    """A linear map with a small network beside it; see `Residual`.

    Attributes:
        hidden: Width of the hidden layer.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["residual"] = "residual"
    hidden: int = Field(default=512, gt=0)
    normalise: bool = True


class SlerpConfig(_Config):
    """Between an old query and the new one in the old space; see `Slerp`.

    Attributes:
        share: How much of the way to the new one.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["slerp"] = "slerp"
    share: float = Field(ge=0, le=1)
    normalise: bool = True


class PosteriorConfig(_Config):
    """Class posteriors as queries, blended with a linear map; see `Posterior`.

    Attributes:
        classes: How many.
        scale: Of the logits.
        share: Of the posterior's query in the blend.
        normalise: Whether outputs have L2 norm 1.
    """

    name: Literal["posterior"] = "posterior"
    classes: int = Field(gt=0)
    scale: float = Field(gt=0)
    share: float = Field(ge=0, le=1)
    normalise: bool = True


AnyConfig = (
    LinearConfig
    | MlpConfig
    | BasisConfig
    | AffineConfig
    | BranchesConfig
    | MixtureConfig
    | ResidualConfig
    | SlerpConfig
    | PosteriorConfig
)
MapConfig = Annotated[AnyConfig, Field(discriminator="name")]

_CONFIGS: dict[str, type[AnyConfig]] = {
    "linear": LinearConfig,
    "mlp": MlpConfig,
    "basis": BasisConfig,
    "affine": AffineConfig,
    "branches": BranchesConfig,
    "mixture": MixtureConfig,
    "residual": ResidualConfig,
    "slerp": SlerpConfig,
    "posterior": PosteriorConfig,
}


def map_config(name: str, options: Mapping[str, Any], *, where: str) -> MapConfig:
    """The config with a registered name and these options; `where` is named in errors.

    Raises:
        UnknownNameError: no architecture has the name.
        UsageError: an option that the architecture does not have, or a value that it cannot take.
    """
    if name not in _CONFIGS:
        raise UnknownNameError("map architecture", name, _CONFIGS, hint=f"{where} may be made by a newer featstore")
    try:
        return _CONFIGS[name].model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{where}: option '{field}' of map architecture '{name}': {first['msg']}",
            hint="a newer featstore may have written it: pip install --upgrade featstore",
        ) from error
