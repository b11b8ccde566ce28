"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click as plain
import rich_click as click

if TYPE_CHECKING:
    from datetime import timedelta

    from featstore.progress import Progress
    from featstore.ranks import Rank
    from featstore.store import Store

__all__ = [
    "engine_option",
    "examples",
    "json_option",
    "pairs",
    "period",
    "rank_of",
    "rank_option",
    "share",
    "store_option",
    "typed",
    "where_option",
]


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store` after the command as well as before it; the command gets an open Store as `store`."""

    def with_store(*args: Any, store_path: str | None, **kwargs: Any) -> Any:
        return command(*args, store=open_store(store_path), **kwargs)

    option = click.option(
        "--store", "store_path", metavar="PATH", help="The store, if not the nearest .featstore folder."
    )
    return option(functools.update_wrapper(with_store, command))


def open_store(path: str | None) -> Store:
    """The store named by the command, by the group before it, or found upwards."""
    from featstore.store import Store

    return Store.open(path or plain.get_current_context().find_root().obj)


def examples(*lines: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Example command lines below the help text, each on its own line."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        # "\b" keeps click from joining the lines
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n\b\n" + "\n".join(
            f"[cyan]{line}[/]" for line in lines
        )
        return command

    return add


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)


def engine_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--engine`."""
    kinds = click.Choice(["local", "ray"])
    return click.option(
        "--engine", type=kinds, default="local", show_default=True, help="Who works: this machine, or a Ray cluster."
    )(command)


def rank_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--rank`, passed as text; `rank_of` reads it."""
    return click.option(
        "--rank", metavar="I/N", help="Take every N-th shard from the I-th on; default: as the launcher says."
    )(command)


def rank_of(text: str | None, progress: Progress) -> Rank:
    """The rank that was asked for, or that of the launcher's environment, which is said."""
    from featstore.ranks import parse_rank, rank_here

    if text is not None:
        return parse_rank(text)
    rank = rank_here()
    if rank.count > 1:
        progress.note(f"this is {rank} by its environment; --rank 0/1 works alone")
    return rank


def where_option(name: str = "--where", *, help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A repeatable row filter."""
    return click.option(name, metavar="COLUMN=VALUE", multiple=True, help=help_text)


def pairs(values: tuple[str, ...], *, option: str, example: str) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping.

    Raises:
        UsageError: one has another form, or a name comes twice.
    """
    from featstore.errors import UsageError

    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"cannot read {option} {text}", hint=f"write {option} {example}")
        if name in found:
            raise UsageError(f"{option} {name}=… stands there twice")
        found[name] = value
    return found


def typed(values: tuple[str, ...], *, option: str, example: str) -> dict[str, Any]:
    """`KEY=VALUE` options as a mapping, values being JSON or else text.

    Raises:
        UsageError: as for `pairs`.
    """
    found: dict[str, Any] = {}
    for name, text in pairs(values, option=option, example=example).items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def share(text: str, *, option: str) -> float:
    """A share as people write it: `5%` or `0.05`.

    Raises:
        UsageError: it is none, or outside 0 to 100 %.
    """
    from featstore.errors import UsageError

    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{option} {text} is no share", hint="write 5% or 0.05")
    return value


def period(text: str, *, option: str) -> timedelta:
    """A time as people write it: `7d`, `12h`, `30m`, `45s` or `0`.

    Raises:
        UsageError: it is none.
    """
    from datetime import timedelta

    from featstore.errors import UsageError

    seconds = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    number = text.rstrip("dhms")
    unit = text[len(number) :] or ("s" if number == "0" else "")
    try:
        return timedelta(seconds=float(number) * seconds[unit])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"{option} {text} is no time", hint="write 7d, 12h, 30m or 0") from None
