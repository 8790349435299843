"""Ctrl-C and SIGTERM in the middle of a load: what is at work is finished, nothing new begins (E94)."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """Turns Ctrl-C and SIGTERM into a wish: chunks at work are finished, none begins; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:
            pass  # not the main thread: signals belong to somebody else
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.asked = True
        signal.signal(number, self._before[number])

    def until_asked(self, tasks: Iterable[T]) -> Iterator[T]:
        """Yield tasks until somebody asked to stop."""
        for task in tasks:
            if self.asked:
                return
            yield task
