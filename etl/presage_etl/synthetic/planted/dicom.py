"""Every image defect that is planted: what is done to a clean study, and what must come of it (rules S31, S32).

A case is a pure function from a clean study to the files that are written and the candidates that a right reader must
find in them: verdict, reasons, actions, slices in order. The expectation comes from the specification of images; a word
that the verdict contract does not know is refused before anything is written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.planted import choice, files, geometry, headers, identity, pixels, slices, syntaxes
from presage_etl.synthetic.planted.series import Clean, Expected, Facts, Planted
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.errors import UsageError
from presage_platform.volumes.catalogue import Action, ReadStatus, Reason, Verdict

VERDICTS = frozenset(verdict.value for verdict in Verdict)
REASONS = frozenset(reason.value for reason in Reason) | {v.removeprefix("rejected_") for v in VERDICTS}
ACTIONS = frozenset(action.value for action in Action) | {v.removeprefix("ok_") for v in VERDICTS}
STATUSES = frozenset(status.value for status in ReadStatus)


@dataclass(frozen=True)
class Case:
    """One kind of defect."""

    group: str
    make: Callable[[Clean], Planted]
    fixture: str | None = None  # of the table of thirty cases
    fits: Callable[[Facts], bool] = lambda facts: True
    extra: Callable[[Facts, str], identity.Extra] | None = None
    drawn: bool = True  # whether it may be drawn at random

    @property
    def kind(self) -> str:
        """Its name in truth."""
        return self.make.__name__

    @property
    def is_possible(self) -> bool:
        """Whether the encoder that it needs is installed."""
        package = syntaxes.NEEDED_ENCODER.get(self.make)
        return package is None or importlib.util.find_spec(package) is not None


@dataclass(frozen=True)
class Assignment:
    """The defect of one study."""

    kind: str
    facts: Facts


def _recorded(facts: Facts) -> bool:
    return facts.in_record


def _unrecorded(facts: Facts) -> bool:
    return not facts.in_record


def _dead(facts: Facts) -> bool:
    return facts.death_s is not None and facts.in_record


def _living(facts: Facts) -> bool:
    return facts.death_s is None


CASES: tuple[Case, ...] = (
    # Those that not every study can bear come first: they choose before the others.
    Case("identity", identity.after_death, fits=_dead),
    Case("identity", identity.number_alone_under_other_issuer, fits=_unrecorded),
    Case("identity", identity.issuer_missing, fits=_unrecorded),
    Case("identity", identity.no_patient_number, fits=_unrecorded),
    Case("identity", identity.unknown_number, fits=_unrecorded),
    Case("identity", identity.merged_number, fits=_unrecorded, extra=identity.merged_patient),
    Case("identity", identity.study_uid_in_two_records, fits=_recorded, extra=identity.second_claim_of_uid),
    Case("identity", identity.accession_in_two_records, fits=_recorded, extra=identity.second_claim_of_accession),
    Case("identity", identity.accession_of_another, fits=_recorded),
    Case("identity", identity.number_under_other_issuer, fits=_recorded),
    Case("identity", identity.shifted_date, fits=_recorded),
    Case("identity", headers.far_future, "c28_2187", fits=_living),
    Case("identity", identity.other_sex),
    Case("identity", identity.other_birth_year),
    Case("identity", identity.birth_year_off_by_one),
    Case("identity", identity.before_birth),
    Case("identity", identity.study_uid_of_two_persons),
    Case("identity", identity.series_of_two_persons, "c29_two_patients"),
    Case("identity", identity.series_uid_in_two_studies),
    Case("slices", slices.one_missing_inside, "c04_one_gap"),
    Case("slices", slices.several_missing),
    Case("slices", slices.last_missing, "c04_end_cut"),
    Case("slices", slices.single_slice, "c08_single"),
    Case("slices", slices.three_slices, "c08_three"),
    Case("slices", slices.variable_spacing, "c05_1_4_7mm"),
    Case("slices", slices.spacing_beyond_policy, "c05_head_protocol"),
    Case("slices", slices.duplicate_file, "c03_same_file_twice"),
    Case("slices", slices.same_position_two_contents, "c03_same_position"),
    Case("slices", slices.same_uid_two_contents, "c03_uid_conflict"),
    Case("slices", slices.shuffled_numbers, "c01_shuffled"),
    Case("slices", slices.reverse_numbers, "c01_reverse_numbers"),
    Case("slices", slices.no_numbers, "c01_no_numbers"),
    Case("slices", slices.rounded_positions, "c06_one_decimal"),
    Case("slices", slices.noisy_positions, "c06_float_noise"),
    Case("geometry", geometry.tilt_plus, "c07_tilt_pos"),
    Case("geometry", geometry.tilt_minus, "c07_tilt_neg"),
    Case("geometry", geometry.tilt_tag_lies, "c07_tag_lies"),
    Case("geometry", geometry.tilt_and_steps, "c07_tilt_and_steps"),
    Case("geometry", geometry.oblique_plus),
    Case("geometry", geometry.oblique_minus),
    Case("geometry", geometry.not_square, "c22_07x09"),
    Case("geometry", geometry.head_first_supine, "c24_hfs"),
    Case("geometry", geometry.feet_first_supine, "c24_ffs"),
    Case("geometry", geometry.head_first_prone, "c24_hfp"),
    Case("geometry", geometry.head_first_right, "c24_hfdr"),
    Case("geometry", geometry.position_nan, "c08_nan"),
    Case("geometry", geometry.position_absent),
    Case("geometry", geometry.positions_all_equal, "c08_zero_stack"),
    Case("geometry", geometry.directions_skewed),
    Case("geometry", geometry.positions_drift),
    Case("geometry", geometry.axial_and_coronal, "c02_axial_plus_coronal"),
    Case("geometry", geometry.mixed_with_localizer),
    Case("geometry", geometry.thickness_beyond_step, "c23_3mm_every_2"),
    Case("geometry", geometry.no_thickness, "c23_no_thickness"),
    Case("geometry", geometry.zero_thickness, "c23_zero_thickness"),
    Case("geometry", geometry.short_coverage, "c25_short"),
    Case("geometry", geometry.wrong_body_part, "c25_wrong_tag"),
    Case("series choice", choice.localizer, "c10_scout"),
    Case("series choice", choice.untyped_scout, "c10_untyped_scout"),
    Case("series choice", choice.secondary_capture, "c12_sc"),
    Case("series choice", choice.secondary_capture_with_text),
    Case("series choice", choice.burned_in, "c12_burned"),
    Case("series choice", choice.dose_report),
    Case("series choice", choice.dose_picture, "c11_dose_report"),
    Case("series choice", choice.coronal_reformat, "c11_mpr_coronal"),
    Case("series choice", choice.maximum_intensity, "c11_mip"),
    Case("series choice", choice.two_kernels),
    Case("series choice", choice.two_kernels_one_uid, "c21_two_kernels"),
    Case("series choice", choice.thin_and_thick),
    Case("series choice", choice.two_phases_one_uid, "c21_two_phases"),
    Case("series choice", choice.several_series_one_folder, "c20_mixed"),
    Case("series choice", choice.one_series_scattered, "c20_scattered"),
    Case("series choice", choice.study_of_six, "c26_study_of_six"),
    Case("pixels", pixels.truncated_file, "c18_short"),
    Case("pixels", pixels.last_slice_truncated),
    Case("pixels", pixels.short_pixel_data),
    Case("pixels", pixels.no_pixel_data, "c18_empty"),
    Case("pixels", pixels.all_truncated),
    Case("pixels", pixels.declared_size),
    Case("pixels", pixels.odd_number_of_bytes, "c18_one_pad_byte"),
    Case("pixels", pixels.monochrome1, "c16_mono1"),
    Case("pixels", pixels.colour, "c16_rgb"),
    Case("pixels", pixels.padding_2000, "c15_minus2000"),
    Case("pixels", pixels.padding_3024_undeclared),
    Case("pixels", pixels.padding_range, "c15_range"),
    Case("pixels", pixels.padding_with_wrong_sign, "c15_signed_pad"),
    Case("pixels", pixels.rescale_per_slice, "c13_per_slice"),
    Case("pixels", pixels.modality_table, "c13_lut"),
    Case("pixels", pixels.fractional_rescale, "c13_fractional"),
    Case("pixels", pixels.no_rescale, "c13_absent"),
    Case("pixels", pixels.signed_12_bits, "c14_signed12"),
    Case("pixels", pixels.dirty_high_bits, "c14_dirty_high_bits"),
    Case("pixels", pixels.lossy_flag, "c17_lossy"),
    Case("pixels", pixels.all_air),
    Case("pixels", pixels.metal),
    Case("pixels", syntaxes.implicit_vr, "c17_implicit"),
    Case("pixels", syntaxes.deflated, "c17_deflated"),
    Case("pixels", syntaxes.big_endian, "c17_big_endian"),
    Case("pixels", syntaxes.run_length, "c17_rle"),
    Case("pixels", syntaxes.jpeg_ls, "c17_jpeg_ls"),
    Case("pixels", syntaxes.jpeg_2000, "c17_jpeg_2000"),
    Case("pixels", syntaxes.jpeg_2000_with_wrong_sign, "c14_j2k_sign_mismatch"),
    Case("pixels", syntaxes.corrupt_run_length),
    Case("pixels", syntaxes.corrupt_jpeg_2000, "c18_bad_j2k"),
    Case("pixels", syntaxes.video, "c17_unknown_syntax"),
    Case("files", files.no_preamble, "c19_no_preamble"),
    Case("files", files.directory_of_medium),
    Case("files", files.text_and_archive),
    Case("files", files.text_named_dcm, "c19_text_file"),
    Case("files", files.empty_file),
    Case("files", files.no_permission, drawn=False),  # whoever copies the hospital could not
    Case("files", syntaxes.enhanced, "c09_enhanced"),
    Case("files", syntaxes.legacy_converted, "c09_legacy_converted"),
    Case("files", syntaxes.rescale_per_frame, "c09_rescale_per_frame"),
    Case("files", syntaxes.contradictory_groups),
    Case("files", headers.japanese_text, "c27_iso2022_jp"),
    Case("files", headers.broken_text, "c27_broken_bytes"),
    Case("files", headers.other_zone, "c28_tz"),
    Case("files", headers.datetime_only, "c28_dt_only"),
    Case("files", headers.midnight),
    Case("files", headers.no_date, "c28_no_date"),
    Case("files", headers.empty_uids, "c29_empty"),
    Case("files", headers.malformed_uid, "c29_malformed"),
)
BY_KIND = {case.kind: case for case in CASES}


def assign(parameters: Parameters, facts: Sequence[Facts]) -> dict[str, Assignment]:
    """Decide which studies bear a defect; `facts` of every study that could, in order of their keys.

    Returns
    -------
    dict[str, Assignment]
        By the study's key in truth.

    Raises
    ------
    UsageError
        When every kind is wanted and there are too few studies.
    """
    chosen = _every_kind(facts) if parameters.defects.dicom_all else {}
    if not parameters.defects.dicom_rate:
        return chosen
    for fact in facts:
        rng = stream(parameters.seed, fact.person_index, Stage.PLANTED_DICOM, fact.scan)
        share, place = rng.random(2)
        if fact.study in chosen or share >= parameters.defects.dicom_rate:
            continue
        kinds = [case.kind for case in CASES if case.drawn and case.is_possible and case.fits(fact)]
        chosen[fact.study] = Assignment(kinds[int(place * len(kinds))], fact)
    return chosen


def _every_kind(facts: Sequence[Facts]) -> dict[str, Assignment]:
    chosen: dict[str, Assignment] = {}
    free = list(facts)
    for case in CASES:
        if not case.is_possible:
            continue
        place = next((place for place, fact in enumerate(free) if case.fits(fact)), None)
        if place is None:
            raise UsageError(
                f"{len(facts)} studies cannot bear every image defect once ({case.kind} found none): ask for more "
                "persons with --patients"
            )
        fact = free.pop(place)
        chosen[fact.study] = Assignment(case.kind, fact)
    return chosen


def plant(kind: str, clean: Clean) -> Planted:
    """Make one case.

    Raises
    ------
    ValueError
        When it expects a word that the contract of verdicts does not know: a bug of the table.
    """
    planted = BY_KIND[kind].make(clean)
    for expected in planted.expected:
        check_words(kind, expected)
    for beside in planted.beside:
        if beside.status not in STATUSES:
            raise ValueError(f"case {kind} expects the unknown status {beside.status}")
    return planted


def fixtures() -> list[str]:
    """Names of the fixtures of the verdict table that are planted."""
    return sorted(case.fixture for case in CASES if case.fixture)


def check_words(kind: str, expected: Expected) -> None:
    """Refuse a verdict, reason or action that no reader could find."""
    unknown = {expected.verdict} - VERDICTS | set(expected.reasons) - REASONS | set(expected.actions) - ACTIONS
    if unknown:
        raise ValueError(
            f"case {kind} expects what the contract of verdicts does not know: {', '.join(sorted(unknown))}"
        )
