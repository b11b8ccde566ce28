"""What every command and group of the command line has in common."""

from __future__ import annotations

from collections import Counter

import click as plain
import rich_click as click

__all__ = ["Command", "Group"]


class _GivenOnce(plain.Command):
    """Refuses an option of one value that is given twice; click would silently take the last."""

    def parse_args(self, ctx: plain.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter, times in Counter(order).items():
                if isinstance(parameter, plain.Option) and times > 1 and _takes_one_value(parameter):
                    from featstore.errors import UsageError

                    name = max(parameter.opts, key=len)
                    raise UsageError(
                        f"{name} takes one value and is given {times} times",
                        hint=f"keep one of them; {ctx.command_path} --help lists the options that may be repeated",
                    )
        return super().parse_args(ctx, args)


def _takes_one_value(option: plain.Option) -> bool:
    return not (option.multiple or option.is_flag or option.count)


class Command(_GivenOnce, click.RichCommand):
    """A command: `@click.command(cls=Command)`; what a `Group` makes is one anyway."""


class Group(_GivenOnce, click.RichGroup):  # type: ignore[misc]  # the bases of rich-click's own class disagree
    """A group of commands."""

    command_class = Command
