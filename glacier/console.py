"""What the commands print while they work: lines and progress bars on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[], None]
Track = Callable[[str, int | None], AbstractContextManager[Advance]]
"""(what is counted, how many or None) -> a context whose value is called once for each that is done."""

out = Console()
"""Results: tables and paths."""
err = Console(stderr=True)
"""Everything said along the way."""


def note(message: str) -> None:
    """One line about what is going on."""
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line about what the user should know."""
    err.print(f"warning: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Advance]:
    """A progress bar; on anything but a terminal, nothing."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    # not err.is_terminal: notebooks set FORCE_COLOR, and would keep each frame of the bar as lines
    with Progress(*columns, console=err, transient=True, disable=not err.file.isatty()) as progress:
        task = progress.add_task(escape(what), total=total)
        yield lambda: progress.advance(task)


@contextmanager
def silence(what: str, total: int | None) -> Iterator[Advance]:
    """No progress bar."""
    yield lambda: None
