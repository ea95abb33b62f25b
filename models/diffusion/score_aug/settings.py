"""Settings of score augmentation (ScoreAug, arXiv 2508.07926): noisy images and what is to be
predicted of them are transformed together, and the network is told how, by the code omega.

Shapes: `*S` what is diffused, (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.diffusion.score_aug.patterns import FAMILIES, LEAST_SIDE
from settings.schema import Settings, SettingsError, setting

KINDS = ("single", "compose", "v2")
PER = ("sample", "batch")
IDENTITIES = ("own_bit", "shared_bit")


@dataclass(frozen=True, kw_only=True)
class TranslationSettings(Settings):
    """A shift by whole cells; zeros come in from the side."""

    enabled: bool = setting(False, "shift")
    width: float = setting(0.4, "largest shift along W, of its side", low=0.0, high=0.9)
    height: float = setting(0.2, "largest shift along H, of its side", low=0.0, high=0.9)
    depth: float = setting(0.0, "volumes: largest shift along D, of its side", low=0.0, high=0.9)

    def ranges(self, dimensions: int) -> tuple[float, ...]:
        """Of the axes of `*S`, in their order."""
        return (self.depth, self.height, self.width)[-dimensions:]

    def check(self) -> None:
        if self.enabled and not any((self.width, self.height, self.depth)):
            raise SettingsError(
                "score_aug.translation.enabled=true shifts by nothing with a width, a height and "
                "a depth of 0. Raise one of them, or turn it off."
            )


@dataclass(frozen=True, kw_only=True)
class CutoutSettings(Settings):
    """A box of zeros, each of its sides drawn by itself."""

    enabled: bool = setting(False, "cut out a box; v2 does so whatever this says")
    least: float = setting(0.1, "shortest side of the box, of the image's", low=0.0, high=1.0)
    most: float = setting(0.3, "longest side of the box, of the image's", low=0.0, high=1.0)

    def check(self) -> None:
        if self.least > self.most:
            raise SettingsError(
                f"score_aug.cutout.least is not above most, as {self.least} is above {self.most}. "
                "Lower it, or raise most."
            )


@dataclass(frozen=True, kw_only=True)
class BrightnessSettings(Settings):
    """A factor on the noisy image and on what is predicted of it. It is no other noise level:
    image and noise grow alike, so that the ratio of the two stays that of t, while the values that
    the network is given at t are `factor` times those of any image at t.
    """

    enabled: bool = setting(False, "multiply by a factor")
    largest: float = setting(
        1.2,
        "the factor lies between 1 / largest and largest, its logarithm uniform",
        low=1.0,
        high=10.0,
    )

    def check(self) -> None:
        if self.enabled and self.largest == 1.0:
            raise SettingsError(
                "score_aug.brightness.enabled=true changes nothing with largest=1. Raise it, or "
                "turn it off."
            )


@dataclass(frozen=True, kw_only=True)
class PatternSettings(Settings):
    """v2: the families of fixed masks that a pattern is drawn of, four masks each. The masks are
    not learned, only what the network makes of their numbers in omega is (001-M9).
    """

    checkerboard: bool = setting(True, "fields of 4 x 4 and 8 x 8")
    grid: bool = setting(True, "25 or 50 % of the cells of 4 x 4")
    coarse: bool = setting(True, "two to four holes of a quarter of the sides")
    patch: bool = setting(True, "25 or 50 % of patches with an eighth of H as their side")

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the masks of the families that are on."""
        on = [getattr(self, family) for family in FAMILIES]
        return tuple(pattern for pattern in range(4 * len(on)) if on[pattern // 4])


@dataclass(frozen=True, kw_only=True)
class V2Settings(Settings):
    """v2: turn or flip, shift and brightness each by themselves, and then one thing that takes
    values away.
    """

    nondestructive: float = setting(
        0.5, "probability of each that takes nothing away", low=0.0, high=1.0
    )
    destructive: float = setting(0.5, "probability of a cutout or a pattern", low=0.0, high=1.0)
    cutout_share: float = setting(
        0.5, "share of the cutouts in these; the others are patterns", low=0.0, high=1.0
    )
    patterns: PatternSettings = field(default_factory=PatternSettings)


@dataclass(frozen=True, kw_only=True)
class ScoreAugSettings(Settings):
    """Which transformations are drawn, and what the network knows of them."""

    enabled: bool = setting(False, "transform noisy images together with what is predicted")
    kind: str = setting(
        "single",
        "one of what is on or nothing, all equally likely; each with a probability (compose); or "
        "each that takes nothing away and then a cutout or a pattern (v2)",
        choices=KINDS,
    )
    rotation: bool = setting(True, "quarter turns in the H-W plane; needs H = W")
    flip: bool = setting(True, "flips of an axis, with rotation also after a quarter turn")
    translation: TranslationSettings = field(default_factory=TranslationSettings)
    cutout: CutoutSettings = field(default_factory=CutoutSettings)
    brightness: BrightnessSettings = field(default_factory=BrightnessSettings)
    compose_probability: float = setting(
        0.5, "compose: of each transformation", low=0.0, high=1.0
    )
    v2: V2Settings = field(default_factory=V2Settings)
    omega: bool = setting(
        True,
        "tell the network which transformation it sees (001-M8: the document for turns and flips "
        "alone; whatever it is not told of can leak into what it generates)",
    )
    allow_leakage: bool = setting(
        False, "omega=false with turns or flips, to measure what leaks into what is generated"
    )
    per: str = setting(
        "sample", "each sample has a draw of its own, or all of an update one", choices=PER
    )
    identity: str = setting(
        "own_bit",
        "how omega says that nothing is transformed: by a number of its own, or by the one that "
        "says turned or flipped as well, the document's (001-M9)",
        choices=IDENTITIES,
    )
    modality_factors: bool = setting(
        False,
        "multiply the noisy image, and not what is predicted, by a factor of its modality, in "
        "training and ever after",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The transformations that are on, without what v2 takes away."""
        on = {
            "spatial": self.rotation or self.flip,
            "translation": self.translation.enabled,
            "cutout": self.cutout.enabled and self.kind != "v2",
            "brightness": self.brightness.enabled,
        }
        return tuple(name for name, is_on in on.items() if is_on)

    @property
    def draws_patterns(self) -> bool:
        return self.kind == "v2" and self.v2.destructive > 0.0 and self.v2.cutout_share < 1.0

    @property
    def draws_cutouts(self) -> bool:
        if self.kind == "v2":
            return self.v2.destructive > 0.0 and self.v2.cutout_share > 0.0
        return self.cutout.enabled

    @property
    def removes(self) -> bool:
        """Whether parts of an image are taken away."""
        shifts = "translation" in self.names
        return self.enabled and (shifts or self.draws_cutouts or self.draws_patterns)

    def check(self) -> None:
        if not self.enabled:
            return
        if not (self.names or self.draws_patterns or self.draws_cutouts):
            raise SettingsError(
                "score_aug.enabled=true has no transformation that is on. Turn on "
                "score_aug.rotation, flip, translation.enabled, cutout.enabled or "
                "brightness.enabled, or turn score_aug off."
            )
        if self.draws_patterns and not self.v2.patterns.ids:
            raise SettingsError(
                f"score_aug.v2.cutout_share={self.v2.cutout_share} asks for patterns, and no "
                "family of score_aug.v2.patterns is on. Turn one on, or set cutout_share=1."
            )
        if not self.omega and (self.rotation or self.flip) and not self.allow_leakage:
            raise SettingsError(
                "score_aug.omega=false goes with no rotation and no flip: a turned noisy image "
                "is distributed like a noisy turned image, so that the network would generate "
                "turned images. Set omega=true or both of them false; allow_leakage=true trains "
                "so nevertheless, to measure it."
            )
        if self.modality_factors and not self.omega:
            raise SettingsError(
                "score_aug.modality_factors=true needs score_aug.omega=true, by which the network "
                "knows the modality. Turn omega on, or the factors off."
            )

    def check_sides(self, sides: Sequence[int]) -> None:
        """Refuses `*S` that cannot be transformed so.

        Raises:
            SettingsError: with what to change.
        """
        if not self.enabled:
            return
        check_turns("score_aug", self.rotation, sides)
        if self.draws_patterns and min(sides[-2:]) < LEAST_SIDE:
            raise SettingsError(
                f"score_aug.v2.patterns need an H and a W of {LEAST_SIDE} or more, not "
                f"{' x '.join(map(str, sides))}. Set score_aug.v2.cutout_share=1, or use larger "
                "images."
            )


def check_turns(node: str, rotation: bool, sides: Sequence[int]) -> None:
    """Refuses quarter turns of what is not as high as wide: one would change the shape.

    Raises:
        SettingsError: with what to change.
    """
    if rotation and sides[-2] != sides[-1]:
        raise SettingsError(
            f"{node}.rotation=true needs H = W, not {' x '.join(map(str, sides))}. Set "
            f"{node}.rotation=false, or use images as high as wide."
        )
