"""Time bins and base rates: where the piecewise hazards change, and how often each task happens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.event import SECONDS_PER_DAY

DEFAULT_BINS = 8
NO_EVENT_TIMES = (
    "labels: no event time in the unmasked train studies, expected some: load more records or lower min_events"
)


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Edges of the time bins and the event rate of each task.

    Attributes
    ----------
    edges_s : float64, shape = (num_bins + 1,)
        Whole seconds from t0; the first is 0, the last infinite. A time equal to an edge belongs to the upper bin.
    rate_per_s : float64, shape = (num_tasks,)
        Events a second of exposure; positive.
    num_events, exposure_s : int64, shape = (num_tasks,)
        What the rate was made of: `rate_per_s = num_events / exposure_s`.
    anchor : str
        The studies (``"ct"``) or day boundaries of whole records (``"paper"``), see `anchors.py`.
    fitted_on : str
        `persons_hash` of the persons whose times made edges and rates.
    """

    edges_s: NDArray[np.float64]
    rate_per_s: NDArray[np.float64]
    num_events: NDArray[np.int64]
    exposure_s: NDArray[np.int64]
    anchor: str
    fitted_on: str

    def to_json(self) -> dict[str, Any]:
        """Return the bins as JSON values; the infinite edge is null."""
        return {
            "edges_s": [int(edge) if np.isfinite(edge) else None for edge in self.edges_s],
            "rate_per_s": [float(rate) for rate in self.rate_per_s],
            "num_events": self.num_events.tolist(),
            "exposure_s": self.exposure_s.tolist(),
            "anchor": self.anchor,
            "fitted_on": self.fitted_on,
        }

    @classmethod
    def read(cls, path: Path) -> Bins:
        """Read `bins.json`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            edges_s=np.array([np.inf if edge is None else edge for edge in values["edges_s"]], dtype=np.float64),
            rate_per_s=np.array(values["rate_per_s"], dtype=np.float64),
            num_events=np.array(values["num_events"], dtype=np.int64),
            exposure_s=np.array(values["exposure_s"], dtype=np.int64),
            anchor=values["anchor"],
            fitted_on=values["fitted_on"],
        )


def quantile_edges(time_s: NDArray[np.int32], *, num_bins: int = DEFAULT_BINS) -> NDArray[np.float64]:
    """Return edges so that each bin holds an equal share of the event times (nearest rank, whole seconds).

    Raises
    ------
    IntegrityError
        When there are no times, or two edges fall on one second.
    """
    if len(time_s) == 0:
        raise IntegrityError(NO_EVENT_TIMES)
    ranks = np.array([-(-step * len(time_s) // num_bins) - 1 for step in range(1, num_bins)], dtype=np.int64)
    return edges_between(np.partition(time_s, ranks)[ranks] if num_bins > 1 else np.empty(0, dtype=np.int32))


def edges_between(inner_s: NDArray[Any]) -> NDArray[np.float64]:
    """Return edges from the inner ones, in whole seconds; two that fall on one second are an error."""
    return _checked_edges(np.concatenate([[0.0], inner_s.astype(np.float64), [np.inf]]))


def explicit_edges(edges_days: Sequence[float]) -> NDArray[np.float64]:
    """Return edges from inner edges in days; 0 and infinity are added where they are not named."""
    inner = [round(day * SECONDS_PER_DAY) for day in edges_days if 0 < day < float("inf")]
    return _checked_edges(np.array([0.0, *inner, np.inf]))


def _checked_edges(edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
    repeated = np.flatnonzero(np.diff(edges_s) <= 0)
    if len(repeated):
        edge = edges_s[repeated[0]]
        raise IntegrityError(
            f"labels: time bins need strictly rising edges, found {edge:.0f} s twice or out of order: too few distinct "
            "event times for this many bins; name fewer with --bins N, or the edges in days with --bins 30,90,365"
        )
    return edges_s


def bin_of(edges_s: NDArray[np.float64], time_s: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bin of each time; a time equal to an edge belongs to the upper bin."""
    number: NDArray[np.int64] = np.asarray(np.digitize(time_s, edges_s[1:-1]), dtype=np.int64)
    return number


def clipped_exposure(
    edges_s: NDArray[np.float64], entry_s: NDArray[np.int64], until_s: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return seconds under observation in each bin, shape = (num_studies, num_bins); rows sum to `until − entry`."""
    lower = edges_s[:-1].astype(np.int64)
    upper = np.where(np.isfinite(edges_s[1:]), edges_s[1:], np.iinfo(np.int32).max).astype(np.int64)
    start = np.maximum(lower, np.asarray(entry_s, dtype=np.int64)[:, None])
    stop = np.minimum(upper, np.asarray(until_s, dtype=np.int64)[:, None])
    exposure: NDArray[np.int64] = np.maximum(stop - start, 0)
    return exposure


def base_rates(
    task: NDArray[Any],
    time_s: NDArray[Any],
    end_s: NDArray[Any],
    entry_s: NDArray[Any],
    row: NDArray[Any],
    num_tasks: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return events and seconds of exposure of each task, in the next view.

    Parameters
    ----------
    task, time_s, row : shape = (num_events,)
        Task, time and study of each stored event.
    end_s, entry_s : shape = (num_studies,)
        End and start of each unmasked study's follow-up: every one of them is exposed to every task.
    """
    whole = int((end_s.astype(np.int64) - entry_s.astype(np.int64)).sum())
    events = np.bincount(task, minlength=num_tasks).astype(np.int64)
    cut = np.zeros(num_tasks, dtype=np.int64)
    np.add.at(cut, task, end_s.astype(np.int64)[row] - time_s.astype(np.int64))
    return events, whole - cut


def fit_bins(
    edges_s: NDArray[np.float64],
    num_events: NDArray[np.int64],
    exposure_s: NDArray[np.int64],
    *,
    fitted_on: str,
    anchor: str = "ct",
) -> Bins:
    """Return the bins with their rates; a task without an event among the train studies is an error."""
    empty = np.flatnonzero(num_events == 0)
    if len(empty):
        raise IntegrityError(
            f"labels: {len(empty)} tasks have no event in the train studies (first: number {empty[0]}), expected at "
            "least one each: raise min_events or choose the tasks again"
        )
    return Bins(edges_s, num_events / exposure_s, num_events, exposure_s, anchor, fitted_on)
