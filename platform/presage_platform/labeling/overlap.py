"""Which images and volumes belong to which study: the evidence that no split shares one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Keys = tuple[NDArray[np.int64], list[Any]]


def image_keys(series: pa.Table | None, volumes_dir: Path, study_id: NDArray[np.int64]) -> dict[str, Keys]:
    """Return, for `splits.prove_no_overlap`, the image UIDs and volume contents of the studies of an index.

    UIDs of series come from the ledger (`series`: study_id, series_uid), those of instances and the content of volumes
    from the volume indexes.
    """
    uids: list[tuple[pa.Array, list[Any]]] = []
    contents: list[tuple[pa.Array, list[Any]]] = []
    if series is not None:
        uids.append((series.column("study_id").combine_chunks(), series.column("series_uid").to_pylist()))
    for path in sorted(volumes_dir.glob("*/index.parquet")):
        index = pq.read_table(path, columns=["study_id", "sha256", "sops"])
        study = index.column("study_id").combine_chunks()
        contents.append((study, index.column("sha256").to_pylist()))
        sops = index.column("sops").combine_chunks()
        instances = pc.struct_field(pc.list_flatten(sops), "sop_uid").to_pylist()
        uids.append((study.take(pc.list_parent_indices(sops)), instances))
    return {"image UIDs": _keys(uids, study_id), "volume contents": _keys(contents, study_id)}


def _keys(parts: list[tuple[pa.Array, list[Any]]], study_id: NDArray[np.int64]) -> Keys:
    order = np.argsort(study_id, kind="stable")
    owners = np.concatenate([np.empty(0, dtype=np.int64), *(np.asarray(part[0]).astype(np.int64) for part in parts)])
    keys = [key for part in parts for key in part[1]]
    if len(keys) == 0 or len(study_id) == 0:
        return np.empty(0, dtype=np.int64), []
    at = np.minimum(np.searchsorted(study_id[order], owners), len(study_id) - 1)
    known = (study_id[order][at] == owners) & np.array([key is not None for key in keys], dtype=np.bool_)
    return order[at[known]], [key for key, keep in zip(keys, known.tolist(), strict=True) if keep]
