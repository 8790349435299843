"""The OMOP concepts that mappings name themselves: found once when a load starts, so no row points at an absent one."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from presage_platform.errors import VocabularyError


class ConceptSource(Protocol):
    """Where concepts are looked up when a load starts."""

    def named(self, names: list[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """Return ids by (vocabulary_id, concept name or code), absent ones left out."""

    def existing(self, concept_ids: Iterable[int]) -> set[int]:
        """Return those ids that exist."""


class Concepts:
    """Type, status and other named concepts of this vocabulary (E41).

    Attributes
    ----------
    remarks : list of str
        One line for each optional concept that the vocabulary lacks and for each that fell back, for the report.
    """

    def __init__(self, ids: Mapping[str, int], present: Iterable[int], remarks: Iterable[str] = ()) -> None:
        self._ids = dict(ids)
        self._present = frozenset(present)
        self.remarks = list(remarks)

    def __getitem__(self, name: str) -> int:
        """Return the id of a concept of concepts.toml; 0 for an optional one that is absent."""
        return self._ids[name]

    def get(self, name: str) -> int | None:
        """Return the id of a concept, None for an optional one that is absent: for nullable columns."""
        return self._ids[name] or None

    def literal(self, concept_id: int) -> int:
        """Return a published id if the vocabulary holds it, else 0."""
        return concept_id if concept_id in self._present else 0

    def literal_or_none(self, concept_id: int) -> int | None:
        """Return a published id if the vocabulary holds it, else None: for nullable columns."""
        return concept_id if concept_id in self._present else None


def find_concepts(source: ConceptSource) -> Concepts:
    """Look up every concept of concepts.toml; all missing ones are listed together.

    Raises
    ------
    VocabularyError
        When concepts are missing that are neither optional nor have a fallback.
    """
    declared, literals = _declared()
    by_name = source.named([(entry["vocabulary"], _word(entry)) for entry in declared.values()])
    present = source.existing({*literals, *(entry["id"] for entry in declared.values() if "id" in entry)})
    ids = {name: _found(entry, by_name, present) for name, entry in declared.items()}
    remarks = [f"concept {concept_id} is not in the vocabulary: 0 is written" for concept_id in literals - present]
    missing: list[str] = []
    for name, entry in declared.items():
        if ids[name]:
            continue
        label = f"{entry['vocabulary']} '{_word(entry)}'"
        if "fallback" in entry:
            ids[name] = ids[entry["fallback"]]
            remarks.append(f"{label} is not in the vocabulary: {declared[entry['fallback']]['name']} is written")
        elif entry.get("optional"):
            remarks.append(f"{label} is not in the vocabulary: 0 is written")
        else:
            missing.append(label)
    if missing:
        raise VocabularyError(
            f"the vocabulary lacks {len(missing)} concepts that every load needs: {', '.join(missing)}; "
            "load one that has them with `platform etl vocabulary PATH`"
        )
    return Concepts(ids, present, sorted(remarks))


@cache
def _declared() -> tuple[dict[str, dict[str, Any]], frozenset[int]]:
    document = tomllib.loads(files("presage_etl.fhir").joinpath("concepts.toml").read_text(encoding="utf-8"))
    literals = frozenset(document.pop("literals"))
    return document, literals


def _word(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name") or entry["code"])


def _found(entry: Mapping[str, Any], by_name: Mapping[tuple[str, str], int], present: set[int]) -> int:
    found = by_name.get((entry["vocabulary"], _word(entry)))
    if found is not None:
        return found
    published = entry.get("id", 0)
    return published if published in present else 0
