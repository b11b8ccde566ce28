"""Adapters by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featstore.errors import UnknownNameError, UsageError
from featstore_training.adapters.base import Adapter
from featstore_training.adapters.fastfill import Fastfill
from featstore_training.adapters.fct import Fct
from featstore_training.adapters.local import Local
from featstore_training.adapters.lowrank import LowRank
from featstore_training.adapters.mlp import Mlp
from featstore_training.adapters.posterior import Posterior
from featstore_training.adapters.procrustes import Procrustes
from featstore_training.adapters.ridge import Ridge
from featstore_training.adapters.slerp import Slerp
from featstore_training.objectives import LossInfo, losses
from featstore_training.objectives.registry import method_info

__all__ = ["ADAPTERS", "adapter_infos", "build_adapter", "is_adapter"]

ADAPTERS: dict[str, type[Adapter]] = {
    cls.name: cls for cls in (Procrustes, Ridge, LowRank, Local, Mlp, Slerp, Posterior, Fct, Fastfill)
}


def is_adapter(loss: str) -> bool:
    """Whether a name, or the part of it before the colon, is an adapter's and not an objective's.

    Raises:
        UnknownNameError: it is neither; near names of both kinds are listed.
    """
    base = loss.partition(":")[0]
    others = [info.name for info in losses()]
    if base not in ADAPTERS and base not in others:
        raise UnknownNameError("loss", base, [*ADAPTERS, *others], hint="`featstore losses` describes them")
    return base in ADAPTERS


def build_adapter(loss: str, params: Mapping[str, Any]) -> Adapter:
    """The adapter `NAME` or `NAME:FORM` with these settings.

    Raises:
        UnknownNameError: no such adapter or form; near names are listed.
        UsageError: an unknown setting, a wrong value, or one that contradicts the form.
    """
    base, _, form = loss.partition(":")
    if base not in ADAPTERS:
        raise UnknownNameError("adapter", base, ADAPTERS, hint="`featstore losses` describes them")
    method = ADAPTERS[base]
    if form and form not in method.forms:
        raise UnknownNameError(f"form of '{base}'", form, method.forms, hint="`featstore losses` describes them")
    fixed = method.forms.get(form, {})
    for key, value in params.items():
        if key in fixed and fixed[key] != value:
            raise UsageError(
                f"'{loss}' means {key}={fixed[key]}, not {value}", hint=f"--loss {base} --set params.{key}=…"
            )
    return method(method.Params(**{**fixed, **params}))


def adapter_infos() -> list[LossInfo]:
    """All adapters in order of name."""
    return [method_info(cls) for _, cls in sorted(ADAPTERS.items())]
