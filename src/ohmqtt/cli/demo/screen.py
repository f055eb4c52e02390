"""What the demonstration looks like: drawn by rich where that is installed and somebody looks on, otherwise plain lines."""

from __future__ import annotations

import importlib.util
import shutil
import textwrap
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from typing_extensions import Self

__all__ = ["PlainScreen", "RichScreen", "Screen", "open_screen"]

WIDTH = 100


class Screen(Protocol):
    """What the story tells and shows."""

    def __enter__(self) -> Self:
        """Begin to draw."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End drawing, and leave the terminal as it was."""
        ...

    def say(self, text: str) -> None:
        """Tell what happens, in a sentence or two."""
        ...

    def act(self, title: str, text: str) -> None:
        """Tell that something dramatic happens, and why it matters."""
        ...

    def progress(self, share: float, sent: int, delivered: int) -> None:
        """Show how far it is: the share of the time, 0 to 1, and how many messages."""
        ...

    def table(self, rows: list[tuple[str, str]], verdict: str, good: bool) -> None:
        """Show what came of it."""
        ...


def open_screen(file: TextIO, *, plain: bool) -> Screen:
    """Return the screen that suits: plain if that is asked for, if nobody looks on, or if rich isn't installed."""
    if plain or not file.isatty() or importlib.util.find_spec("rich") is None:
        return PlainScreen(file, min(WIDTH, shutil.get_terminal_size().columns) if file.isatty() else WIDTH)
    from rich.console import Console

    return RichScreen(Console(file=file, highlight=False))


class PlainScreen:
    """Lines of ASCII, for files, pipes, and terminals that can't do more. The progress is one line for each tenth of the way."""

    def __init__(self, file: TextIO, width: int = WIDTH) -> None:
        self._file = file
        self._width = width
        self._tenths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def _print(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def say(self, text: str) -> None:
        """Print it, in lines that fit."""
        self._print(textwrap.fill(text, self._width))

    def act(self, title: str, text: str) -> None:
        """Print it with its title before it."""
        self._print(textwrap.fill(f"{title}: {text}", self._width, initial_indent="* ", subsequent_indent="  "))

    def progress(self, share: float, sent: int, delivered: int) -> None:
        """Print a line if another tenth is done."""
        tenths = int(share * 10)
        if tenths > self._tenths:
            self._tenths = tenths
            self._print(f"  {tenths * 10:3} %  sent {sent:,}, delivered {delivered:,}")

    def table(self, rows: list[tuple[str, str]], verdict: str, good: bool) -> None:  # noqa: ARG002  # the words say it
        """Print the rows, the figures below one another."""
        wide = max(len(name) for name, _ in rows)
        figures = max(len(figure) for _, figure in rows)
        self._print("\n" + "\n".join(f"  {name:{wide}}  {figure:>{figures}}" for name, figure in rows) + f"\n\n{verdict}")


class RichScreen:
    """Colours, a bar that moves, and a table with borders."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console
        counts = "[green]sent {task.fields[sent]:,}[/]  [cyan]delivered {task.fields[delivered]:,}[/]"
        self._progress = Progress(BarColumn(None), TextColumn(counts), console=console, expand=True)
        self._bar = self._progress.add_task("", total=1.0, sent=0, delivered=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(text, markup=False)

    def act(self, title: str, text: str) -> None:
        """Print it above the bar, with its title in red."""
        from rich.text import Text

        self._console.print(Text.assemble((title, "bold red"), ": ", text))

    def progress(self, share: float, sent: int, delivered: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=share, sent=sent, delivered=delivered)

    def table(self, rows: list[tuple[str, str]], verdict: str, good: bool) -> None:
        """Draw the table, and the verdict below it."""
        from rich.table import Table

        self._progress.stop()
        colour = "green" if good else "red"
        table = Table(show_header=False, border_style=colour)
        table.add_column()
        table.add_column(justify="right", style="bold")
        for name, figure in rows:
            table.add_row(name, figure)
        self._console.print(table)
        self._console.print(verdict, style=f"bold {colour}", markup=False)
