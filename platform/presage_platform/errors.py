"""Every error that a user can meet, and the one book of exit codes.

    PresageError
    ├── UsageError              2  USAGE           command line
    │   └── SettingsError       2  USAGE           platform.toml, environment
    ├── InputError              3  INPUT           nothing usable, missing or unreadable
    │   └── StaleSeriesError    3  INPUT           image files changed between scan and conversion
    ├── DatabaseError           4  DATABASE        unreachable, refused, wrong version
    ├── VocabularyError         5  VOCABULARY      absent, incomplete, changed during a run
    ├── QualityError            6  QUALITY         checks or thresholds failed; good rows stay
    ├── IntegrityError          7  INTEGRITY       invariant, hash or contract broken
    │   └── VolumeStoreError    7  INTEGRITY
    ├── LockedError             8  LOCKED          another writer is at work
    ├── TaskError               9  TASK            an SQL task was refused
    ├── TaskTestError          10  TASK_TEST       a task's own test failed
    ├── LimitError             11  LIMIT           cost gate, time-out, memory
    ├── SelfCheckError         12  SELF_CHECK      a self-check of evaluation or demo failed
    ├── NotComputableError     13  NOT_COMPUTABLE  every metric missing
    ├── RecipeError            14  RECIPE          training recipe, weights or label store do not fit
    │   ├── VolumeRecipeError  14  RECIPE
    │   ├── LabelStoreError    14  RECIPE
    │   └── WeightsError       14  RECIPE
    ├── HardwareError          15  HARDWARE        self-test failed, device missing, too small
    ├── DiskFullError          16  DISK_FULL       no space; state intact
    ├── RequeueError           75  REQUEUE         stopped on request with a checkpoint
    └── InterruptedRun        130  INTERRUPTED     Ctrl-C or SIGTERM; resumable

0 is OK and 1 is BUG (anything that is not a PresageError). A retired number is never used again. A message is one
line that says what was found, what was expected and what to do; it never holds a patient's value.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit-code book: names are normative in every specification, numbers come from here."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    DATABASE = 4
    VOCABULARY = 5
    QUALITY = 6
    INTEGRITY = 7
    LOCKED = 8
    TASK = 9
    TASK_TEST = 10
    LIMIT = 11
    SELF_CHECK = 12
    NOT_COMPUTABLE = 13
    RECIPE = 14
    HARDWARE = 15
    DISK_FULL = 16
    REQUEUE = 75
    INTERRUPTED = 130


class PresageError(Exception):
    """An error that the user can mend; `str(error)` is the one line that is printed."""

    exit_code: ExitCode = ExitCode.BUG


class UsageError(PresageError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """platform.toml or a PRESAGE_… variable is wrong."""


class InputError(PresageError):
    """An input is missing, unreadable, or holds nothing usable."""

    exit_code = ExitCode.INPUT


class StaleSeriesError(InputError):
    """Image files are gone or changed between scan and conversion."""


class DatabaseError(PresageError):
    """The database cannot be reached, refuses, or is not the one that is needed."""

    exit_code = ExitCode.DATABASE


class VocabularyError(PresageError):
    """The OMOP vocabulary is absent, incomplete, or changed during a run."""

    exit_code = ExitCode.VOCABULARY


class QualityError(PresageError):
    """A check or a threshold failed; what is good stays loaded."""

    exit_code = ExitCode.QUALITY


class IntegrityError(PresageError):
    """An invariant, a hash or a contract between stages is broken."""

    exit_code = ExitCode.INTEGRITY


class VolumeStoreError(IntegrityError):
    """A volume store is damaged or does not hold what its index says."""


class LockedError(PresageError):
    """Another writer is at work on the same workspace."""

    exit_code = ExitCode.LOCKED


class TaskError(PresageError):
    """An SQL task was refused before it ran."""

    exit_code = ExitCode.TASK


class TaskTestError(PresageError):
    """A fixture or a metamorphic test of an SQL task failed."""

    exit_code = ExitCode.TASK_TEST


class LimitError(PresageError):
    """A cost gate, a time-out or a memory limit was reached."""

    exit_code = ExitCode.LIMIT


class SelfCheckError(PresageError):
    """A self-check of an evaluation or of the demo failed; no result is trusted."""

    exit_code = ExitCode.SELF_CHECK


class NotComputableError(PresageError):
    """A report was written in which every metric is missing."""

    exit_code = ExitCode.NOT_COMPUTABLE


class RecipeError(PresageError):
    """A training recipe is wrong, or does not fit what it is applied to."""

    exit_code = ExitCode.RECIPE


class VolumeRecipeError(RecipeError):
    """A run asks for volumes that were prepared by another recipe."""


class LabelStoreError(RecipeError):
    """A label store does not hold what training needs."""


class WeightsError(RecipeError):
    """A weights file is refused."""


class HardwareError(PresageError):
    """A device is missing, too small, or fails its self-test."""

    exit_code = ExitCode.HARDWARE


class DiskFullError(PresageError):
    """No space is left; what was written before is intact."""

    exit_code = ExitCode.DISK_FULL


class RequeueError(PresageError):
    """A run stopped on request and left a checkpoint to go on from."""

    exit_code = ExitCode.REQUEUE


class InterruptedRun(PresageError):  # noqa: N818 - it names what happened, not a fault
    """Ctrl-C or SIGTERM; the same command continues."""

    exit_code = ExitCode.INTERRUPTED
