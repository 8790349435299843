"""What may count, from when, until when: the semantics of every label, as pure functions over arrays.

One comparison decides everything: history is `t <= r`, outcome is `r < t <= F`. Three conventions make dates obey it: a
date-only event happens at the start of its day, a date-only death and a date-only censoring at the end of theirs.

    prior observation           t0    r                                       D?     F = min(C, D)
    |-------------------------|--X----|---------o------------o----------------+------|
    op_start   e1 (t <= r)       image  entry   T_k          later events      death   end of observation

Task sets and SQL tasks share this module. Times are absolute seconds of the declared zone's wall clock (int64) until
they are stored as int32 seconds from t0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event, Mask

if TYPE_CHECKING:
    import pyarrow as pa

    from presage_platform.settings import LabelingSettings

SameDay = Literal["exclude", "strict_day", "include"]
Censor = Literal["observation_period_end", "last_event", "last_visit_end", "data_cut", "hybrid"]
Guard = Literal["none", "condition", "all"]

NEVER = int(np.iinfo(np.int64).max)
"""Time of what did not happen (a death that is not known)."""
BEFORE_ALL = -(1 << 60)
"""A time before every event: an unlimited lookback, a person without visits."""
LAST_SECOND = SECONDS_PER_DAY - 1
POSTHUMOUS_DAYS = 60
"""Records up to so many days after a death are administration; later ones are a fault of the data, and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The decisions of a task (labeling section 4); the defaults are those of a task set.

    `follows_death` marks a task whose event is death; `death_competes` is false for a task without competing events.
    """

    data_cut_s: int
    death_cut_s: int | None = None
    same_day: SameDay = "exclude"
    censor: Censor = "observation_period_end"
    death_pad_days: int = 60
    lookback_s: int | None = None
    min_lag_s: int = 0
    min_prior_obs_days: int = 0
    visit_guard: Guard = "none"
    fed_by_conditions: bool = True
    follows_death: bool = False
    death_competes: bool = True

    @classmethod
    def of_task_set(cls, settings: LabelingSettings, *, data_cut_s: int) -> Policy:
        """Return the policy of a task set from `[labeling]`."""
        from datetime import date

        cut = settings.death_cut
        return cls(
            data_cut_s=data_cut_s,
            death_cut_s=None if cut is None else (cut - date(1970, 1, 1)).days * SECONDS_PER_DAY + LAST_SECOND,
            same_day=settings.same_day,
            censor=settings.censor,
            death_pad_days=settings.death_pad,
            lookback_s=None if settings.lookback is None else settings.lookback * SECONDS_PER_DAY,
            min_lag_s=settings.min_lag * SECONDS_PER_DAY,
            min_prior_obs_days=settings.min_prior_obs,
            visit_guard=settings.visit_guard,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the policy as JSON values, for hashes and manifests."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class IndexFacts:
    """What the record says around each study, whatever the policy. n = studies; absolute seconds, int64.

    Attributes
    ----------
    study_id, person_id, t0_s : shape = (n,)
    t0_is_date : bool
        t0 has day precision; then `t0_s` is the day's midnight.
    in_period : bool
        An observation period (joined over small gaps) holds t0.
    period_start_s, period_end_s
        That period: first second of its first day, last second of its last day.
    last_event_s, last_visit_end_s
        Of the person; `BEFORE_ALL` when there is none.
    visit_start_s, visit_end_s
        The visit that holds t0, else t0's day.
    guard_end_s
        End of the visits around t0, joined where they are at most a day apart; t0 when there is none.
    death_at_s
        The person's death (a date-only death at its day's end), `NEVER` when there is none. Absolute, unlike the
        `death_s` of a label, which counts from the scan.
    """

    study_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    t0_s: NDArray[np.int64]
    t0_is_date: NDArray[np.bool_]
    in_period: NDArray[np.bool_]
    period_start_s: NDArray[np.int64]
    period_end_s: NDArray[np.int64]
    last_event_s: NDArray[np.int64]
    last_visit_end_s: NDArray[np.int64]
    visit_start_s: NDArray[np.int64]
    visit_end_s: NDArray[np.int64]
    guard_end_s: NDArray[np.int64]
    death_at_s: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.study_id)

    def take(self, rows: NDArray[Any]) -> IndexFacts:
        """Return the facts of some studies."""
        return IndexFacts(*(getattr(self, name)[rows] for name in self.__slots__))

    def to_table(self) -> pa.Table:
        """Return the facts as columns of these names."""
        import pyarrow as pa

        return pa.table({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_table(cls, table: pa.Table) -> IndexFacts:
        """Read the facts from a table that holds at least these columns."""
        return cls(
            *(np.asarray(table.column(name).combine_chunks().to_numpy(zero_copy_only=False)) for name in cls.__slots__)
        )


@dataclass(frozen=True, slots=True, eq=False)
class RiskWindows:
    """From when to when each study is at risk. n = studies.

    Attributes
    ----------
    entry_s, end_s : int32, seconds from t0
        Risk start and end of follow-up; a follow-up that ends before t0 reads 0 and is masked.
    end_cause : uint8
        `Event.COMPETING` when death ended follow-up, else `Event.CENSORED`.
    death_s : int32
        Seconds from t0 to death, -1 = none known; a death before t0 reads 0 and is masked.
    death_end_s : int32
        End of follow-up of a task whose event is death.
    mask : uint16
        Bits of `Mask`.
    risk_start_s, follow_up_end_s, lookback_from_s : int64, absolute
        The same boundaries on the wall clock: history is `lookback_from <= t <= risk_start`, outcome is
        `risk_start < t <= follow_up_end`.
    """

    entry_s: NDArray[np.int32]
    end_s: NDArray[np.int32]
    end_cause: NDArray[np.uint8]
    death_s: NDArray[np.int32]
    death_end_s: NDArray[np.int32]
    mask: NDArray[np.uint16]
    risk_start_s: NDArray[np.int64]
    follow_up_end_s: NDArray[np.int64]
    lookback_from_s: NDArray[np.int64]

    def take(self, rows: NDArray[Any]) -> RiskWindows:
        """Return the windows of some studies."""
        return RiskWindows(*(getattr(self, name)[rows] for name in self.__slots__))


def day_start(time_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first second of each time's day."""
    return time_s - time_s % SECONDS_PER_DAY


