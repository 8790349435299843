"""The one form of an outcome: a time in days and a typed event code, so that an indicator cannot be inverted.

Everything that fits or scores survival takes an `Outcome`. It alone makes scikit-survival's structured array, and it
refuses booleans and bare integers of unknown meaning, the usual way in which "is censored" becomes "has event".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from presage_platform.labeling.event import Event

SECONDS_PER_DAY = 86_400.0
UNKNOWN = -1


class TaskView(Protocol):
    """What a label store says of one task: one row a study (labeling L51)."""

    @property
    def study_id(self) -> NDArray[np.int64]: ...
    @property
    def time_s(self) -> NDArray[Any]: ...
    @property
    def cause(self) -> NDArray[Any]: ...
    @property
    def at_risk(self) -> NDArray[np.bool_]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Times and events of the studies at risk.

    Parameters
    ----------
    time_days : array of float64, shape = (num_studies,)
        Days from the task's clock to the event or the end of follow-up; finite, not negative.
    event : array of integers, shape = (num_studies,)
        Codes of `presage_platform.labeling.Event`: CENSORED 0, EVENT 1, COMPETING 2.

    Raises
    ------
    TypeError
        If `event` is boolean or not of an integer type: a bare indicator says not which way it points.
    ValueError
        If the lengths differ, a time is negative or not finite, or a code is outside the enum.
    """

    time_days: NDArray[np.float64]
    event: NDArray[np.uint8]

    def __post_init__(self) -> None:
        time_days = np.asarray(self.time_days)
        event = np.asarray(self.event)
        _check_types(time_days, event)
        _check_values(time_days, event)
        object.__setattr__(self, "time_days", _read_only(time_days.astype(np.float64)))
        object.__setattr__(self, "event", _read_only(event.astype(np.uint8)))

    def __len__(self) -> int:
        return len(self.time_days)

    @classmethod
    def from_labels(cls, view: TaskView) -> Outcome:
        """Return the outcome of the rows of `view` that are at risk; its rows are `view.study_id[view.at_risk]`."""
        at_risk = np.asarray(view.at_risk)
        if at_risk.dtype != np.bool_:
            raise TypeError(f"at_risk: found {at_risk.dtype}, expected bool")
        time_days = np.asarray(view.time_s)[at_risk].astype(np.float64) / SECONDS_PER_DAY
        return cls(time_days, np.asarray(view.cause)[at_risk])

    def take(self, rows: ArrayLike) -> Outcome:
        """Return the outcome of some rows: a boolean mask or row numbers."""
        chosen = np.asarray(rows)
        return Outcome(self.time_days[chosen], self.event[chosen])

    def has(self, cause: Event = Event.EVENT) -> NDArray[np.bool_]:
        """Return which rows ended by `cause`."""
        return np.asarray(self.event == int(cause), dtype=np.bool_)

    def count(self, cause: Event = Event.EVENT) -> int:
        """Return how many rows ended by `cause`."""
        return int(np.count_nonzero(self.event == int(cause)))

    def survival(self, cause: Event = Event.EVENT) -> NDArray[np.void]:
        """Return scikit-survival's structured array, cause-specific: every other ending is a censoring."""
        structured = np.empty(len(self), dtype=[("event", np.bool_), ("time", np.float64)])
        structured["event"] = self.has(cause)
        structured["time"] = self.time_days
        return structured

    def window(self, horizon_days: float) -> NDArray[np.int8]:
        """Return 1 for an event within the horizon, 0 for none, -1 where follow-up ends too soon to know.

        A competing end within the horizon is a 0: the event can no longer happen.
        """
        if not np.isfinite(horizon_days) or horizon_days <= 0:
            raise ValueError(f"horizon of {horizon_days} days: expected a positive number")
        within = self.time_days <= horizon_days
        label = np.zeros(len(self), dtype=np.int8)
        label[within & self.has(Event.EVENT)] = 1
        label[self.has(Event.CENSORED) & (self.time_days < horizon_days)] = UNKNOWN
        return label


def _check_types(time_days: NDArray[Any], event: NDArray[Any]) -> None:
    if event.dtype == np.bool_ or not np.issubdtype(event.dtype, np.integer):
        raise TypeError(
            f"event: found {event.dtype}, expected integer codes of Event (0 censored, 1 event, 2 competing)"
        )
    if time_days.dtype == np.bool_ or not np.issubdtype(time_days.dtype, np.number):
        raise TypeError(f"time_days: found {time_days.dtype}, expected numbers of days")


def _check_values(time_days: NDArray[Any], event: NDArray[Any]) -> None:
    if time_days.ndim != 1 or time_days.shape != event.shape:
        raise ValueError(f"time_days and event: expected one length, found shapes {time_days.shape} and {event.shape}")
    if not np.isfinite(time_days).all() or (time_days < 0).any():
        raise ValueError("time_days: found a negative or non-finite time, expected finite days from the task's clock")
    if not np.isin(event, [int(code) for code in Event]).all():
        raise ValueError("event: found a code outside the enum, expected 0 censored, 1 event, 2 competing")


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
