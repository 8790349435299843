"""Code → standard concept: the OMOP vocabulary of this database, asked in bulk and remembered within bounds.

One query answers many (vocabulary, code) pairs (E32, E38). Nothing is ever matched by name or display text, and a
target is only ever a valid standard concept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, LiteralString, Protocol, TypeVar

import psycopg
from psycopg import sql

from presage_platform.errors import VocabularyError

CACHE_ENTRIES = 500_000
CONCEPT_ID = "concept_id"
"""Pseudo vocabulary of a pair whose code is an OMOP concept id itself (E29, last line of the table)."""

LOAD_COMMAND = "platform etl vocabulary PATH"

Pair = tuple[str, str]
Unmapped = Literal["unknown-code", "no-standard-map", "invalid-target"]
LocalMap = Literal["fallback", "override", "none"]


@dataclass(frozen=True, slots=True)
class Target:
    """A valid standard concept that a code leads to."""

    concept_id: int
    domain_id: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one (vocabulary, code) pair leads to; `reason` is set when there is no target."""

    source_concept_id: int = 0
    targets: tuple[Target, ...] = ()
    values: tuple[Target, ...] = ()
    reason: Unmapped | None = "unknown-code"


UNKNOWN_CODE = Resolution()


class Vocabulary(Protocol):
    """What the mappings ask of a vocabulary; the database's is `Resolver`, tests bring a tiny one in memory."""

    def resolve(self, pairs: Iterable[Pair]) -> Mapping[Pair, Resolution]:
        """Return the resolution of every pair."""

    def ancestry(self, concept_ids: Iterable[int]) -> set[tuple[int, int]]:
        """Return the (ancestor, descendant) pairs among these concepts, self excluded."""


K = TypeVar("K")
V = TypeVar("V")


class LeastRecentlyUsed(OrderedDict[K, V]):
    """A dictionary of bounded size that forgets what was asked longest ago."""

    def __init__(self, max_entries: int) -> None:
        super().__init__()
        self.max_entries = max_entries

    def recall(self, key: K) -> V | None:
        """Return the value of `key` and mark it as used, or None."""
        value = super().get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > self.max_entries:
            self.popitem(last=False)


def release(connection: psycopg.Connection[Any]) -> str:
    """Return the release of the loaded vocabulary; without one, stop with the command that loads it (E17)."""
    row = connection.execute(
        "SELECT vocabulary_version FROM vocabulary WHERE vocabulary_id = 'None' AND EXISTS (SELECT 1 FROM concept)"
    ).fetchone()
    if row is None:
        raise VocabularyError(f"no vocabulary is loaded: download one from Athena and run `{LOAD_COMMAND}` first")
    return str(row[0])


def existing(connection: psycopg.Connection[Any], concept_ids: Iterable[int]) -> set[int]:
    """Return those of the concept ids that the vocabulary holds (E41: no row points at a concept that is absent)."""
    rows = connection.execute("SELECT concept_id FROM concept WHERE concept_id = ANY(%s)", [list(concept_ids)])
    return {int(row[0]) for row in rows}


def named(connection: psycopg.Connection[Any], names: Sequence[Pair]) -> dict[Pair, int]:
    """Return concept ids by (vocabulary_id, concept code or name), absent ones left out; names in any letter case.

    A code goes before a name; among equals a valid standard concept, then the lowest id.
    """
    found = _named_by("concept_code", connection, names)
    # there is no index on names: they are looked for in one pass over the vocabularies concerned
    others = [pair for pair in names if pair not in found]
    return found | _named_by("lower(concept_name)", connection, others) if others else found


