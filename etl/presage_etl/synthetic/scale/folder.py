"""The folder of a cohort: begun once, marked while unfinished, and closed with the sha256 of what lies in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.synth import PARTIAL, SUMMARY
from presage_platform.errors import DiskFullError, InputError

PARTS = ("staging", "timeline", "volumes", "vocabulary", "tasks", "truth")


def begin(folder: Path, parameters: Parameters, num_bytes: float) -> None:
    """Make the folder ready; what an interrupted run left is removed and made again.

    Raises
    ------
    DiskFullError
        Less than 1.2 times `num_bytes` is free.
    InputError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 1.2 * num_bytes:
            raise DiskFullError(
                f"{folder} needs about {1.2 * num_bytes / 1e9:.1f} GB free: make room or choose another disk"
            )
        for name in PARTS:
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / PARTIAL).write_text(parameters.digest(), encoding="utf-8")
        for name in ("staging", "truth"):
            (folder / name).mkdir()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None


def finish(folder: Path, parameters: Parameters, counts: dict[str, int], notes: dict[str, str]) -> None:
    """Write synth.json and take the mark of an unfinished run away."""
    shutil.rmtree(folder / "staging", ignore_errors=True)
    files = _stored_shards(folder)  # their hashes were taken while they were written
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in (PARTIAL, ".lock") and name not in files:
            with path.open("rb") as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    summary = {
        "synthetic": True,
        "generator": parameters.version,
        "seed": parameters.seed,
        "parameters_sha256": parameters.digest(),
        **notes,
        "counts": counts,
        "parameters": parameters.model_dump(mode="json"),
        "files": dict(sorted(files.items())),
    }
    temporary = folder / f"{SUMMARY}.tmp"
    temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / SUMMARY)
    (folder / PARTIAL).unlink()


def _stored_shards(folder: Path) -> dict[str, str]:
    """Sha256 of every shard of a volume store, from the store's own manifest."""
    return {
        f"{path.parent.relative_to(folder).as_posix()}/{name}": sha256
        for path in folder.glob("volumes/*/MANIFEST.json")
        for name, sha256 in json.loads(path.read_text(encoding="utf-8"))["shards"].items()
    }
