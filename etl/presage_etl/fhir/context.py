"""What a mapping may ask while it stays pure: concepts from memory, the run's policies, its clock (E38, E42).

A worker makes one context, gives it the codings of each block to resolve in one query (`prefetch`), and maps the block
from memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from presage_etl.fhir.coding import CodeSystems, CodingSet, Lookup, Setting
from presage_etl.fhir.concepts import Concepts, find_concepts
from presage_etl.fhir.dates import Clock
from presage_etl.fhir.elements import CodeableConcept, Coding
from presage_etl.fhir.outcome import Note
from presage_etl.policies import Policies, read_policies
from presage_platform.omop.vocabulary import CACHE_ENTRIES, UNKNOWN_CODE, Pair, Resolution, Resolver, Target, Vocabulary

if TYPE_CHECKING:
    import psycopg

    from presage_platform.settings import Settings

CodeKey = tuple[str | None, str]
Unmapped = str


@dataclass(frozen=True, slots=True)
class Pick:
    """One target of the chosen coding; concept 0 in the resource's home table when there is none (E36)."""

    concept_id: int
    domain_id: str
    source_concept_id: int
    source_value: str | None
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What one CodeableConcept comes to: at least one pick, and why nothing was found if nothing was (E32, E33)."""

    picks: tuple[Pick, ...]
    reason: Unmapped | None = None
    index: int | None = None
    """Which coding was chosen; None when there was no code."""

    @property
    def concept_id(self) -> int:
        """The first target, 0 when there is none."""
        return self.picks[0].concept_id


@dataclass(frozen=True, slots=True)
class _Candidate:
    index: int
    coding: Coding
    family: str
    resolution: Resolution
    reason: Unmapped | None


class Context:
    """Policies, clock and vocabulary of one run, as the mappings see them."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        concepts: Concepts,
        *,
        policies: Policies,
        extraction_date: date,
        systems: CodeSystems | None = None,
        max_entries: int = CACHE_ENTRIES,
    ) -> None:
        self.concepts = concepts
        self.policies = policies
        self.extraction_date = extraction_date
        self.clock = Clock.declared(
            policies["timezone"], date_from=policies["date_from"], missing_time=policies["missing_time"]
        )
        self._vocabulary = vocabulary
        self._systems = systems or CodeSystems()
        self._max_entries = max_entries
        self._resolutions: dict[Pair, Resolution] = {}
        self._lookups: dict[tuple[Setting, str | None, str], Lookup] = {}
        self._choices: dict[Any, Choice] = {}
        self._ancestry: set[tuple[int, int]] = set()
        self._compared: set[frozenset[int]] = set()

    def prefetch(self, codings: CodingSet) -> None:
        """Resolve what is not yet known of a block's codings: one query, one more for ideas with several codings."""
        if len(self._resolutions) + len(self._choices) > self._max_entries:
            self._forget()
        wanted = {
            pair
            for system, code in codings.pairs
            for setting in ("general", "procedure")
            for pair in self._lookup(system, code, setting).pairs
            if pair not in self._resolutions
        }
        if wanted:
            self._resolutions.update(self._vocabulary.resolve(wanted))
        groups = [self._targets_of(group) for group in codings.groups]
        fresh = {ids for ids in groups if len(ids) > 1 and ids not in self._compared}
        if fresh:
            self._ancestry |= self._vocabulary.ancestry(frozenset().union(*fresh))
            self._compared |= fresh

    def choose(
        self, concept: CodeableConcept | None, setting: Setting, element: str, notes: list[Note] | None = None
    ) -> Choice:
        """Return the coding that stands for a CodeableConcept, and its targets; an unmapped one is noted."""
        choice = self._choice(concept, setting)
        if choice.reason is not None and notes is not None and concept is not None:
            notes.append(_unmapped(concept, choice, element))
        return choice

    def resolve(
        self, system: str | None, code: str | None, setting: Setting, element: str, notes: list[Note] | None = None
    ) -> int:
        """Return the first standard concept of a code that stands alone (unit, body site), 0 when there is none."""
        if not code:
            return 0
        return self.choose(CodeableConcept((Coding(system, code),)), setting, element, notes).concept_id

    def _choice(self, concept: CodeableConcept | None, setting: Setting) -> Choice:
        if concept is None:
            return _NO_CODE
        codings = concept.coding
        key: Any
        if len(codings) == 1:
            key = (setting, codings[0].system, codings[0].code)
        else:
            key = (setting, tuple((c.system, c.code, c.user_selected) for c in codings))
        known = self._choices.get(key)
        if known is None:
            known = self._choices[key] = self._decide(codings, setting)
        if known.index is None and concept.text:
            return Choice((Pick(0, "", 0, concept.text),), "text-only")
        return known

    def _decide(self, codings: tuple[Coding, ...], setting: Setting) -> Choice:
        candidates = [
            self._candidate(index, coding, setting)
            for index, coding in enumerate(codings)
            if coding.code and coding.code.strip()
        ]
        if not candidates:
            return _NO_CODE
        beaten = self._ancestors_among(candidates)
        candidates.sort(
            key=lambda candidate: (
                not candidate.resolution.targets,
                self._systems.rank(candidate.family, setting),
                candidate.index in beaten,
                not candidate.coding.user_selected,
                candidate.index,
            )
        )
        best = candidates[0]
        if self.policies["codings"] == "all" and best.resolution.targets:
            return Choice(_distinct(pick for candidate in candidates for pick in _picks(candidate)), None, best.index)
        return Choice(_picks(best) or (_nothing(best),), best.reason, best.index)

    def _candidate(self, index: int, coding: Coding, setting: Setting) -> _Candidate:
        lookup = self._lookup(coding.system, coding.code or "", setting)
        resolution, ambiguous = self._first(lookup)
        reason = None if resolution.targets else "unknown-code" if ambiguous else lookup.refusal or resolution.reason
        return _Candidate(index, coding, lookup.family, resolution, reason)

    def _first(self, lookup: Lookup) -> tuple[Resolution, bool]:
        """Return what the first vocabulary that holds the code says (E29)."""
        unknown = [pair for pair in lookup.pairs if pair not in self._resolutions]
        if unknown:  # only outside a block: `explain`, tests
            self._resolutions.update(self._vocabulary.resolve(unknown))
        found = [
            resolution
            for resolution in (self._resolutions[pair] for pair in lookup.pairs)
            if resolution.source_concept_id or resolution.targets
        ]
        if not found or (lookup.only_one and len(found) > 1):
            return UNKNOWN_CODE, len(found) > 1
        return found[0], False

    def _lookup(self, system: str | None, code: str, setting: Setting) -> Lookup:
        key = (setting, system, code)
        known = self._lookups.get(key)
        if known is None:
            known = self._lookups[key] = self._systems.lookup(system, code, setting)
        return known

    def _targets_of(self, group: Iterable[CodeKey]) -> frozenset[int]:
        return frozenset(
            target.concept_id
            for system, code in group
            for target in self._first(self._lookup(system, code, "general"))[0].targets
        )

    def _ancestors_among(self, candidates: list[_Candidate]) -> set[int]:
        """Return the candidates that say less than another one of the same system says (E33 c)."""
        if len(candidates) < 2:
            return set()
        ids = frozenset(target.concept_id for candidate in candidates for target in candidate.resolution.targets)
        if ids not in self._compared and len(ids) > 1:
            self._ancestry |= self._vocabulary.ancestry(ids)
            self._compared.add(ids)
        return {
            general.index
            for general in candidates
            for special in candidates
            if general.family == special.family
            and _is_ancestor(general.resolution.targets, special.resolution.targets, self._ancestry)
        }

    def _forget(self) -> None:
        for known in (self._resolutions, self._lookups, self._choices, self._ancestry, self._compared):
            known.clear()


