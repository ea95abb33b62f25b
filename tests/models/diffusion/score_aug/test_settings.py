"""Which settings of score augmentation are refused, and what the message offers."""

from __future__ import annotations

import pytest

from models.diffusion.score_aug.settings import ScoreAugSettings
from settings.flat import replace
from settings.schema import SettingsError


def settings(**changes: object) -> ScoreAugSettings:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(ScoreAugSettings(), {"enabled": True, **named})


def test_the_defaults_are_off_and_the_documents():
    off = ScoreAugSettings()
    assert not off.enabled
    assert off.names == ("spatial",) and off.omega
    assert (off.compose_probability, off.v2.nondestructive, off.v2.destructive) == (0.5,) * 3
    assert off.v2.cutout_share == 0.5 and off.v2.patterns.ids == tuple(range(16))
    assert (off.cutout.least, off.cutout.most) == (0.1, 0.3)
    assert off.translation.ranges(2) == (0.2, 0.4)
    assert off.translation.ranges(3) == (0.0, 0.2, 0.4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation": False, "flip": False}, "no transformation that is on"),
        ({"omega": False}, r"omega=false goes with no rotation.*allow_leakage=true"),
        ({"omega": False, "rotation": False}, "omega=false"),
        (
            {
                "omega": False,
                "allow_leakage": True,
                "modality_factors": True,
            },
            "needs score_aug.omega=true",
        ),
        (
            {"kind": "v2", **{f"v2__patterns__{name}": False for name in ("grid", "patch")}}
            | {f"v2__patterns__{name}": False for name in ("checkerboard", "coarse")},
            "no family of score_aug.v2.patterns",
        ),
        ({"translation__enabled": True, "translation__width": 0.0}, None),
        (
            {
                "translation__enabled": True,
                "translation__width": 0.0,
                "translation__height": 0.0,
            },
            "shifts by nothing",
        ),
        ({"cutout__least": 0.4}, r"0\.4 is above 0\.3"),
        ({"brightness__enabled": True, "brightness__largest": 1.0}, "changes nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    if message is None:
        settings(**changes)
        return
    with pytest.raises(SettingsError, match=message):
        settings(**changes)


def test_omega_may_be_off_where_it_is_asked_for_or_not_needed():
    assert not settings(omega=False, allow_leakage=True).omega
    blind = settings(omega=False, rotation=False, flip=False, translation__enabled=True)
    assert blind.names == ("translation",)
    assert settings(enabled=False, omega=False).names == ("spatial",)


def test_sides_that_cannot_be_transformed_are_refused():
    with pytest.raises(SettingsError, match=r"needs H = W, not 5 x 8 x 12\. Set score_aug\.rot"):
        settings().check_sides((5, 8, 12))
    settings(rotation=False).check_sides((5, 8, 12))
    settings().check_sides((5, 8, 8))
    ScoreAugSettings().check_sides((5, 8, 12))
    with pytest.raises(SettingsError, match=r"8 or more, not 4 x 4\. Set .*cutout_share=1"):
        settings(kind="v2").check_sides((4, 4))
    settings(kind="v2", v2__cutout_share=1.0).check_sides((4, 4))
