"""Errors of the database, as a user reads them: codes and names of ours, no value of a row."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from presage_platform.errors import DatabaseError, DiskFullError, ExitCode, LimitError, LockedError, PresageError
from presage_platform.postgres.failures import is_passing, translate_errors, translated

CANARY = "Müller, Anna 1950-02-03"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.UniqueViolation, DatabaseError),
        (psycopg.errors.StringDataRightTruncation, DatabaseError),
        (psycopg.errors.UndefinedTable, DatabaseError),
        (psycopg.errors.DiskFull, DiskFullError),
        (psycopg.errors.OutOfMemory, LimitError),
        (psycopg.errors.QueryCanceled, LimitError),
        (psycopg.errors.LockNotAvailable, LockedError),
        (psycopg.OperationalError, DatabaseError),
        (psycopg.InterfaceError, DatabaseError),
    ],
)
def test_p15_error_of_the_driver_becomes_one_line_of_ours(
    error: type[psycopg.Error], expected: type[PresageError]
) -> None:
    ours = translated(error(CANARY))
    assert type(ours) is expected
    assert CANARY not in str(ours)
    assert "\n" not in str(ours)
    assert ours.exit_code in (ExitCode.DATABASE, ExitCode.DISK_FULL, ExitCode.LIMIT, ExitCode.LOCKED)


def test_p16_translated_error_carries_nothing_of_the_original() -> None:
    with pytest.raises(DatabaseError) as raised, translate_errors():
        raise psycopg.errors.NotNullViolation(CANARY)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_error_that_sqlalchemy_wrapped_is_translated_too() -> None:
    with pytest.raises(DatabaseError, match="SQLSTATE 23503"), translate_errors():
        raise DBAPIError("INSERT", {"name": CANARY}, psycopg.errors.ForeignKeyViolation(CANARY))


def test_errors_of_ours_and_of_others_pass_unchanged() -> None:
    with pytest.raises(LockedError, match="busy"), translate_errors():
        raise LockedError("busy")
    with pytest.raises(ZeroDivisionError), translate_errors():
        raise ZeroDivisionError


def test_p27_only_passing_faults_are_repeated() -> None:
    passing = [psycopg.errors.SerializationFailure(), psycopg.errors.DeadlockDetected(), psycopg.OperationalError()]
    lasting = [psycopg.errors.DiskFull(), psycopg.errors.QueryCanceled(), psycopg.errors.LockNotAvailable()]
    assert [is_passing(error) for error in passing] == [True] * 3
    assert [is_passing(error) for error in lasting] == [False] * 3