def _named_by(expression: LiteralString, connection: psycopg.Connection[Any], names: Sequence[Pair]) -> dict[Pair, int]:
    lower = expression.startswith("lower")
    rows = connection.execute(
        sql.SQL(
            """
            SELECT DISTINCT ON (vocabulary_id, {word}) vocabulary_id, {word}, concept_id
            FROM concept
            WHERE vocabulary_id = ANY(%s) AND {word} = ANY(%s)
            ORDER BY vocabulary_id, {word},
                     invalid_reason IS NOT NULL, standard_concept IS DISTINCT FROM 'S', concept_id
            """
        ).format(word=sql.SQL(expression)),
        [
            sorted({vocabulary for vocabulary, _ in names}),
            sorted({word.lower() if lower else word for _, word in names}),
        ],
    )
    by_word = {(vocabulary, word): int(concept_id) for vocabulary, word, concept_id in rows}
    keys = {pair: (pair[0], pair[1].lower() if lower else pair[1]) for pair in names}
    return {pair: by_word[key] for pair, key in keys.items() if key in by_word}


class Resolver:
    """The vocabulary of the database behind one connection, bound to the release it was opened on (E38)."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        run_date: date | None = None,
        local_map: LocalMap = "fallback",
        max_entries: int = CACHE_ENTRIES,
    ) -> None:
        self._connection = connection
        self._run_date = run_date or date.today()
        self._local_map = local_map
        self._cache: LeastRecentlyUsed[Pair, Resolution] = LeastRecentlyUsed(max_entries)
        self.release = release(connection)
        self._table_oid = self._concept_table()

    def resolve(self, pairs: Iterable[Pair]) -> dict[Pair, Resolution]:
        """Return the resolution of every pair; those not yet known are asked for in one query."""
        found: dict[Pair, Resolution] = {}
        missing: list[Pair] = []
        for pair in set(pairs):
            known = self._cache.recall(pair)
            if known is None:
                missing.append(pair)
            else:
                found[pair] = known
        if missing:
            self._check_unchanged()
            asked = self._ask(missing)
            for pair in missing:
                found[pair] = self._cache[pair] = asked.get(pair, UNKNOWN_CODE)
        return found

    def ancestry(self, concept_ids: Iterable[int]) -> set[tuple[int, int]]:
        """Return the (ancestor, descendant) pairs among these concepts, self excluded."""
        ids = sorted(set(concept_ids))
        if len(ids) < 2:
            return set()
        rows = self._connection.execute(
            """
            SELECT ancestor_concept_id, descendant_concept_id
            FROM concept_ancestor
            WHERE descendant_concept_id = ANY(%(ids)s) AND ancestor_concept_id = ANY(%(ids)s)
              AND ancestor_concept_id <> descendant_concept_id
            """,
            {"ids": ids},
        )
        return {(int(ancestor), int(descendant)) for ancestor, descendant in rows}

    def _concept_table(self) -> int:
        row = self._connection.execute("SELECT CAST(to_regclass('concept') AS oid)").fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def _check_unchanged(self) -> None:
        # A load swaps tables by rename, so a new vocabulary is a new table, whatever its release text says.
        if self._concept_table() != self._table_oid or release(self._connection) != self.release:
            raise VocabularyError("the vocabulary was replaced while this run was reading it: run the command again")

    def _ask(self, pairs: Sequence[Pair]) -> dict[Pair, Resolution]:
        rows = self._connection.execute(
            _RESOLVE,
            {
                "vocabularies": [vocabulary for vocabulary, _ in pairs],
                "codes": [code for _, code in pairs],
                "run_date": self._run_date,
            },
        ).fetchall()
        evidence: dict[Pair, _Evidence] = {}
        for vocabulary, code, kind, source, source_domain, concept, domain, usable in rows:
            known = evidence.setdefault((vocabulary, code), _Evidence())
            known.add(kind, source, source_domain, concept, domain, usable)
        return {pair: known.resolution(self._local_map) for pair, known in evidence.items()}


class _Evidence:
    """The rows that the vocabulary holds about one code, gathered before the rules of E32 decide."""

    __slots__ = ("local", "own", "refused", "source", "targets", "values")

    def __init__(self) -> None:
        self.source = 0
        self.own: Target | None = None
        self.targets: list[Target] = []
        self.values: list[Target] = []
        self.local: list[Target] = []
        self.refused = False

    def add(self, kind: str, source: int, source_domain: str, concept: int | None, domain: str, usable: bool) -> None:
        """Take one row of the query: `kind` is source, Maps to, Maps to value, or local."""
        if kind == "source":
            self.source = source
            self.own = Target(source, source_domain) if usable else None
        elif not usable or concept is None:
            self.refused = self.refused or kind == "Maps to"
        else:
            lists = {"Maps to": self.targets, "Maps to value": self.values, "local": self.local}
            lists[kind].append(Target(concept, domain))

    def resolution(self, local_map: LocalMap) -> Resolution:
        """Decide in the order of E32."""
        local = tuple(sorted(set(self.local), key=_by_id))
        if local and local_map == "override":
            return Resolution(self.source, local, (), None)
        targets = tuple(sorted(set(self.targets), key=_by_id))
        if not targets and self.own is not None:
            targets = (self.own,)
        values = tuple(sorted(set(self.values), key=_by_id))
        if targets:
            return Resolution(self.source, targets, values, None)
        if local and local_map == "fallback":
            return Resolution(self.source, local, values, None)
        return Resolution(self.source, (), values, self._reason())

    def _reason(self) -> Unmapped:
        if self.source == 0:
            return "unknown-code"
        return "invalid-target" if self.refused else "no-standard-map"


def _by_id(target: Target) -> int:
    return target.concept_id


# `usable` is: for the source row, itself valid and standard; for a relationship, both it and its target valid, the
# target standard. A source code may stand on several concepts: the valid one, then the lowest id, is taken.
_RESOLVE = """
WITH wanted AS (
    SELECT DISTINCT vocabulary_id, code
    FROM unnest(%(vocabularies)s::text[], %(codes)s::text[]) AS w(vocabulary_id, code)
), by_code AS (
    SELECT DISTINCT ON (w.vocabulary_id, w.code)
           w.vocabulary_id, w.code, c.concept_id, c.domain_id,
           c.invalid_reason IS NULL AND c.standard_concept = 'S' AS usable
    FROM wanted AS w
    JOIN concept AS c ON c.vocabulary_id = w.vocabulary_id AND c.concept_code = w.code
    ORDER BY w.vocabulary_id, w.code, c.invalid_reason IS NOT NULL, c.concept_id
), by_id AS (
    SELECT w.vocabulary_id, w.code, c.concept_id, c.domain_id,
           c.invalid_reason IS NULL AND c.standard_concept = 'S' AS usable
    FROM (
        SELECT vocabulary_id, code, CAST(code AS integer) AS concept_id
        FROM wanted
        WHERE vocabulary_id = 'concept_id' AND code ~ '^[1-9][0-9]{0,8}$'
    ) AS w
    JOIN concept AS c USING (concept_id)
), source AS (
    SELECT * FROM by_code UNION ALL SELECT * FROM by_id
)
SELECT vocabulary_id, code, 'source', concept_id, domain_id, NULL::bigint, NULL::text, coalesce(usable, false)
FROM source
UNION ALL
SELECT s.vocabulary_id, s.code, r.relationship_id, s.concept_id, s.domain_id, t.concept_id, t.domain_id,
       coalesce(r.invalid_reason IS NULL AND t.invalid_reason IS NULL AND t.standard_concept = 'S', false)
FROM source AS s
JOIN concept_relationship AS r
  ON r.concept_id_1 = s.concept_id AND r.relationship_id IN ('Maps to', 'Maps to value')
LEFT JOIN concept AS t ON t.concept_id = r.concept_id_2
UNION ALL
SELECT w.vocabulary_id, w.code, 'local', 0, NULL, t.concept_id, t.domain_id,
       coalesce(t.invalid_reason IS NULL AND t.standard_concept = 'S', false)
FROM wanted AS w
JOIN source_to_concept_map AS m ON m.source_vocabulary_id = w.vocabulary_id AND m.source_code = w.code
JOIN concept AS t ON t.concept_id = m.target_concept_id
WHERE m.invalid_reason IS NULL AND %(run_date)s BETWEEN m.valid_start_date AND m.valid_end_date
"""
