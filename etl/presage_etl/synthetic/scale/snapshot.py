"""The one place where a synthetic cohort touches the timeline store: its public writer, nothing that reads labels.

What is written here is input of the labeling, not an answer to it; the answers (`truth/`) are computed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from presage_etl.synthetic.clock import wall
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.athena import VERSION
from presage_etl.synthetic.scale.events import Events
from presage_etl.synthetic.scale.lives import LAST_SECOND
from presage_platform.labeling.timeline import SortedShard, choose_n_shards, shard_of_person
from presage_platform.labeling.timeline_writer import StagedShard, stage_shard, write_snapshot

__all__ = ["StagedShard", "shards_of_cohort", "stage", "write"]

PLANTED_PER_PERSON = 60  # events of a simulated record, about: decides nothing but the number of shards


def shards_of_cohort(parameters: Parameters) -> list[list[int]]:
    """Return the persons (indices) of each shard, ascending."""
    events = parameters.patients * (parameters.timeline.events_per_person + PLANTED_PER_PERSON)
    shards: list[list[int]] = [[] for _ in range(choose_n_shards(events))]
    for index in range(parameters.patients):
        shards[shard_of_person(index + 1, len(shards))].append(index)
    return shards


def stage(path: Path, events: Events, deaths: pa.Table) -> StagedShard:
    """Write the events of one shard where the snapshot will take them from."""
    shard = SortedShard(events.person_id, events.offset, events.concept, events.time, events.flags)
    return stage_shard(path, shard, deaths)


def write(
    timeline_dir: Path, shards: Iterable[StagedShard], tables: Mapping[str, pa.Table], parameters: Parameters
) -> tuple[str, int]:
    """Write the snapshot; return its id and its number of events."""
    settings = {
        "data_cut_s": wall(parameters.calendar.cut) + LAST_SECOND,
        "generator": parameters.version,
        "parameters_sha256": parameters.digest(),
        "synthetic": True,
    }
    snapshot = write_snapshot(timeline_dir, shards, tables, settings=settings, vocabulary_version=VERSION, counts=dict)
    return snapshot.snapshot_id, int(snapshot.manifest["num_events"])
