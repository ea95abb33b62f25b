"""The metrics of HDR hole filling; formulas and constants are in `metrics.hdr_measures`.

An objective reads constants of `metric.*` only: a log error with the trial's own epsilon could be
gamed. PSNR and SSIM are means over images (PSNR of an image is at most 100 dB); the log error, the
seam error and the shares are pooled over all pixels of the validation set.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from metrics import hdr_measures as measures
from metrics.hdr_measures import MetricSettings
from metrics.health import STOP_HELP, HealthSettings
from metrics.health_signs import SIGNS, MeasuredSign
from metrics.image import psnr_db, ssim
from metrics.metric import Metric, mean
from settings.schema import setting

_CAP_SIGNS = (
    MeasuredSign("cap_saturation", "val.saturation_share", "values in holes at the cap: share"),
    MeasuredSign("cap_unreachable", "val.unreachable_share", "targets beyond the cap: share"),
)


@dataclass(frozen=True, kw_only=True)
class CapHealthSettings(HealthSettings):
    """Health thresholds for a head with a cap. 004-M1: holes that need more than the cap stay
    black, and no training changes that.
    """

    measured: ClassVar[tuple[MeasuredSign, ...]] = _CAP_SIGNS

    cap_saturation: float = setting(
        0.5, "warn above: share of the values in holes that are at the cap", low=0.0, high=1.0
    )
    cap_unreachable: float = setting(
        0.05, "warn above: share of the targets in holes beyond the cap", low=0.0, high=1.0
    )
    stop: tuple[str, ...] = setting(
        (), STOP_HELP, choices=(*SIGNS, *(sign.name for sign in _CAP_SIGNS))
    )


def hdr_metrics(settings: MetricSettings) -> tuple[Metric, ...]:
    """Every metric; the overflow rates are one for each of `metric.overflow_thresholds`."""
    return (*_ERRORS, *(_overflow_rate(x) for x in settings.overflow_thresholds), *_DIAGNOSTICS)


def _overflow_rate(threshold: float) -> Metric:
    exponent = round(math.log10(threshold))
    name = f"1e{exponent}" if threshold == 10.0**exponent else f"{threshold:.0f}"
    return Metric(
        name=f"overflow_rate_{name}",
        unit="",
        mode="min",
        measure=functools.partial(measures.overflow, threshold),
        help=f"share of the pixels of hole and ring above a radiance of {threshold:g}",
        reads=("metric.overflow_thresholds", "metric.ring_kernel"),
    )


def _image_metric(name: str, encoding: str, in_hole: bool) -> Metric:
    is_psnr = name.endswith("_db")
    where = "in the holes" if in_hole else "of the whole image"
    words, reads = _ENCODINGS[encoding]
    return Metric(
        name=name,
        unit="dB" if is_psnr else "",
        mode="max",
        measure=functools.partial(
            measures.similarity, psnr_db if is_psnr else ssim, encoding, in_hole
        ),
        help=f"{'PSNR' if is_psnr else 'SSIM'} of the {words} images {where}, mean over images",
        reads=reads,
    )


def _diagnostic(
    name: str,
    measure: Callable[..., measures.Measured],
    help: str,  # noqa: A002 - the field's word for it
    reads: tuple[str, ...],
    unit: str = "",
    finish: Callable[..., float] = mean,
) -> Metric:
    return Metric(
        name=name, unit=unit, mode=None, measure=measure, help=help, finish=finish, reads=reads
    )


_ENCODINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mu": ("mu-law", ("metric.mu", "metric.exposure", "metric.max_radiance")),
    "pu": ("PU21", ("metric.peak_cd_m2", "metric.max_radiance")),
}

_ERRORS = (
    Metric(
        name="hole_log_rmse",
        unit="nat",
        mode="min",
        measure=measures.hole_log_square,
        finish=measures.root_of_mean,
        help="root mean square error of log(radiance + metric.epsilon) over all hole pixels",
        reads=("metric.epsilon",),
    ),
    _image_metric("hole_psnr_mu_db", "mu", in_hole=True),
    _image_metric("hole_psnr_pu_db", "pu", in_hole=True),
    _image_metric("psnr_mu_db", "mu", in_hole=False),
    _image_metric("psnr_pu_db", "pu", in_hole=False),
    _image_metric("ssim_mu", "mu", in_hole=False),
    _image_metric("ssim_pu", "pu", in_hole=False),
    _image_metric("hole_ssim_mu", "mu", in_hole=True),
    _image_metric("hole_ssim_pu", "pu", in_hole=True),
    Metric(
        name="seam_error",
        unit="",
        mode="min",
        measure=measures.seam_error,
        help="mean error of the mu-law step between a hole pixel and its valid neighbour",
        reads=_ENCODINGS["mu"][1],
    ),
    Metric(
        name="overflow_above_target_rate",
        unit="",
        mode="min",
        measure=measures.overflow_above_target,
        help="share of the pixels of hole and ring brighter than all of the image's target",
        reads=("metric.ring_kernel",),
    ),
)

_CAP = ("hdr.*",)

_DIAGNOSTICS = (
    _diagnostic(
        "saturation_share",
        measures.saturation,
        "share of the values in holes whose residual reaches metric.saturation_share of the cap",
        ("metric.saturation_share", *_CAP),
    ),
    _diagnostic(
        "unreachable_share",
        measures.unreachable,
        "share of the targets in holes that need a residual above the cap",
        _CAP,
    ),
    _diagnostic(
        "clamp_share",
        measures.clamped,
        "share of the values in holes that the clamp changes",
        _CAP,
    ),
    _diagnostic(
        "cap_mean", measures.cap_per_image, "bound on the residual, mean over images", _CAP, "nat"
    ),
    _diagnostic(
        "denom_mean",
        measures.log_range,
        "range of the log radiance by hdr.range (1st to 99th percentile of valid pixels), "
        "mean over images",
        ("hdr.epsilon", "hdr.range"),
        "nat",
        measures.first_moment,
    ),
    _diagnostic(
        "denom_cv",
        measures.log_range,
        "its standard deviation over images, divided by its mean",
        ("hdr.epsilon", "hdr.range"),
        finish=measures.coefficient_of_variation,
    ),
    _diagnostic(
        "denom_with_holes_mean",
        measures.log_range_with_holes,
        "range of the log radiance of all pixels, least to greatest, mean over images",
        ("hdr.epsilon",),
        "nat",
        measures.first_moment,
    ),
    _diagnostic(
        "denom_with_holes_cv",
        measures.log_range_with_holes,
        "its standard deviation over images, divided by its mean",
        ("hdr.epsilon",),
        finish=measures.coefficient_of_variation,
    ),
    _diagnostic(
        "nonfinite_share",
        measures.nonfinite,
        "share of the predicted values that are inf or NaN",
        (),
    ),
)

METRICS = hdr_metrics(MetricSettings())
"""The metrics with the default thresholds."""
