"""What an exported network carries along: its preprocessing, and the space of the encoder that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from featstore.encoders.encoder import Encoder
from featstore.encoders.model_options import read_preprocess
from featstore.encoders.preprocess import Preprocess
from featstore.errors import BadInputError, UsageError

__all__ = ["KEY", "Carried", "carried_by", "carried_with", "encoder_of"]

KEY = "featstore.encoder"
_PROCESSOR = "preprocessor_config.json"


class Carried(BaseModel):
    """What is written into an exported network.

    Attributes:
        name: What people call the space.
        preprocess: How images become its input.
        normalise: Whether features are scaled to length 1.
        compatible_with: Digests of spaces whose features may be compared with its own: that of the original above all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    preprocess: Preprocess
    normalise: bool = False
    compatible_with: tuple[str, ...] = ()


def carried_by(encoder: Encoder) -> str:
    """What an export of an encoder carries, as JSON."""
    return Carried(
        name=encoder.space.name,
        preprocess=encoder.preprocess,
        normalise=encoder.normalise,
        compatible_with=(encoder.space.digest, *encoder.space.compatible_with),
    ).model_dump_json()


def carried_with(file: Path, embedded: str | None, given: str | None) -> Carried:
    """What there is to know about a network: what the user names, what it carries, or what lies beside it.

    Args:
        file: The network's file.
        embedded: What it carries, if anything.
        given: A JSON file with the preprocessing, named by the user.

    Raises:
        BadInputError: what it carries is damaged.
        UsageError: nothing says how images become its input.
    """
    try:
        found = None if embedded is None else Carried.model_validate_json(embedded)
    except ValidationError as error:
        raise BadInputError(f"{file} carries a damaged description: {error}", hint="export it again") from error
    beside = file.with_name(_PROCESSOR)
    if given is not None:
        preprocess = read_preprocess(given)
        return Carried(name=file.stem, preprocess=preprocess, normalise=found.normalise if found else False)
    if found is not None:
        return found
    if beside.is_file():
        return Carried(name=file.stem, preprocess=read_preprocess(beside))
    raise UsageError(
        f"nothing says how images become input of {file}",
        hint=(
            f"give {file.name}?preprocess=FILE.json with its size, mean and std, put the model's {_PROCESSOR} beside it, "
            "or export it with `featstore models export`"
        ),
    )


def encoder_of(module: Any, carried: Carried, **options: Any) -> Encoder:
    """The encoder of a network and what it carries."""
    return Encoder(
        module,
        carried.preprocess,
        name=carried.name,
        normalise=carried.normalise,
        compatible_with=carried.compatible_with,
        **options,
    )
