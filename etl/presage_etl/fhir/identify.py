"""What a resource is, by its envelope, and whether it is news to the ledger: gates 1 and 7 (E23, E77, E78)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

import msgspec

from presage_etl.fhir.gates import without_nul
from presage_etl.fhir.mapping import Decoded
from presage_etl.fhir.outcome import Dead
from presage_etl.fhir.reader import Entry
from presage_etl.fhir.resource_types import RESOURCE_TYPES


class _Meta(msgspec.Struct, gc=False, rename="camel"):
    last_updated: str | None = None
    version_id: str | None = None


class _Envelope(msgspec.Struct, gc=False, rename="camel"):
    resource_type: str | None = None
    id: str | None = None
    meta: _Meta | None = None


_envelope = msgspec.json.Decoder(_Envelope)


@dataclass(slots=True)
class Resource:
    """One resource on its way through the stages."""

    entry: Entry
    stage_no: int
    readable: bytes = b""
    """The bytes of the entry as they are decoded: without the escape of NUL."""
    resource_type: str | None = None
    resource_id: str | None = None
    content_hash: bytes = b""
    last_updated: datetime | None = None
    version_id: int | None = None
    state: str = "loaded"
    reason: str | None = None
    path: str | None = None
    died_at: str = "gate"
    decoded: Decoded | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger holds of a resource."""

    content_hash: bytes
    transform_no: int
    state: str
    reason: str | None
    last_updated: datetime | None
    version_id: int | None
    run_no: int
    deleted_at: datetime | None


def identify(resource: Resource) -> None:
    """Tell what it is: type, id, version, hash (E23, gate 1)."""
    entry = resource.entry
    resource.content_hash = blake2b(entry.raw, digest_size=16).digest()
    if entry.deleted is not None:
        resource_type, _, resource.resource_id = entry.deleted.partition("/")
        if resource_type not in RESOURCE_TYPES:
            kill(resource, "no-resource-type", None)
            return
        resource.resource_type, resource.state = resource_type, "deleted"
        return
    if entry.dead is not None:
        kill(resource, entry.dead, entry.path)
        return
    resource.readable = without_nul(entry.raw)
    envelope = _read_envelope(resource.readable)
    if isinstance(envelope, Dead):
        kill(resource, envelope.reason, envelope.path)
        return
    resource.resource_id = envelope.id
    if envelope.resource_type in RESOURCE_TYPES:
        resource.resource_type = envelope.resource_type
    if entry.excluded is not None:
        resource.state, resource.reason = "excluded", entry.excluded
    elif resource.resource_type is None:
        kill(resource, "no-resource-type", None)
    elif not envelope.id and resource.resource_type != "OperationOutcome":
        kill(resource, "no-id", None)
    if envelope.meta is not None:
        resource.last_updated = _instant(envelope.meta.last_updated)
        version = envelope.meta.version_id
        resource.version_id = int(version) if version and version.isdecimal() and len(version) < 19 else None


def judge(resource: Resource, held: Held, transform_no: int, *, ignore_hashes: bool) -> None:
    """Compare with what the ledger holds: unchanged, older, or news (gate 7, E77, E78)."""
    is_same = held.content_hash == resource.content_hash and resource.state == "loaded"
    if is_same and held.state in ("loaded", "excluded"):
        if held.transform_no != transform_no or ignore_hashes:
            return
        resource.state, resource.reason = "unchanged", held.reason
    elif is_older(resource, held):
        resource.state, resource.reason = "superseded", "superseded"


def is_older(resource: Resource, held: Held) -> bool:
    """Return whether the ledger's copy wins (E78); of equal copies the later run's wins."""
    if resource.state == "deleted":
        return False
    if held.state == "deleted":  # only what was written after it comes back (E80)
        since = held.last_updated or held.deleted_at
        return resource.last_updated is None or since is None or resource.last_updated <= since
    if resource.last_updated and held.last_updated and resource.last_updated != held.last_updated:
        return resource.last_updated < held.last_updated
    if resource.version_id is not None and held.version_id is not None and resource.version_id != held.version_id:
        return resource.version_id < held.version_id
    return resource.entry.as_of_run is not None and resource.entry.as_of_run < held.run_no


def kill(resource: Resource, reason: str, path: str | None) -> None:
    resource.state, resource.reason, resource.path = "dead", reason, path


def _instant(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _read_envelope(raw: bytes) -> _Envelope | Dead:
    """Return type, id and version, or why the bytes are no resource; UTF-8, NUL and surrogates are checked here."""
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return Dead("not-json", f"byte {error.start}")
    if b"\0" in raw:
        return Dead("not-json", f"byte {raw.index(0)}")
    try:
        return _envelope.decode(raw)
    except msgspec.ValidationError as error:
        return _wrong_type(raw, str(error))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Dead("not-json")


def _wrong_type(raw: bytes, message: str) -> Dead:
    if not raw.lstrip().startswith(b"{"):
        return Dead("not-json")
    path = message.rpartition("$")[2].strip("`. ") or "resource"
    return Dead(f"structure:{path}", path)