def day_end(time_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last second of each time's day: midnight already belongs to the next."""
    return day_start(time_s) + LAST_SECOND


def risk_windows(
    index: IndexFacts,
    policy: Policy,
    *,
    risk_start_s: NDArray[np.int64] | None = None,
    censor_s: NDArray[np.int64] | None = None,
) -> RiskWindows:
    """Return when each study enters and leaves the risk set, and why some never enter.

    Parameters
    ----------
    risk_start_s
        Of an SQL task's `@at_risk` block: the earliest risk start of each study, `NEVER` for a study that is not
        listed. A death at or before it puts the study out of the risk set.
    censor_s
        Of its `@censor` block: an earlier end of follow-up, `NEVER` for none.
    """
    r = risk_start(index, policy)
    mask = np.zeros(len(index), dtype=np.uint16)
    if risk_start_s is not None:
        out = (risk_start_s == NEVER) | (index.death_at_s <= risk_start_s)
        mask[out] |= np.uint16(Mask.NOT_ELIGIBLE)
        r = np.where(out, r, np.maximum(r, risk_start_s))
    c = censor_time(index, policy)
    if censor_s is not None:
        c = np.minimum(c, censor_s)
    f, cause = follow_up_end(index, policy, c)
    death_end = death_follow_up_end(policy, c)
    if policy.follows_death:
        f, cause = death_end, np.zeros(len(index), dtype=np.uint8)
    mask[f <= r] |= np.uint16(Mask.NO_FOLLOWUP)
    mask[index.death_at_s < index.t0_s] |= np.uint16(Mask.DEAD_AT_INDEX)
    mask[~index.in_period] |= np.uint16(Mask.NO_OBSERVATION)
    mask[prior_observation_days(index) < policy.min_prior_obs_days] |= np.uint16(Mask.SHORT_HISTORY)
    known = index.death_at_s != NEVER
    return RiskWindows(
        entry_s=relative(r, index.t0_s),
        end_s=relative(np.maximum(f, index.t0_s), index.t0_s),
        end_cause=cause,
        death_s=np.where(known, relative(_at_least(index.death_at_s, index.t0_s, known), index.t0_s), -1).astype(
            np.int32
        ),
        death_end_s=relative(np.maximum(death_end, index.t0_s), index.t0_s),
        mask=mask,
        risk_start_s=r,
        follow_up_end_s=f,
        lookback_from_s=np.full(len(index), BEFORE_ALL) if policy.lookback_s is None else r - policy.lookback_s,
    )


def risk_start(index: IndexFacts, policy: Policy) -> NDArray[np.int64]:
    """Return the first instant after which an event may count: never before t0."""
    r = np.maximum(index.t0_s, index.t0_s + policy.min_lag_s)
    whole_day = index.t0_is_date | (policy.same_day == "strict_day")
    r = np.where(whole_day, np.maximum(r, day_end(index.t0_s)), r)
    if not policy.follows_death and (
        policy.visit_guard == "all" or (policy.visit_guard == "condition" and policy.fed_by_conditions)
    ):
        r = np.maximum(r, index.guard_end_s)
    return r


def censor_time(index: IndexFacts, policy: Policy) -> NDArray[np.int64]:
    """Return the time at which follow-up ends for a reason unrelated to the event, never after the data cut."""
    if policy.censor == "observation_period_end":
        end = np.where(index.in_period, index.period_end_s, index.t0_s)
    elif policy.censor == "last_event":
        end = index.last_event_s
    elif policy.censor in ("last_visit_end", "hybrid"):
        end = index.last_visit_end_s
    else:
        end = np.full(len(index), policy.data_cut_s, dtype=np.int64)
    return np.minimum(end, policy.data_cut_s)


def follow_up_end(
    index: IndexFacts, policy: Policy, censor_s: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the earlier of censoring and death, and which: a death soon after the censoring ends it as death."""
    dead = index.death_at_s <= censor_s + policy.death_pad_days * SECONDS_PER_DAY
    cause = np.where(dead & policy.death_competes, np.uint8(Event.COMPETING), np.uint8(Event.CENSORED))
    return np.minimum(censor_s, index.death_at_s), cause.astype(np.uint8)


def death_follow_up_end(policy: Policy, censor_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how long a death task follows everyone, dead or alive alike."""
    if policy.censor == "hybrid":
        cut = policy.data_cut_s if policy.death_cut_s is None else min(policy.death_cut_s, policy.data_cut_s)
        return np.full(len(censor_s), cut, dtype=np.int64)
    return np.minimum(censor_s + policy.death_pad_days * SECONDS_PER_DAY, policy.data_cut_s)


def prior_observation_days(index: IndexFacts) -> NDArray[np.int32]:
    """Return days from the start of the period that holds t0 to t0's day; -1 = no period holds it."""
    days = (day_start(index.t0_s) - day_start(index.period_start_s)) // SECONDS_PER_DAY
    return np.where(index.in_period, np.maximum(days, 0), -1).astype(np.int32)


def event_time(
    time_s: NDArray[np.int64], is_date: NDArray[np.bool_], t0_s: NDArray[np.int64], same_day: SameDay
) -> NDArray[np.int64]:
    """Return when an event counts: a date-only event of the index day at the day's end under `include`.

    Shapes: all (num_events,); `t0_s` is the index time of each event's study.
    """
    if same_day != "include":
        return time_s
    return np.where(is_date & (time_s == day_start(t0_s)), day_end(t0_s), time_s)


def relative(time_s: NDArray[np.int64], t0_s: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return int32 seconds from t0.

    Raises
    ------
    IntegrityError
        If a difference exceeds 68 years.
    """
    seconds = time_s - t0_s
    limit = np.iinfo(np.int32).max
    if len(seconds) and (seconds.max() > limit or seconds.min() < -limit):
        raise IntegrityError(
            "integrity: a time lies more than 68 years from its scan and does not fit 32-bit seconds: expected a data "
            "cut within the record; set [labeling] data_cut, or mend the dates"
        )
    return seconds.astype(np.int32)


def _at_least(time_s: NDArray[np.int64], floor: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(known, np.maximum(time_s, floor), floor)
