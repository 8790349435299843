"""Headline outcomes as tasks of kind `concept`: they read the snapshot, so that no database is needed for them.

The locks are written here as `platform tasks lock` would write them, since the vocabulary is known.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.parameters import Headline, Parameters
from presage_etl.synthetic.records.athena import VERSION
from presage_etl.synthetic.records.vocabulary import coding_of
from presage_etl.synthetic.scale.lives import DEATH_CONCEPT
from presage_etl.synthetic.scale.ontology import DEATH_CODE, Ontology

LOCK_FORMAT = 1

DIAGNOSIS = """/*---
task: {task}
version: 1
title: {title}
kind: concept
min_prior_obs: 365 days
concept_sets:
  outcome: {{include: ["{code}"], descendants: true, expect_concept_id: {concept}}}
requires: [condition_occurrence]
---*/
"""

DEATH = """/*---
task: {task}
version: 1
title: {title}
kind: concept
risk: next
competing: []
concept_sets:
  outcome: {{include: ["{code}"], descendants: true, expect_concept_id: {concept}}}
requires: [death]
---*/
"""


def write_concept_tasks(folder: Path, parameters: Parameters, model: Model, ontology: Ontology) -> None:
    """Write one file and one lock a headline task."""
    folder.mkdir(parents=True, exist_ok=True)
    for headline in parameters.headline:
        text, code, concept = _task(headline, model)
        (folder / f"{headline.task}.sql").write_text(text, encoding="utf-8")
        lock = _lock(headline.task, text, code, concept, ontology)
        path = folder / f"{headline.task}.lock.json"
        path.write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _task(headline: Headline, model: Model) -> tuple[str, str, int]:
    """Text of a task, and the code and concept that it stands for."""
    if headline.condition == "death":
        text, code, concept = DEATH, DEATH_CODE, DEATH_CONCEPT
    else:
        leaf = model.leaves[model.place[headline.condition]]
        text, code, concept = DIAGNOSIS, ":".join(coding_of(leaf)), leaf.concept_id
    return text.format(task=headline.task, title=headline.title, code=code, concept=concept), code, concept


def _lock(task: str, text: str, code: str, concept: int, ontology: Ontology) -> dict[str, object]:
    ids = sorted(below for below, above in ontology.above.items() if concept in above)
    name = next(about.name for about in ontology.concepts if about.concept_id == concept)
    canonical = json.dumps(ids, sort_keys=True, separators=(",", ":"))
    outcome = {
        "concept_ids": ids,
        "roots": [{"code": code, "concept_id": concept, "name": name}],
        "sha256": hashlib.sha256(canonical.encode()).hexdigest(),
    }
    return {
        "format": LOCK_FORMAT,
        "task": task,
        "version": 1,
        "body_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "vocabulary_version": VERSION,
        "concept_sets": {"outcome": outcome},
    }
