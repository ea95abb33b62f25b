"""Settings of the teacher that is trained here, and of what is converted of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from settings.schema import Settings, SettingsError, setting

GAUGES = ("none", "unit", "equal")


@dataclass(frozen=True, kw_only=True)
class LlamaSettings(Settings):
    """A Llama for a CPU: of bytes 0.33 M parameters."""

    layers: int = setting(3, "decoder layers", low=1, high=128)
    width: int = setting(96, "d, of the residual stream", low=4, high=1 << 16)
    hidden: int = setting(256, "d_ffn, of the MLP", low=4, high=1 << 18)
    heads: int = setting(4, "of the queries; divides width", low=1, high=256)
    key_heads: int = setting(
        2, "of keys and values, each for heads / key_heads queries", low=1, high=256
    )

    def check(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise SettingsError(
                "model.width must be an even multiple of model.heads, since a rotation turns "
                f"pairs of numbers, not {self.width} of {self.heads}."
            )
        if self.heads % self.key_heads:
            raise SettingsError(
                f"model.key_heads must divide model.heads, not {self.key_heads} of {self.heads}. "
                "Set it to a divisor."
            )


@dataclass(frozen=True, kw_only=True)
class ConverterSettings(Settings):
    """Which layers are converted, and by what: k pairs (v_a, v_b) for each token and layer."""

    kind: str = setting(
        "modulation",
        "modulation, of the MLP's gate; adapter, to compare with: a linear map of a of the same "
        "rank beside the MLP",
        choices=("modulation", "adapter"),
    )
    layers: tuple[int, ...] = setting((), "that are converted, from 0; () for all", low=0)
    rank: int = setting(64, "r, numbers that the pairs are made of", low=1, high=1 << 14)
    pairs: int = setting(1, "k, rank-1 updates of the gate's weight", low=1, high=64)
    gauge: str = setting(
        "none",
        "of (c v_a, v_b / c), all of which are one update: the document's, as they come; unit, "
        "|v_a| = 1; equal, |v_a| = |v_b| (003-M9)",
        choices=GAUGES,
    )
    identity: float = setting(
        0.3, "share of the identity in the first map to v_a", low=0.0, high=10.0
    )
    noise: float = setting(0.01, "deviation of what is added to that share", low=0.0, high=1.0)
    scale: float = setting(
        0.01, "the first map to v_b is uniform between -scale and scale", low=1e-6, high=1.0
    )
    bottleneck: bool = setting(
        False,
        "z is drawn around its mean, in training, with a deviation that a second map gives; "
        "loss.bottleneck in its right form needs it (003-M5)",
    )
    teacher_share: float = setting(
        0.0,
        "of the samples of a training whose converted layers are fed what the teacher feeds them: "
        "1 trains each layer by itself, 0 all of them behind one another",
        low=0.0,
        high=1.0,
    )

    gradient: float = setting(
        1.0,
        "factor on the gradient of the converters: the document's 10, which Adam divides out and "
        "a clip takes back (003-M12)",
        low=1e-3,
        high=1e3,
    )

    def check(self) -> None:
        if self.kind == "adapter" and self.bottleneck:
            raise SettingsError(
                "model.kind=adapter draws no code, and model.bottleneck=true asks for one. Set it "
                "to false, or model.kind=modulation."
            )
        if len(set(self.layers)) < len(self.layers):
            raise SettingsError(f"model.layers names a layer once, not {self.layers}.")

    def chosen(self, count: int) -> tuple[int, ...]:
        """The converted layers of a teacher of `count`, ascending.

        Raises:
            SettingsError: it has no such layer.
        """
        if self.layers and max(self.layers) >= count:
            raise SettingsError(
                f"model.layers must lie below {count}, the layers of the teacher, not "
                f"{self.layers}. Take those out, or leave it at () for all."
            )
        return tuple(sorted(self.layers)) or tuple(range(count))
