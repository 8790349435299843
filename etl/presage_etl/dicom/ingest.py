"""`platform etl dicom`: scan, group, judge, rank, convert; every file accounted for, every step repeatable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.choice import Override, chosen, rank, read_overrides
from presage_etl.dicom.convert import FINAL, Conversion, Converted, Stores, convert, open_stores
from presage_etl.dicom.instances import instance_parts, read_instances
from presage_etl.dicom.registry import recall, register
from presage_etl.dicom.report import IngestReport, account_for_files, describe_series
from presage_etl.dicom.scan import scan
from presage_etl.dicom.series import candidates, find_shared_uids
from presage_etl.dicom.walk import read_roots
from presage_platform.ledger.journal import recorded_run
from presage_platform.logs import get_logger
from presage_platform.postgres.connection import Database, open_database
from presage_platform.progress import Progress
from presage_platform.settings import ChoiceSettings, ImagingSettings, Settings
from presage_platform.volumes.recipe import VolumeRecipe, find_recipe

log = get_logger(__name__)

SeriesChoice = Literal["chosen", "all"]


def ingest(
    sources: Sequence[Path | str],
    settings: Settings,
    *,
    recipes: Sequence[str] = (),
    scan_only: bool = False,
    series: SeriesChoice = "chosen",
    workers: int | None = None,
) -> IngestReport:
    """Bring catalogue, ledger and volume stores up to date with an archive; run it again to continue or to refresh.

    Parameters
    ----------
    sources
        Folders or files.
    recipes
        Names or files of recipes; empty = `imaging.recipes`.
    scan_only
        Stop before any pixel is read.
    series
        ``"all"`` converts every accepted series, whatever its rank.
    workers
        Processes; None = `parallel.workers`. Nothing that is written depends on it.
    """
    started = time.monotonic()
    prepared = read_recipes(recipes or settings.imaging.recipes, settings.imaging)
    policies = settings.imaging.model_dump(mode="json")
    with (
        open_database(settings, command="etl dicom") as database,
        recorded_run(database, "etl dicom", policies=policies, timezone=settings.timezone) as run,
    ):
        report = IngestReport(run_no=run.run_no, recipes={one.name: one.short_hash for one in prepared})
        report.scan = scan(outermost(sources), settings, run.run_no, workers=workers)
        work = _Ingest(settings, database, run.run_no, report, series)
        work.judge()
        if not scan_only:
            work.convert(prepared, workers or settings.parallel.workers)
        describe_series(report, work.found)
        account_for_files(report, work.found, work.in_volumes, outermost(sources), settings.catalogue_dir)
        report.seconds = time.monotonic() - started
        run.counts.update(report.as_json())
    log.info("ingest finished", extra={"fields": {"series": report.num_series, "written": report.num_written}})
    return report


def read_recipes(names: Sequence[str], imaging: ImagingSettings) -> list[VolumeRecipe]:
    """Read the recipes of a run, under the policies that change voxels; two names of one recipe are one."""
    found = [find_recipe(name).under_policy(missing=imaging.series.missing) for name in names]
    return list({recipe.recipe_hash: recipe for recipe in found}.values())


def outermost(sources: Sequence[Path | str]) -> list[Path | str]:
    """Drop sources that lie within another one, so that no file is counted twice."""
    paths = sorted({Path(source).resolve() for source in sources if not str(source).startswith(("http:", "https:"))})
    inside = {path for path in paths if any(other in path.parents for other in paths)}
    remote = [source for source in sources if str(source).startswith(("http:", "https:"))]
    return [path for path in paths if path not in inside] + remote


class _Ingest:
    """One run over the whole catalogue."""

    def __init__(
        self, settings: Settings, database: Database, run_no: int, report: IngestReport, series: SeriesChoice
    ) -> None:
        self.settings, self.database, self.run_no, self.report = settings, database, run_no, report
        choice = settings.imaging.choice
        self.choice: ChoiceSettings = choice.model_copy(update={"per_study": "all"}) if series == "all" else choice
        self.overrides: dict[str, Override] = read_overrides(choice.override)
        self.found: list[Candidate] = []
        self.study_ids: dict[str, int] = {}
        self.volumes: dict[str, dict[str, str]] = {}  # series key → recipe hash → volume id

    @property
    def in_volumes(self) -> set[str]:
        """Keys of the series that have a volume."""
        return {key for key, volumes in self.volumes.items() if volumes}

    def judge(self) -> None:
        """Group and judge by headers, remember what pixels said before, rank, write the ledger."""
        self.found = read_candidates(self.settings)
        recall(self.database, self.found)
        self._rank_and_register()

    def _rank_and_register(self) -> None:
        rank(self.found, self.choice, self.overrides)
        zone = self.settings.timezone
        self.study_ids = register(self.database, self.found, self.run_no, timezone=zone)

    def convert(self, recipes: Sequence[VolumeRecipe], workers: int | None) -> None:
        """Convert the series that represent their studies; a series that its pixels reject gives way to the next."""
        declared = self.settings.volumes
        with open_stores(
            self.settings.volumes_dir, recipes, codec=declared.codec, shard_gb=declared.shard_gb
        ) as stores:
            while todo := [one for one in chosen(self.found, self.choice) if one.series_key not in self.volumes]:
                self._convert_round(todo, stores, workers)
                rank(self.found, self.choice, self.overrides)
            self._name_volumes(recipes[0], stores)
            # The ledger first: a run killed before the stores commit finds its staged volumes and their verdicts.
            self._rank_and_register()
            stores.refresh(self._index_changes())

    def _name_volumes(self, recipe: VolumeRecipe, stores: Stores) -> None:
        """Note the volume of each series in the ledger: of the recipe that came first, in this run or earlier."""
        for candidate in self.found:
            if candidate.volume_id is not None and candidate.series_key not in self.volumes:
                self.volumes[candidate.series_key] = stores.known(candidate)  # converted once, not chosen any more
            if candidate.volume_id is None:
                candidate.volume_id = self.volumes.get(candidate.series_key, {}).get(recipe.recipe_hash)

    def _convert_round(self, todo: Sequence[Candidate], stores: Stores, workers: int | None) -> None:
        conversions = []
        roots, policy = read_roots(self.settings.catalogue_dir), self.settings.imaging.series
        for candidate in todo:
            known = stores.known(candidate)
            self.volumes[candidate.series_key] = known
            stores.keep(known)
            targets = stores.targets(known)
            if candidate.stale:
                self.report.num_stale += 1
            elif targets:
                study_id = self.study_ids[candidate.study_uid]
                conversions.append(Conversion(candidate, study_id, roots, policy, targets))
            else:
                self.report.num_known += 1
        by_key = {candidate.series_key: candidate for candidate in todo}
        with Progress("convert", total=len(conversions), unit="series") as bar:
            for result in convert(conversions, workers=workers):
                self._take(by_key[result.series_key], result, stores)
                bar.advance(1)

    def _take(self, candidate: Candidate, result: Converted, stores: Stores) -> None:
        """Note what the pixels of a candidate said."""
        if result.native is None:
            candidate.stale = True
            self.report.num_stale += 1
            return
        native = result.native
        candidate.verdict, candidate.verdict_stage = native.verdict, FINAL
        candidate.reasons, candidate.actions = list(native.reasons), list(native.actions)
        self.volumes[candidate.series_key].update(result.volume_ids)
        stores.keep(result.volume_ids)
        report = self.report
        report.num_converted += 1
        report.num_written += len(result.volume_ids)
        report.num_bytes += result.num_bytes
        report.convert_seconds += result.seconds
        report.decoders.update([native.decoder])

    def _index_changes(self) -> dict[str, dict[str, object]]:
        """What the stores' indexes say of each volume besides its voxels."""
        return {
            volume_id: {
                "study_id": self.study_ids[candidate.study_uid],
                "rank": candidate.rank or 0,
                "study_uid": candidate.study_uid,
                "series_uid": candidate.series_uid,
                "image_dt": candidate.image_dt,
                "verdict": candidate.verdict.value,
            }
            for candidate in self.found
            for volume_id in self.volumes.get(candidate.series_key, {}).values()
        }


def read_candidates(settings: Settings) -> list[Candidate]:
    """Group and judge the whole catalogue, part by part; a part holds whole studies."""
    folder, imaging = settings.catalogue_dir, settings.imaging
    shared = find_shared_uids(read_instances(folder, ["series_uid", "sop_uid", "patient_key"]))
    found: list[Candidate] = []
    for part in instance_parts(folder):
        table = pq.read_table(part)
        found += candidates(table, imaging.series, shared_uids=shared, max_volume_gb=imaging.max_volume_gb)
    return found
