"""The deep compression autoencoder (DC-AE, arXiv 2410.10733) in two dimensions, from diffusers,
and published weights for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.autoencoders.interface import PretrainedError
from models.autoencoders.settings import HEAD_WIDTH, DcaeSettings
from settings.schema import SettingsError

MULTISCALE_SIZE = 5

SETTING_OF: Mapping[str, str] = {
    "latent_channels": "latent_channels",
    "encoder_block_out_channels": "widths",
    "decoder_block_out_channels": "widths",
    "encoder_layers_per_block": "layers",
    "decoder_layers_per_block": "decoder_layers",
    "encoder_block_types": "attention",
    "decoder_block_types": "attention",
    "encoder_qkv_multiscales": "multiscale",
    "decoder_qkv_multiscales": "multiscale",
    "upsample_block_type": "strided",
    "downsample_block_type": "strided",
    "decoder_norm_types": "batch_norm",
    "decoder_act_fns": "batch_norm",
}
"""The library's configuration keys -> ours below `model.dcae`. The other keys have one value."""


def configuration(settings: DcaeSettings, channels: int) -> dict[str, Any]:
    """The library's configuration of the network that the settings describe."""
    stages = len(settings.widths)
    attended = min(settings.attention, stages)
    rest = stages - attended
    normed = min(settings.batch_norm, stages)
    types = ("ResBlock",) * rest + ("EfficientViTBlock",) * attended
    scales = ((),) * rest + ((MULTISCALE_SIZE,) if settings.multiscale else (),) * attended
    return {
        "in_channels": channels,
        "latent_channels": settings.latent_channels,
        "attention_head_dim": HEAD_WIDTH,
        "encoder_block_types": types,
        "decoder_block_types": types,
        "encoder_block_out_channels": settings.widths,
        "decoder_block_out_channels": settings.widths,
        "encoder_layers_per_block": settings.layers,
        "decoder_layers_per_block": settings.decoder_layers,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "upsample_block_type": "interpolate" if settings.strided else "pixel_shuffle",
        "downsample_block_type": "conv" if settings.strided else "pixel_unshuffle",
        "decoder_norm_types": ("batch_norm",) * normed + ("rms_norm",) * (stages - normed),
        "decoder_act_fns": ("relu",) * normed + ("silu",) * (stages - normed),
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
    }


def networks(settings: DcaeSettings, channels: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder for images with that many channels."""
    network = _library()(**configuration(settings, channels))
    return network.encoder, network.decoder


def head(decoder: Any, x: Tensor) -> Tensor:
    """What the library's decoder does after its stages."""
    normed = decoder.norm_out(x.movedim(1, -1)).movedim(-1, 1)
    return decoder.conv_out(decoder.conv_act(normed))


def load_published(
    source: str, encoder: nn.Module, decoder: nn.Module, settings: DcaeSettings, channels: int
) -> None:
    """Copies the weights of a published network, made for RGB, to one for C channels.

    An image of one channel counts as a grey one: the first layer sums its weights over RGB (and
    divides by C, where there are more channels), the last one averages them.

    Args:
        source: a folder that `AutoencoderDC.save_pretrained` wrote, or a name on the hub.

    Raises:
        PretrainedError: there is no such folder, it cannot be read, or the hub not be reached.
        SettingsError: the network is another one than the settings describe.
    """
    other = _published(source)
    _refuse_other_shape(source, other.config, configuration(settings, channels))
    theirs = other.config["in_channels"]
    first, last = other.encoder.state_dict(), other.decoder.state_dict()
    if theirs != channels:
        for name in _ends(first, "conv_in", ("weight",)):
            first[name] = _spread_inputs(first[name], channels)
        for name in _ends(last, "conv_out", ("weight", "bias")):
            last[name] = _spread_outputs(last[name], theirs, channels)
    encoder.load_state_dict(first)
    decoder.load_state_dict(last)


def _library() -> Any:
    try:
        from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"model.kind=dcae in 2-D is the network of diffusers, and {error.name} is not "
            "installed: `pip install 'diffusers>=0.35,<0.43'`, or use model.spatial_dims=3."
        ) from error
    return AutoencoderDC


def _published(source: str) -> Any:
    folder = Path(source).expanduser()
    is_local = folder.is_dir()
    try:
        return _library().from_pretrained(
            str(folder) if is_local else source, local_files_only=is_local
        )
    except (OSError, ValueError) as error:
        way_out = (
            "it must hold config.json and diffusion_pytorch_model.safetensors, as save_pretrained "
            "writes them"
            if is_local
            else "there is no such folder here, and the hub has no such network or cannot be "
            "reached: fetch it on a machine that can (`hf download NAME --local-dir FOLDER`) and "
            "set model.pretrained to the folder"
        )
        raise PretrainedError(
            f"model.pretrained={source!r} cannot be read ({_first_line(error)}): {way_out}."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _refuse_other_shape(source: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    stages = len(ours["encoder_block_out_channels"])
    wrong = []
    for key, wanted in ours.items():
        value = _comparable(theirs[key], wanted, stages)
        if key != "in_channels" and value != wanted:
            name = f"model.dcae.{SETTING_OF[key]}" if key in SETTING_OF else "no setting of ours"
            wrong.append(f"{key} is {value}, not {wanted} ({name})")
    if wrong:
        raise SettingsError(
            f"model.pretrained={source!r} is another network than model.dcae describes: "
            f"{'; '.join(wrong)}. Change these settings, or take a network that fits them."
        )


def _comparable(value: object, wanted: object, stages: int) -> object:
    """Lists of JSON as tuples, one word for all stages as one word per stage."""
    if not isinstance(value, str):
        return _tuples(value)
    return (value,) * stages if isinstance(wanted, tuple) else value.lower()  # some have `Conv`


def _tuples(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value


def _ends(state: Mapping[str, Tensor], layer: str, kinds: Sequence[str]) -> list[str]:
    """Names of the layer's own tensors, or of the convolution within it."""
    names = [f"{prefix}.{kind}" for prefix in (layer, f"{layer}.conv") for kind in kinds]
    return [name for name in names if name in state]


def _spread_inputs(weight: Tensor, channels: int) -> Tensor:
    """[O, RGB, h, w] -> [O, C, h, w]"""
    return (weight.sum(dim=1, keepdim=True) / channels).repeat(1, channels, 1, 1)


def _spread_outputs(value: Tensor, theirs: int, channels: int) -> Tensor:
    """[RGB n, ...] -> [C n, ...]; n are the pixels that a shuffle takes from the channels."""
    mean = value.unflatten(0, (theirs, -1)).mean(dim=0, keepdim=True)
    return mean.expand(channels, *mean.shape[1:]).flatten(0, 1).clone()
