"""What PostgreSQL says when it fails, in our words: the raw text quotes rows, ours names tables and codes only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from presage_platform.errors import DatabaseError, DiskFullError, LimitError, LockedError, PresageError

WHAT_TO_DO = {
    "08": "check that the server runs and run the command again",
    "22": "a value does not fit its column: please report this",
    "23": "a row breaks a rule of the schema: please report this",
    "28": "check user and password in database.url",
    "3D": "create the database, or correct its name in database.url",
    "40": "another command changed the same rows: run the command again",
    "42": "run `platform db upgrade`, or give the login the rights that `platform doctor` prints",
    "57": "the server was stopped: start it and run the command again",
    "58": "the server cannot use its disk: look into its log",
}


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of the driver into errors of ours, which hold no value of a row."""
    try:
        yield
    except PresageError:
        raise
    except psycopg.Error as error:
        raise translated(error) from None
    except Exception as error:
        original = getattr(error, "orig", None)  # SQLAlchemy wraps the driver's errors
        if isinstance(original, psycopg.Error):
            raise translated(original) from None
        raise


def is_passing(error: psycopg.OperationalError) -> bool:
    """True for faults that the same work may not meet again: a lost connection, a serialisation failure, a deadlock."""
    state = error.sqlstate
    if state is None:
        return True  # the connection broke, or was not made
    return state.startswith("08") or state in ("40001", "40P01", "57P01", "57P02", "57P03")


def translated(error: psycopg.Error) -> PresageError:
    """Return our error for one of the driver's: SQLSTATE, table, column and constraint, never the message."""
    state = error.sqlstate
    if state is None:
        return DatabaseError(_without_state(error))
    where = _where(error)
    if state in ("53100", "53200"):
        if state == "53100":
            return DiskFullError("the database server has no disk space left: free some, then run the command again")
        return LimitError("the database server has no memory left: use fewer workers")
    if state in ("57014", "25P03"):
        return LimitError(f"the statement exceeded its time limit (SQLSTATE {state}){where}")
    if state == "55P03":
        return LockedError(f"another command holds a lock that is needed{where}: wait for it to end")
    what = type(error).__name__
    todo = WHAT_TO_DO.get(state[:2], "look into the server's log")
    return DatabaseError(f"the database refused a statement ({what}, SQLSTATE {state}){where}: {todo}")


def _without_state(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.OperationalError):
        return (
            "the database cannot be reached, or the connection was lost: check that the server of database.url runs, "
            "then run the command again"
        )
    return f"the database driver failed ({type(error).__name__}): please report this"


def _where(error: psycopg.Error) -> str:
    diagnosis = error.diag
    parts = [
        f"{word} {name}"
        for word, name in (
            ("table", diagnosis.table_name),
            ("column", diagnosis.column_name),
            ("constraint", diagnosis.constraint_name),
        )
        if name
    ]
    return f" at {', '.join(parts)}" if parts else ""
