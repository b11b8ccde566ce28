"""Entry point. Commands are loaded when they are called, so that `featstore --help` imports nothing heavy."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rich_click as click
from click.exceptions import Abort, Exit
from rich_click.utils import CommandGroupDict

from featstore_cli.base import Command, Group
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples

__all__ = ["cli", "main"]

# name → (module:attribute, the line that --help shows); the commands' own docstrings begin with the same line (tested)
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("featstore_cli.commands.init:init", "Make a store."),
    "extract": ("featstore_cli.commands.extract:extract", "Encode images once into shared feature sets."),
    "import": ("featstore_cli.commands.convert:import_", "Bring features made elsewhere into the store."),
    "export": ("featstore_cli.commands.convert:export", "Write a feature set to a file of another tool."),
    "dataset": (
        "featstore_cli.commands.dataset:dataset",
        "Split a dataset, add columns to it, or say where its files are.",
    ),
    "train": ("featstore_cli.commands.train:train", "Learn a compatible model beside cached old features."),
    "apply": ("featstore_cli.commands.apply:apply", "Map a cached feature set into another one."),
    "eval": ("featstore_cli.commands.eval:eval_", "Compare old and new models and give a verdict."),
    "backfill": (
        "featstore_cli.commands.backfill:backfill",
        "Encode the part of a gallery that gains most, first.",
    ),
    "upgrade": ("featstore_cli.commands.upgrade:upgrade", "Change the gallery that is served, with a way back."),
    "plan": ("featstore_cli.commands.plan:plan", "Say how to ship the new model, and what that costs."),
    "search": ("featstore_cli.commands.search:search", "Find the nearest rows of a feature set."),
    "index": ("featstore_cli.commands.search:index", "Build an index that makes searching fast."),
    "ls": ("featstore_cli.commands.inspect:ls", "List what the store holds."),
    "show": ("featstore_cli.commands.inspect:show", "Describe a dataset or a feature set."),
    "log": ("featstore_cli.commands.history:log", "List the versions of a dataset or a feature set."),
    "tag": ("featstore_cli.commands.history:tag", "Let a tag name a version of a feature set."),
    "verify": ("featstore_cli.commands.verify:verify", "Check that the store holds what was published."),
    "doctor": ("featstore_cli.commands.doctor:doctor", "Encode a few kept inputs again and report drift."),
    "repair": ("featstore_cli.commands.repair:repair", "Mend what verify finds damaged."),
    "retry-failed": ("featstore_cli.commands.retry:retry_failed", "Encode the failed images of a set once more."),
    "du": ("featstore_cli.commands.inspect:du", "Say what datasets and feature sets take up."),
    "diff": ("featstore_cli.commands.compare:diff", "Say what differs between two versions, sets or datasets."),
    "declare": ("featstore_cli.commands.compare:declare", "Declare that features of two sets may be compared."),
    "rm": ("featstore_cli.commands.tidy:rm", "Remove rows from a dataset."),
    "compact": (
        "featstore_cli.commands.tidy:compact",
        "Rewrite a dataset without its removed rows, and small shards into large ones.",
    ),
    "gc": ("featstore_cli.commands.tidy:gc", "Delete what no version, tag, writer or recent reader needs."),
    "materialise": (
        "featstore_cli.commands.cache:materialise",
        "Copy feature sets of an object store to this machine.",
    ),
    "cache": ("featstore_cli.commands.cache:cache", "Show or clear the copies on this machine."),
    "config": ("featstore_cli.commands.config:config", "Shipped training recipes: list, show, copy, validate."),
    "models": ("featstore_cli.commands.models:models", "Encoders: list the kinds, show one, export one."),
    "losses": ("featstore_cli.commands.losses:losses", "List the training objectives and the adapters."),
    "metrics": ("featstore_cli.commands.eval:metrics", "List the metrics and their conventions."),
}
_GROUPS: list[CommandGroupDict] = [
    {
        "name": "Fill the store",
        "commands": ["init", "extract", "retry-failed", "models", "import", "export", "dataset"],
    },
    {"name": "Learn and upgrade", "commands": ["train", "apply", "backfill", "upgrade", "config", "losses"]},
    {"name": "Decide and search", "commands": ["plan", "eval", "metrics", "search", "index"]},
    {
        "name": "Look around",
        "commands": [
            "ls",
            "show",
            "log",
            "tag",
            "diff",
            "declare",
            "verify",
            "doctor",
            "repair",
            "materialise",
            "cache",
        ],
    },
    {"name": "Tidy up", "commands": ["du", "rm", "compact", "gc"]},
]

click.rich_click.MAX_WIDTH = 100
click.rich_click.COMMAND_GROUPS = {"featstore": _GROUPS}
click.rich_click.STYLE_OPTIONS_PANEL_BOX = "SIMPLE"
click.rich_click.STYLE_COMMANDS_PANEL_BOX = "SIMPLE"
click.rich_click.STYLE_COMMANDS_TABLE_PAD_EDGE = False
click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"


class _LazyGroup(Group):
    """Knows its commands by name and line, and imports one when it is asked for more."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        target, line = COMMANDS[cmd_name]
        if ctx.params.get("_listing"):
            return Command(name=cmd_name, help=line)
        module, attribute = target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_help(self, ctx: click.RichContext, formatter: click.RichHelpFormatter) -> None:  # type: ignore[override]  # rich-click narrows the types
        ctx.params["_listing"] = True
        super().format_help(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from featstore.errors import UnknownNameError

            raise UnknownNameError("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    invoke_without_command=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--store", metavar="PATH", help="The store; default: $FEATSTORE_STORE or the nearest .featstore folder.")
@click.version_option(package_name="featstore", message="featstore %(version)s")
@click.pass_context
@examples(
    "featstore init",
    "featstore extract photos --dataset cars --model old=OLD --model new=NEW",
    "featstore train --loss odpp --old cars/old --new cars/new --out runs/odpp",
    "featstore apply runs/odpp cars/new --as cars/odpp",
    "featstore eval --old cars/old --new cars/odpp --reference cars/new",
)
def cli(ctx: click.Context, store: str | None) -> None:
    """Ship a new embedding model without re-encoding the gallery.

    Encode once into a shared store, learn a compatible model from the cached features, apply it, and compare every
    combination of old and new before anything is switched.
    """
    ctx.obj = store


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of `ExitCode`."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status; every other than 0 has said on stderr what to do next."""
    try:
        result: Any = cli.main(list(arguments), prog_name="featstore", standalone_mode=False)
    except Exit as stop:
        return stop.exit_code
    except (Abort, KeyboardInterrupt):
        _say("interrupted", "run the same command again to go on where it stopped")
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return ExitCode.ERROR
    except Exception as error:  # noqa: BLE001 - the last place where anything can be said to the user
        return _explain(error)
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _explain(error: Exception) -> int:
    from featstore.errors import FeatstoreError, UsageError

    if isinstance(error, FeatstoreError):
        _say(error.message, error.hint)
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.ERROR
    traceback.print_exception(error)
    _say("this is a fault in featstore, not in what you did", "the store is intact; please report the lines above")
    return ExitCode.ERROR


def _say(message: str, hint: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", style="bold red") + Text(message, style="default"))
    if hint:
        console.print(Text("  → ", style="bold cyan") + Text(hint, style="default"))
