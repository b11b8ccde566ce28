"""Whether an encoder still gives the features that a set holds."""

from __future__ import annotations

from pydantic import BaseModel

from featstore.encoders import load_encoder
from featstore.errors import NotFoundError, UntrustedError, UsageError
from featstore.extract.canary import TOLERANCE, measure_drift, numerics_changed
from featstore.extract.outputs import Output
from featstore.spaces import difference
from featstore.store import Store
from featstore.store.names import clean_name, is_view

__all__ = ["Diagnosis", "doctor"]

# kinds of model that are data: to follow one that is recorded executes nothing
_DATA = ("run", "timm", "hf", "onnx")


class Diagnosis(BaseModel):
    """What became of the inputs that a set keeps.

    Attributes:
        set: `DATASET/NAME@version`.
        model: URI of the encoder.
        inputs: How many were encoded again.
        cosines: By id, of the stored and the new feature; None where one of them has no direction.
        failures: By id, why an input gives no feature any more.
        least: The least cosine; None where there is none.
        tolerance: Cosine distance up to which features count as the same.
        identity: Fields in which the encoder is not the one recorded, as (field, recorded, now).
        numerics: What is computed otherwise, as `field: then → now`.
        healthy: Whether every input gives its stored feature within the tolerance.
    """

    set: str
    model: str
    inputs: int
    cosines: dict[str, float | None]
    failures: dict[str, str]
    least: float | None
    tolerance: float
    identity: list[tuple[str, str, str]]
    numerics: list[str]
    healthy: bool


def doctor(store: Store, reference: str, model: str | None = None, *, tolerance: float = TOLERANCE) -> Diagnosis:
    """Encode the inputs that a set keeps again and compare: a changed library or changed weights show as drift.

    Args:
        store: The store.
        reference: `DATASET/NAME[@version]`.
        model: URI of the encoder; None takes the one that made the set, if nothing recorded has to be executed for it.
        tolerance: Cosine distance up to which features count as the same.

    Raises:
        NotFoundError: the set keeps no inputs, or does not say what made it.
        UntrustedError: the recorded model is code.
        UsageError: the set holds a cached view, or rows of several models.
    """
    features = store.features(reference)
    if is_view(features.record.name):
        clean = f"{features.record.dataset}/{clean_name(features.record.name)}"
        raise UsageError(
            f"{features.ref} holds augmented views and keeps no inputs",
            hint=f"`featstore doctor {clean}` has the encoder",
        )
    if features.record.mixture is not None:
        raise UsageError(
            f"{features.ref} holds rows of several models and keeps no inputs",
            hint=f"`featstore log {features.name}` names the sets that its rows come from; `featstore doctor` looks at those",
        )
    uri = model or _recorded(features.record.provenance.get("model"), features.name)
    output = Output(load_encoder(uri), None)
    changed = [(field.field, field.left, field.right) for field in difference(features.space, output.space)]
    result = Diagnosis(
        set=features.ref,
        model=uri,
        inputs=0,
        cosines={},
        failures={},
        least=None,
        tolerance=tolerance,
        identity=changed,
        numerics=numerics_changed(features, output),
        healthy=False,
    )
    if output.space.width != features.width:
        return result  # no cosine to speak of; `identity` names the widths
    drift = measure_drift(store, features, output)
    if drift is None:
        raise NotFoundError(
            f"{features.ref} keeps no inputs that could be encoded again",
            hint="`featstore extract` keeps some when it finds the images of a set as they were; imported sets have none",
        )
    cosines = {id_: None if cosine != cosine else cosine for id_, cosine in drift.cosines.items()}
    return result.model_copy(
        update={
            "inputs": len(drift.cosines) + len(drift.failures),
            "cosines": cosines,
            "failures": dict(drift.failures),
            "least": cosines[drift.worst[0]] if drift.worst else None,
            "healthy": drift.within(tolerance),
        }
    )


def _recorded(uri: object, name: str) -> str:
    """The model URI that a set records, if it may be followed."""
    if not isinstance(uri, str):
        raise NotFoundError(f"{name} does not record which model made it", hint="give the encoder with --model")
    scheme, colon, _ = uri.partition(":")
    if colon and scheme not in _DATA:
        raise UntrustedError(
            f"{name} was made by {uri}, which is code; nothing recorded in a store is executed",
            hint=f"if you trust it: featstore doctor {name} --model {uri}",
        )
    return uri
