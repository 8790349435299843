"""What an interrupted run has finished already: one small record a shard, read by the next run.

A record holds what the worker returned, after all its files were written, and is put in place by one rename. Whatever
has no record is made again under the same names. Records are JSON with tags for the few other types that results hold;
only data classes of this package are built from them.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from presage_platform.parallel import map_partitions

RECORDS = "synth.records"
PACKAGE = "presage_etl.synthetic."
TAG = "$"
PLAIN = frozenset((type(None), bool, int, float, str))

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Kept(Generic[Task, Result]):
    """Work whose result is recorded."""

    function: Callable[[Task], Result]
    task: Task
    record: Path


def resumed(
    function: Callable[[Task], Result], tasks: Sequence[Task], records: Path, *, workers: int | None
) -> Iterator[Result]:
    """Yield the result of each task, in any order; those recorded below `records` are read, not made again."""
    records.mkdir(parents=True, exist_ok=True)
    waiting = []
    for number, task in enumerate(tasks):
        record = records / f"{number:06d}.json"
        if record.is_file():
            yield decode(json.loads(record.read_text(encoding="utf-8")))
        else:
            waiting.append(_Kept(function, task, record))
    yield from map_partitions(_make, waiting, workers=workers)


def recorded(records: Path) -> Iterator[Any]:
    """Yield every result that has a record."""
    for record in sorted(records.glob("*.json")):
        yield decode(json.loads(record.read_text(encoding="utf-8")))


def remove_unfinished(folder: Path, finished: set[str]) -> None:
    """Remove the files below a folder that no record names: an interrupted worker left them."""
    for path in list(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in finished:
            path.unlink()


def _make(kept: _Kept[Task, Result]) -> Result:
    result = kept.function(kept.task)
    temporary = kept.record.with_suffix(".tmp")
    temporary.write_text(json.dumps(encode(result)), encoding="utf-8")
    temporary.replace(kept.record)
    return result


def encode(value: Any) -> Any:
    """Turn a result into JSON values.

    Raises
    ------
    TypeError
        It holds something that cannot be read back as it was.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.generic):
        return encode(value.item())
    if is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return {TAG: "data", "type": name, "value": {f.name: encode(getattr(value, f.name)) for f in fields(value)}}
    for kind, (encoded, _) in _CONTAINERS.items():
        if type(value) is kind:
            return {TAG: kind.__name__, "value": encoded(value)}
    if type(value) is list:
        return {TAG: "rows", "value": value} if _plain_rows(value) else [encode(item) for item in value]
    raise TypeError(f"a result holds a {type(value).__name__}, which no record can keep")


def decode(value: Any) -> Any:
    """Turn JSON values back into what they were."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, held = value[TAG], value["value"]
    if kind == "rows":
        return held
    if kind == "data":
        return _class_of(value["type"])(**{name: decode(item) for name, item in held.items()})
    return next(decoded for of, (_, decoded) in _CONTAINERS.items() if of.__name__ == kind)(held)


def _plain_rows(value: list[Any]) -> bool:
    """Whether a list holds flat rows alone: the many, written without a second look."""
    return all(type(row) is dict and PLAIN.issuperset(map(type, row.values())) for row in value)


def _class_of(name: str) -> Any:
    module, _, name = name.partition(":")
    found = getattr(importlib.import_module(module), name) if module.startswith(PACKAGE) else None
    if not is_dataclass(found):
        raise TypeError("a record names a class that is no data class of the generator")
    return found


def _pairs(value: Any) -> list[Any]:
    return [[encode(key), encode(item)] for key, item in value.items()]


def _mapping(held: Any) -> dict[Any, Any]:
    return {decode(key): decode(item) for key, item in held}


def _table_text(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def _table(held: str) -> pa.Table:
    with pa.ipc.open_stream(base64.b64decode(held)) as reader:
        return reader.read_all()


_Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]
_CONTAINERS: dict[Any, _Codec] = {
    dict: (_pairs, _mapping),
    Counter: (_pairs, lambda held: Counter(_mapping(held))),
    tuple: (lambda value: [encode(item) for item in value], lambda held: tuple(decode(item) for item in held)),
    set: (lambda value: [encode(item) for item in sorted(value)], lambda held: {decode(item) for item in held}),
    date: (date.isoformat, date.fromisoformat),
    pa.Table: (_table_text, _table),
}
