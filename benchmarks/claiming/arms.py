"""The arms of a comparison: documented points of a space, each with the arm that it is compared
with, and what differs between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.claiming.changes import Change, changes, conditions_of
from benchmarks.measuring.commands import ROOT
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import SweepSetup, new_setup
from search_spaces.space import load_space
from settings.files import BECAUSE, CONTROL, read_settings_file
from settings.schema import SettingsError, Value
from settings.show import value_text
from trainables.configured import Configured

FOLDER = ROOT / "benchmarks/arms"

_KEYS = ("system", CONTROL, "columns", "of")
"""What the mapping `arms` of an arms file may have."""

_HDR_PATCH = (
    "val.hole_log_rmse",
    "val.hole_psnr_pu_db",
    "val.seam_error",
    "val.overflow_above_target_rate",
    "val.overflow_rate_1e2",
    "val.saturation_share",
    "val.unreachable_share",
    "val.cap_mean",
)

_CONDITIONER = (
    "val.decoded_field_error",
    "val.decoded_field_error_p95",
    "val.latent_rmse",
    "val.main_mse",
    "val.hier_mse",
    "val.consistency_score",
    "train.grad_norm",
    "health.weight_collapse",
)

_COMPRESSION = (
    "val.psnr_db",
    "val.psnr_quantised_db",
    "val.rate_bpp",
    "val.ms_ssim",
    "val.efficientnet_distance",
    "val.boundary_sharpness",
    "val.tumour_l1",
    "val.lesion_l1_small",
    "val.latent_std",
)

_DIFFUSION = (
    "val.denoising_mse",
    "val.denoising_mse_log_snr_m6",
    "val.denoising_mse_log_snr_0",
    "val.denoising_mse_log_snr_6",
    "val.psnr_db",
    "val.tumour_l1",
)

_STYLE_FLOW = (
    "val.swd_target",
    "val.content_distance",
    "val.swd_target_worst",
    "val.moved_share",
    "val.outside_share",
)

_NPT = (
    "val.fidelity_kl",
    "val.perplexity",
    "val.direct_error",
    "val.attention_cosine",
    "val.scalar_std",
    "val.change_rank",
)

COLUMNS: Mapping[str, Sequence[str]] = {
    "hdr_patch": _HDR_PATCH,
    "conditioner": _CONDITIONER,
    "compression": _COMPRESSION,
    "diffusion": _DIFFUSION,
    "style_flow": _STYLE_FLOW,
    "npt": _NPT,
}
"""What the findings on a system show; of others every metric with a direction."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a comparison.

    Attributes:
        values: every setting of its trainings, as the sweep trains them.
        control: the arm that it is compared with; "" for one that others are compared with.
        because: why more than one setting differs between the two.
    """

    name: str
    values: Mapping[str, Value]
    control: str = ""
    because: str = ""


@dataclass(frozen=True)
class Arms:
    """An arms file under overrides.

    Attributes:
        name: of the file.
        columns: what its table shows.
    """

    name: str
    path: Path
    setup: SweepSetup
    arms: Mapping[str, Arm]
    columns: tuple[str, ...]

    @property
    def configured(self) -> Configured:
        """The system under the settings that all arms build on."""
        return self.setup.configured

    @property
    def system(self) -> str:
        """Its name."""
        return self.setup.options.system

    def of(self, arm: Arm) -> Configured:
        """The system under the settings of an arm."""
        return self.configured.under(arm.values)

    def changes(self, arm: Arm) -> list[Change]:
        """What differs between an arm and its control."""
        if not arm.control:
            return []
        return changes(self.arms[arm.control].values, arm.values, self._conditions)

    @cached_property
    def _conditions(self) -> Mapping[str, Mapping[str, Sequence[Value]]]:
        return conditions_of(self.system, self.configured.values)


def names() -> list[str]:
    """The arms files of the repository."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_arms(name: str, overrides: Sequence[str] = ()) -> Arms:
    """An arms file, by its name or, of your own, by its path.

    Raises:
        SettingsError: there is none, its `arms` has an unknown key, an arm names no control or one
            that is not there, or whatever a sweep of it refuses.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name).resolve() if own else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise SettingsError(
            f"there are no arms {name!r}. Arms: {', '.join(names())}; or the path of a .yaml file."
        )
    said = _said(path)
    system = str(said.get("system", ""))
    options = SweepOptions(system=system, overrides=tuple(overrides), space=str(path), paired=True)
    setup = new_setup(options)
    files = {Path(point).stem: Path(point) for point in load_space(system, str(path)).points}
    arms = {}
    for point in setup.plan.points:
        values = {**setup.configured.values, **point.sampled}
        control, because = _compared(path, said, point.name, files[point.name])
        arms[point.name] = Arm(point.name, values, control, because)
    for arm in arms.values():
        if arm.control and arm.control not in arms:
            raise SettingsError(
                f"{path}: the control of {arm.name} must be another arm of this file, not "
                f"{arm.control!r}. Arms: {', '.join(arms)}."
            )
    return Arms(path.stem, path, setup, arms, _columns(path, said, setup.configured, system))


def _said(path: Path) -> Mapping[str, Any]:
    """The mapping `arms` of an arms file."""
    said = load_space("", str(path)).arms
    strange = [key for key in said if key not in _KEYS]
    if strange or not isinstance(said.get("system"), str):
        wrong = f"{strange[0]!r} is none of them" if strange else "there is no system"
        raise SettingsError(
            f"{path}: `arms` has the keys {', '.join(_KEYS)}, of which system must be there; "
            f"{wrong}."
        )
    return said


def _compared(path: Path, said: Mapping[str, Any], name: str, source: Path) -> tuple[str, str]:
    """Control and reason of an arm: from its own file, or for a preset from `arms.of`."""
    is_file = bool(source.suffix)
    of = said.get("of") or {}
    if is_file and name in of:
        raise SettingsError(
            f"{path}: {name} has a file of its own, {source}, which says its control and reason: "
            "take it out of arms.of."
        )
    notes = read_settings_file(source, arm=True).notes if is_file else of.get(name) or {}
    if not isinstance(notes, Mapping) or set(notes) - {CONTROL, BECAUSE}:
        raise SettingsError(
            f"{path}: arms.of.{name} takes {CONTROL} and {BECAUSE} alone, not {notes!r}."
        )
    control = str(notes.get(CONTROL) or said.get(CONTROL) or "")
    if not control:
        raise SettingsError(
            f"{path}: every arm is compared with another, and {name} names none. Write "
            f"`{CONTROL}: ARM` into its file, or into `arms` of {path.name} for all that name "
            "none."
        )
    is_root = control == name and CONTROL not in notes
    return ("" if is_root else control), str(notes.get(BECAUSE) or "")


def _columns(
    path: Path, said: Mapping[str, Any], configured: Configured, system: str
) -> tuple[str, ...]:
    more = said.get("columns") or []
    if not isinstance(more, list):
        raise SettingsError(f"{path}: arms.columns is a list of columns, not {more!r}.")
    directed = [f"val.{metric.name}" for metric in configured.measures if metric.mode]
    return tuple(dict.fromkeys([*COLUMNS.get(system, directed), *map(str, more)]))


def described(arms: Arms) -> Iterator[str]:
    """A line for each arm, and one for each setting that differs from its control."""
    yield f"{arms.name}: {len(arms.arms)} arms of {arms.system}"
    for arm in arms.arms.values():
        if not arm.control:
            yield f"  {arm.name}: a control"
            continue
        yield f"  {arm.name}, against {arm.control}" + (arm.because and f": {arm.because}")
        for change in arms.changes(arm):
            with_it = f" (with {change.under})" if change.under else ""
            before, after = value_text(change.control), value_text(change.arm)
            yield f"    {change.key}: {before} -> {after}{with_it}"


def faults(arms: Arms) -> list[str]:
    """Arms that do not isolate one change, and do not say why: rule, value and way out."""
    found = []
    for arm in arms.arms.values():
        own = [change.key for change in arms.changes(arm) if not change.under]
        where = f"{arms.path.name}: {arm.name} against {arm.control}"
        if arm.control and not own:
            found.append(
                f"{where}: an arm differs from its control, and this one differs in nothing that "
                "has an effect. Change a setting, or take it out."
            )
        if len(own) > 1 and not arm.because:
            found.append(
                f"{where}: an arm changes one setting of its control, and this one changes "
                f"{len(own)} ({', '.join(own)}). Give it a control that has the others, or say "
                f"why they belong together: `{BECAUSE}: TEXT`."
            )
    return found
