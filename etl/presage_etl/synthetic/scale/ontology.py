"""A synthetic ontology of any size: levels of groups, fillers below them, and the planted conditions in their midst.

Every filler and every planted condition has 6 to 20 ancestors, as concepts of a clinical vocabulary have. Ids come from
the range that OMOP reserves for sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.lives.hazards import CUSTOM_CONCEPT, Model
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.athena import VERSION
from presage_etl.synthetic.records.vocabulary import DEMO, ROOT_CONCEPT, Concept, build_vocabulary
from presage_etl.synthetic.streams import Stage, stream

FIRST_GROUP = CUSTOM_CONCEPT + 20_000_000
FIRST_FILLER = CUSTOM_CONCEPT + 30_000_000
PROJECT = "presage project, custom range"
DEATH_CODE = "SNOMED:419620001"
DEATH = Concept(4306655, "Death", "Observation", "SNOMED", "Event", "S", DEATH_CODE[7:], "OHDSI Athena, SNOMED")

LEVELS = 10  # of groups, the most general one alone on the first
DEEPEST_WITH_FILLERS = 5  # fillers hang below groups of this level and deeper, so that they have six ancestors
PLANTED_BELOW = 3  # level of the group above the root of the planted conditions
FILLERS_A_GROUP = 5
SECOND_PARENT = 0.15
FEWEST, MOST = 6, 20  # ancestors of a filler or a planted condition, itself not counted

DOMAINS = ("Condition", "Procedure", "Drug", "Measurement", "Observation", "Device")
TABLE_OF_RANK = (0, 0, 1, 2, 2, 3, 3, 4)  # table bit of a filler by its rank

Levels = dict[int, tuple[int, int]]  # ancestor → shortest and longest way


@dataclass(frozen=True)
class Ontology:
    """Concepts, what lies above each (itself included), and the ids of the fillers from the most frequent on."""

    concepts: tuple[Concept, ...]
    above: dict[int, Levels]
    maps_to: tuple[tuple[int, int], ...]
    filler: NDArray[np.int64]

    def ancestors(self, concept: int) -> list[int]:
        """Concepts at or above one."""
        return list(self.above.get(concept, {concept: (0, 0)}))


def build_ontology(parameters: Parameters, model: Model) -> Ontology:
    """Return the ontology of a cohort: the hospital's vocabulary below a group, and as many fillers as asked for."""
    rng = stream(parameters.seed, 0, Stage.ONTOLOGY)
    number = parameters.timeline.concepts if parameters.timeline.events_per_person else 0
    above, by_level = _groups(rng, number)
    planted = build_vocabulary(model)
    _hang_planted(above, planted.edges, [c.concept_id for c in planted.concepts if c.standard == "S"], by_level)
    fillers = FIRST_FILLER + np.arange(number, dtype=np.int64)
    _hang_fillers(above, fillers.tolist(), by_level, rng)
    own = [_group(concept, level) for level, groups in enumerate(by_level) for concept in groups]
    own += [_filler(concept, rank) for rank, concept in enumerate(fillers.tolist())]
    if DEATH.concept_id not in above:
        above[DEATH.concept_id] = {DEATH.concept_id: (0, 0)}
        own.append(DEATH)
    return Ontology((*planted.concepts, *own), above, planted.maps_to, fillers)


