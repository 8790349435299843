"""The operator's crosswalk from images to persons: a CSV file, read strictly and kept as keyed hashes.

A crosswalk is the strongest evidence there is, so that a doubtful file is refused with its place and its remedy.
Errors name file, line and column, never what stands there.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from presage_etl.linking.study import Study
from presage_platform.errors import InputError, SettingsError
from presage_platform.ledger.identity import keyed_hash
from presage_platform.settings import LinkSettings

IMAGE_SIDES = ("study_uid", "accession", "patient_id", "file")
PERSON_SIDES = ("person_id", "fhir_patient_id", "identifier")
_HASHED = {"accession", "patient_id", "identifier"}
_PREFIX = "dicom_"

Target = tuple[str, str]  # (person side, key)


@dataclass(slots=True)
class Crosswalk:
    """All rows of all mapping files: image key → the persons it is assigned to."""

    given: bool = False  # a mapping was named in this run
    targets: dict[Target, set[Target]] = field(default_factory=dict)
    used: set[Target] = field(default_factory=set)
    num_rows: int = 0
    num_duplicates: int = 0

    def add(self, image: Target, person: Target) -> None:
        """Take one row in; two equal rows are one, two that differ are a conflict."""
        self.num_rows += 1
        known = self.targets.setdefault(image, set())
        self.num_duplicates += person in known
        known.add(person)

    def find(self, study: Study) -> set[Target]:
        """Return the persons that the keys of a study are assigned to."""
        keys = [("study_uid", study.study_uid)]
        keys += [("patient_id", key) for key in [study.patient_key, *study.other_patient_keys] if key]
        keys += [("accession", key) for key, _ in study.accessions]
        keys += [("file", name) for name in study.files]
        hits = [key for key in keys if key in self.targets]
        self.used.update(hits)
        return set().union(*(self.targets[key] for key in hits)) if hits else set()

    @property
    def wants_files(self) -> bool:
        """True when a row names a file, so that the catalogue's paths are needed."""
        return any(side == "file" for side, _ in self.targets)

    @property
    def num_unused(self) -> int:
        """Image keys that no study has."""
        return len(self.targets.keys() - self.used)


def read_crosswalk(map_file: Path | None, settings: LinkSettings, secret: bytes) -> Crosswalk:
    """Read `--map FILE` and every `[[link.mapping]]` of the settings."""
    crosswalk = Crosswalk()
    declared = [_declared(entry) for entry in settings.mapping]
    for path, columns in [(map_file, {})] * (map_file is not None) + declared:
        assert path is not None
        crosswalk.given = True
        _read_csv(path, columns, crosswalk, secret, strip=settings.strip_leading_zeros)
    return crosswalk


def _declared(entry: Mapping[str, object]) -> tuple[Path, dict[str, str]]:
    kind = entry.get("kind", "csv")
    if kind != "csv":
        raise SettingsError(f"link.mapping of kind {kind!r} is not read by this release: give a csv")
    unknown = set(entry) - {"kind", "path", "columns"}
    if unknown or not isinstance(entry.get("path"), str):
        raise SettingsError("link.mapping needs `path` and may have `kind` and `columns`; other keys are unknown")
    columns = entry.get("columns", {})
    if not isinstance(columns, dict):
        raise SettingsError("link.mapping.columns must be a table: header = side")
    return Path(str(entry["path"])), {str(key): str(value) for key, value in columns.items()}


def _read_csv(path: Path, columns: Mapping[str, str], crosswalk: Crosswalk, secret: bytes, *, strip: bool) -> None:
    text = _text_of(path)
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        header = next(reader)
        image_at, image_side, person_at, person_side = _sides(path, header, columns)
        for row in reader:
            if not row:
                continue
            image, person = (_cell(path, reader.line_num, header, row, at) for at in (image_at, person_at))
            crosswalk.add(
                (image_side, _key(image_side, image, secret, strip=strip)),
                (person_side, _key(person_side, person, secret, strip=strip)),
            )
    except StopIteration:
        raise InputError(
            f"mapping {path.name} is empty: expected a header line and one line a study or patient"
        ) from None
    except csv.Error:
        raise InputError(
            f"mapping {path.name} line {reader.line_num}: quotes do not close; write it again as CSV"
        ) from None


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"mapping {path.name} cannot be read ({error.strerror}): name an existing CSV file") from None
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"mapping {path.name} line 1: begins with a byte order mark; save it as plain UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"mapping {path.name} line {line}: is not UTF-8; save it as UTF-8") from None


def _sides(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> tuple[int, str, int, str]:
    """Return position and meaning of the image column and of the person column."""
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"mapping {path.name} line 1: is separated by semicolons; save it with commas")
    meanings = [columns.get(name.strip(), name.strip().removeprefix(_PREFIX)) for name in header]
    images = [number for number, meaning in enumerate(meanings) if meaning in IMAGE_SIDES]
    persons = [number for number, meaning in enumerate(meanings) if meaning in PERSON_SIDES]
    for found, sides, what in ((images, IMAGE_SIDES, "image"), (persons, PERSON_SIDES, "person")):
        if len(found) != 1:
            raise InputError(
                f"mapping {path.name} line 1: {len(found)} columns name the {what}, expected exactly one of "
                f"{', '.join(sides)}; rename the column or say `columns` in [[link.mapping]]"
            )
    return images[0], meanings[images[0]], persons[0], meanings[persons[0]]


def _cell(path: Path, line: int, header: Sequence[str], row: Sequence[str], position: int) -> str:
    if len(row) != len(header):
        raise InputError(
            f"mapping {path.name} line {line}: has {len(row)} columns, the header {len(header)}; correct the line"
        )
    value = row[position].strip()
    if not value:
        raise InputError(f"mapping {path.name} line {line} column {position + 1}: is empty; fill it or drop the line")
    return value


def _key(side: str, value: str, secret: bytes, *, strip: bool) -> str:
    if side in _HASHED:
        return keyed_hash(secret, value, strip_leading_zeros=strip)
    return value.removeprefix("urn:oid:") if side == "study_uid" else value.removeprefix("Patient/")
