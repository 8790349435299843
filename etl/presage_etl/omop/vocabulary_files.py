"""Finding and reading the files of an Athena download: folder, zip or gzipped; tab separated, never quoted (E14)."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa
from pyarrow import csv

from presage_platform.errors import InputError, VocabularyError

SUFFIXES = (".csv", ".tsv", ".txt")
BLOCK_BYTES = 8 * 1024 * 1024
SEPARATORS = {",": "comma", ";": "semicolon", "|": "bar"}


@dataclass(frozen=True, slots=True)
class VocabularyFile:
    """One table's file, wherever it lies; `open` gives its decompressed bytes."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def find_files(path: Path) -> dict[str, VocabularyFile]:
    """Return the vocabulary files at a path by table name.

    Raises
    ------
    InputError
        When the path does not exist, or is neither a folder nor a zip archive.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: expected a folder or .zip of an Athena download")
    if path.is_dir():
        found = {_table_of(entry.name): _plain(entry) for entry in sorted(path.iterdir()) if _table_of(entry.name)}
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
        found = {_table_of(name): _member(path, name) for name in names if _table_of(name)}
    else:
        raise InputError(f"{path} is neither a folder nor a .zip: expected an Athena download")
    if not found:
        raise InputError(f"no vocabulary file found in {path} (looked for CONCEPT.csv, CONCEPT.csv.gz and the like)")
    return found


def _table_of(name: str) -> str:
    stem = PurePosixPath(name).name.lower().removesuffix(".gz")
    suffix = PurePosixPath(stem).suffix
    return stem.removesuffix(suffix) if suffix in SUFFIXES and not stem.startswith(".") else ""


def _plain(path: Path) -> VocabularyFile:
    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with path.open("rb") as stream, _decompressed(stream) as plain:
            yield plain

    return VocabularyFile(path.name, opened)


def _member(archive_path: Path, name: str) -> VocabularyFile:
    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(archive_path) as archive, archive.open(name) as stream, _decompressed(stream) as plain:
            yield plain

    return VocabularyFile(PurePosixPath(name).name, opened)


def _decompressed(stream: IO[bytes]) -> IO[bytes]:
    magic = stream.read(2)
    stream.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if magic == b"\x1f\x8b" else stream


def open_blocks(file: VocabularyFile, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the wanted columns of a file as text, block by block; empty is NULL, `NA` stays.

    Raises
    ------
    VocabularyError
        When the separator is not the tab, a column is missing, or the file cannot be read to its end.
    """
    names = _header(file)
    wanted = {column: names.index(column) for column in columns if column in names}
    missing = [column for column in columns if column not in wanted]
    if missing:
        raise VocabularyError(f"{file.name} lacks the column {missing[0]}: {_found(file)}")
    try:
        with file.open() as stream:
            reader = csv.open_csv(
                stream,
                read_options=csv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK_BYTES),
                parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=columns,
                    null_values=[""],
                    strings_can_be_null=True,
                    check_utf8=True,
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        if _is_empty(error):
            return
        raise VocabularyError(f"{file.name} cannot be read to its end: download it again") from None


def _is_empty(error: Exception) -> bool:
    return "Empty CSV file" in str(error)


def _header(file: VocabularyFile) -> list[str]:
    with file.open() as stream:
        first = stream.readline(1 << 16)
    try:
        text = first.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise VocabularyError(f"{file.name} is not UTF-8 text") from None
    return [name.strip().lower() for name in text.split("\t")]


def _found(file: VocabularyFile) -> str:
    """Say what separates the columns, when it is not the tab."""
    with file.open() as stream:
        first = stream.readline(1 << 16).decode("utf-8", "replace")
    if "\t" in first:
        return "expected the columns of an Athena download by their names in the first line"
    for separator, name in SEPARATORS.items():
        if separator in first:
            return f"its columns are separated by a {name}, expected tabs"
    return "found no tab in its first line, expected tab separated columns"
