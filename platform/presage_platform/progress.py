"""Progress of long work: a bar on a terminal, a line every 30 s elsewhere, nothing for work under two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

QUIET_SECONDS = 2.0
LINE_SECONDS = 30.0

_quiet = False


def silence(quiet: bool) -> None:
    """Switch progress off for this process (`--quiet`)."""
    global _quiet  # noqa: PLW0603 - one switch of the process, set once by the command line's root
    _quiet = quiet


class Progress:
    """One bar. Counts only: nothing that names a file, a person or a resource may be shown.

    Parameters
    ----------
    what : str
        What is being done, e.g. ``"scan"``.
    total : int | None
        Number of units in all; None when unknown.
    unit : str
        Plural noun, e.g. ``"files"`` or ``"bytes"``.
    """

    def __init__(self, what: str, *, total: int | None = None, unit: str = "items") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.counts: dict[str, int] = {}
        self._start = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        self._on_terminal = sys.stderr.isatty() and not _quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, units: int = 1, **counts: int) -> None:
        """Add finished units and, by name, counts worth seeing such as ``dead=3``."""
        self.done += units
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        now = time.monotonic()
        if _quiet or now - self._start < QUIET_SECONDS:
            return
        if self._on_terminal:
            self._draw()
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = self.done / max(now - self._start, 1e-9)
        of_total = f" of {self.total}" if self.total else ""
        counts = "".join(f", {number} {name}" for name, number in self.counts.items())
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate > 0 else ""
        return f"{self.what}: {self.done}{of_total} {self.unit}, {rate:.0f}/s{counts}{left}"

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True)
            )
            self._task = self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        self._bar.update(self._task, completed=self.done, description=self._line(time.monotonic()))
