"""What all verbs of the command line share: errors of the user's making, and a group that suggests the nearest verb."""

from typing import Any

import click

from spikecredit.training.document import nearest


class Failure(click.ClickException):
    """An error of the user's making: its message, and exit status 2."""

    exit_code = 2


class RunFailure(Failure):
    """A run that failed: exit status 1."""

    exit_code = 1


class Verbs(click.Group):
    """A group that suggests the nearest verb."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise Failure(f"no verb {args[0]!r}{nearest(args[0], sorted(self.commands))}")
        return super().resolve_command(ctx, args)