_NO_CODE = Choice((Pick(0, "", 0, None),), "no-code")


def _picks(candidate: _Candidate) -> tuple[Pick, ...]:
    source = candidate.resolution.source_concept_id
    values = tuple(value.concept_id for value in candidate.resolution.values)
    return tuple(
        Pick(target.concept_id, target.domain_id, source, candidate.coding.code, values)
        for target in candidate.resolution.targets
    )


def _nothing(candidate: _Candidate) -> Pick:
    values = tuple(value.concept_id for value in candidate.resolution.values)
    return Pick(0, "", candidate.resolution.source_concept_id, candidate.coding.code, values)


def _distinct(picks: Iterable[Pick]) -> tuple[Pick, ...]:
    by_target: dict[int, Pick] = {}
    for pick in picks:
        by_target.setdefault(pick.concept_id, pick)
    return tuple(by_target.values())


def _is_ancestor(general: tuple[Target, ...], special: tuple[Target, ...], ancestry: set[tuple[int, int]]) -> bool:
    return any((g.concept_id, s.concept_id) in ancestry for g in general for s in special)


def _unmapped(concept: CodeableConcept, choice: Choice, element: str) -> Note:
    if choice.index is None:
        return Note("unmapped", element, choice.reason or "", None, concept.text)
    coding = concept.coding[choice.index]
    return Note("unmapped", element, choice.reason or "", coding.system, coding.code, coding.display)


class _DatabaseConcepts:
    """The concepts of the database, asked once when a context is opened."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def named(self, names: list[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        from presage_platform.omop.vocabulary import named

        return named(self._connection, names)

    def existing(self, concept_ids: Iterable[int]) -> set[int]:
        from presage_platform.omop.vocabulary import existing

        return existing(self._connection, concept_ids)


def open_context(
    connection: psycopg.Connection[Any],
    settings: Settings,
    *,
    extraction_date: date,
    run_date: date | None = None,
    policies: Policies | None = None,
) -> Context:
    """Make the context of one worker: the vocabulary behind `connection`, the code systems and policies of the site.

    Raises
    ------
    VocabularyError
        When no vocabulary is loaded (E17) or it lacks concepts that every load needs (E41).
    """
    policies = policies or read_policies(settings.etl.policies)
    resolver = Resolver(connection, run_date=run_date, local_map=policies["local_map"])
    return Context(
        resolver,
        find_concepts(_DatabaseConcepts(connection)),
        policies=policies,
        extraction_date=extraction_date,
        systems=CodeSystems(settings.etl.code_systems),
    )