def write_ontology(folder: Path, ontology: Ontology) -> None:
    """Write what `platform label --vocabulary` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("concept_id", "name", "domain", "vocabulary", "concept_class", "standard", "code")
    columns = [[getattr(concept, name) for concept in ontology.concepts] for name in names]
    concept = pa.table(
        columns,
        names=["concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "standard_concept",
               "concept_code"],
    )  # fmt: skip
    rows = [
        (ancestor, below, low, high)
        for below in sorted(ontology.above)
        for ancestor, (low, high) in sorted(ontology.above[below].items())
    ]
    ancestor = _table(
        rows,
        ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation", "max_levels_of_separation"),
    )
    relations = _table([(a, b) for a, b in ontology.maps_to if a != b], ("concept_id_1", "concept_id_2"))
    relations = relations.append_column("relationship_id", pa.array(["Maps to"] * relations.num_rows, pa.string()))
    version = pa.table({"vocabulary_id": ["None"], "vocabulary_version": [VERSION]})
    tables = {
        "concept": concept,
        "concept_ancestor": ancestor,
        "concept_relationship": relations,
        "vocabulary": version,
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", store_schema=False)


def _groups(rng: np.random.Generator, num_fillers: int) -> tuple[dict[int, Levels], list[list[int]]]:
    """Draw the groups level by level; without fillers one group a level is enough."""
    wanted = max(num_fillers // FILLERS_A_GROUP, LEVELS)
    growth = wanted ** (1 / (LEVELS - 1))
    above: dict[int, Levels] = {}
    by_level: list[list[int]] = []
    concept = FIRST_GROUP
    for level in range(LEVELS):
        here: list[int] = []
        for _ in range(max(round(growth**level), 1)):
            above[concept] = {concept: (0, 0)}
            if level:
                most = MOST - (LEVELS - level)  # one for each level below, and one for the filler
                _add_parent(above, concept, by_level[-1][int(rng.integers(len(by_level[-1])))])
                if rng.random() < SECOND_PARENT:
                    _add_parent(above, concept, by_level[-1][int(rng.integers(len(by_level[-1])))], most=most)
            here.append(concept)
            concept += 1
        by_level.append(here)
    return above, by_level


def _hang_planted(
    above: dict[int, Levels], edges: Iterable[tuple[int, int]], standard: Iterable[int], by_level: list[list[int]]
) -> None:
    """Put the planted hierarchy below a group: parents before their children."""
    parents: dict[int, list[int]] = {ROOT_CONCEPT: [by_level[PLANTED_BELOW][0]]}
    for parent, child in edges:
        parents.setdefault(child, []).append(parent)
    open_ = sorted({*standard, *parents})
    while open_:
        ready = [c for c in open_ if all(parent in above for parent in parents.get(c, ()))]
        for concept in ready:
            above[concept] = {concept: (0, 0)}
            for parent in sorted(parents.get(concept, ())):
                _add_parent(above, concept, parent)
        open_ = [concept for concept in open_ if concept not in above]


def _hang_fillers(
    above: dict[int, Levels], fillers: list[int], by_level: list[list[int]], rng: np.random.Generator
) -> None:
    groups = [group for level in by_level[DEEPEST_WITH_FILLERS:] for group in level]
    first = rng.integers(len(groups), size=len(fillers)).tolist()
    second = rng.integers(len(groups), size=len(fillers)).tolist()
    twice = (rng.random(len(fillers)) < SECOND_PARENT).tolist()
    for place, concept in enumerate(fillers):
        above[concept] = {concept: (0, 0)}
        _add_parent(above, concept, groups[first[place]])
        if twice[place]:
            _add_parent(above, concept, groups[second[place]], most=MOST)


def _add_parent(above: dict[int, Levels], concept: int, parent: int, *, most: int | None = None) -> None:
    """Join what lies above a parent to a concept's ancestors, unless that makes more than `most`."""
    mine = above[concept]
    if most is not None and len(mine.keys() | above[parent].keys()) - 1 > most:
        return
    for ancestor, (low, high) in above[parent].items():
        least, most = mine.get(ancestor, (low + 1, high + 1))
        mine[ancestor] = (min(least, low + 1), max(most, high + 1))


def _group(concept: int, level: int) -> Concept:
    name = f"Synthetic group {concept - FIRST_GROUP} of level {level}"
    code = f"group-{concept - FIRST_GROUP}"
    return Concept(concept, name, "Condition", DEMO, "Clinical Finding", "S", code, PROJECT)


def _filler(concept: int, rank: int) -> Concept:
    domain = DOMAINS[TABLE_OF_RANK[rank % len(TABLE_OF_RANK)]]
    return Concept(concept, f"Synthetic filler {rank}", domain, DEMO, "Clinical Finding", "S", f"fill-{rank}", PROJECT)


def _table(rows: Sequence[tuple[int, ...]], names: tuple[str, ...]) -> pa.Table:
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(names)).T
    return pa.table({name: pa.array(column) for name, column in zip(names, columns, strict=True)})
