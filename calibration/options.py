"""Options that several commands share, and the callbacks that parse what was typed or refuse it as click does."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable

import click

from runtime.terminal import printable

_LARGEST_SIDE = 4096


class Recorded(click.Command):
    """A command that remembers its arguments as they were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for `command_line`."""
        ctx.meta[__name__] = tuple(args)
        return super().parse_args(ctx, args)


def command_line(ctx: click.Context) -> str:
    """Return what was typed to run a `Recorded` command."""
    return shlex.join([*ctx.command_path.split(), *ctx.meta[__name__]])


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return ``HxW`` as ``(H, W)``; None stays None."""
    if value is None:
        return None
    parts = value.split("x")
    sides = [int(part) for part in parts if part.isdecimal() and len(part) <= len(str(_LARGEST_SIDE))]
    if len(parts) != 2 or len(sides) != 2 or not all(0 < side <= _LARGEST_SIDE for side in sides):
        raise click.BadParameter(f"expected a size such as 32x32, got {value!r}", ctx, param)
    return sides[0], sides[1]


def names(*choices: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]:
    """Return a callback for a repeatable option: distinct names out of `choices`, also several at once with commas."""

    def parse(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip() for part in ",".join(value).split(",")))
        unknown = [name for name in found if name not in choices]
        if unknown:
            raise click.BadParameter(
                f"expected names out of {', '.join(choices)}, got {', '.join(unknown) or 'none'}", ctx, param
            )
        return found

    return parse


def number(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return a number, written as a decimal or as a fraction such as ``8/255``; None stays None."""
    try:
        return None if value is None else _number(value)
    except ValueError:
        raise click.BadParameter(f"expected a number such as 0.1 or 8/255, got {value!r}", ctx, param) from None


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Return a list of numbers of at least 0, written as decimals or fractions such as ``8/255``; none from None."""
    return () if value is None else tuple(_not_negative(part, ctx, param) for part in value.split(","))


def _not_negative(text: str, ctx: click.Context, param: click.Parameter) -> float:
    try:
        number = _number(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise click.BadParameter(f"expected numbers of at least 0 such as 0.1 or 8/255, got {text!r}", ctx, param)
    return number


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise ValueError(text) from None


DATA = click.option("--data", required=True, metavar="DATA", help="digits, a folder with train/ and test/, or an .npz.")
SIZE = click.option("--size", metavar="HxW", callback=size, help="Fit every image file to this size.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="What the sample is drawn with.")


def next_command(*words: object) -> str:
    """Return the line that says which command comes next."""
    return printable(f"next: cmt {shlex.join(map(str, words))}")
