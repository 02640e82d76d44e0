"""Commands whose help is in sections, and that take an option once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from hlmm_scan import storage

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FIRST = "What everybody needs"
RUNNING = "Running"


class Option(click.Option):
    """An option of one section of the help."""

    def __init__(self, *args: Any, section: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command that takes an option once, unless it says that it takes several."""

    def __init__(self, *args: Any, section: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an option given again: all but the last would be dropped without a word."""
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in {o.name: o for o in given if isinstance(o, click.Option)}.values():
            once = not (option.multiple or option.count or option.is_flag or option.is_eager)
            if once and sum(other is option for other in given) > 1:
                raise click.UsageError(f"{option.opts[0]} is given more than once", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section; those without one come last."""
        told = ((p, p.get_help_record(ctx)) for p in self.get_params(ctx))
        rows = [(getattr(p, "section", ""), record) for p, record in told if record is not None]
        last = next((section for section, _ in reversed(rows) if section), "Options")
        _write(formatter, ((section or last, record) for section, record in rows))


class Group(click.Group):
    """Commands by section."""

    command_class = Command

    def __init__(self, *args: Any, section: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, in the order in which they were added."""
        width = formatter.width - 6 - max(map(len, self.commands), default=0)
        told = (
            (getattr(command, "section", "Commands"), (name, command.get_short_help_str(width)))
            for name, command in self.commands.items()
        )
        _write(formatter, told)


class PlaceType(click.ParamType):  # type: ignore[type-arg]
    """A path, or an address in an object store."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> storage.Place:
        """Return where that is."""
        return storage.place(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Have the shell complete paths."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def _write(formatter: click.HelpFormatter, rows: Iterable[tuple[str, tuple[str, str]]]) -> None:
    """Write rows under their titles; a title stands where its first row does."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for title, row in rows:
        sections.setdefault(title, []).append(row)
    for title, lines in sections.items():
        with formatter.section(title):
            formatter.write_dl(lines)
