"""Rectified flow as a notebook with MONAI would write it: its UNet, its scheduler, torch's AdamW
and moving average; in the sizes of a setting of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainables.diffusion.settings import DiffusionSettings

if TYPE_CHECKING:
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import RFlowScheduler

TRAINED_STEPS = 1000
"""Of MONAI's scheduler, whose times are between 0 and this."""


def network_like(
    settings: DiffusionSettings, weights: Mapping[str, Tensor] | None = None
) -> DiffusionModelUNet:
    """MONAI's `DiffusionModelUNet` of one channel with the levels of `settings.model.unet`.

    Args:
        weights: of ours, which has the same layers.
    """
    from monai.networks.nets import DiffusionModelUNet

    shape = settings.model.unet
    levels = len(shape.widths)
    network = DiffusionModelUNet(
        spatial_dims=settings.model.spatial_dims,
        in_channels=1,
        out_channels=1,
        num_res_blocks=shape.res_blocks,
        channels=shape.widths,
        attention_levels=[level >= levels - shape.attention for level in range(levels)],
        norm_num_groups=shape.norm_groups,
        num_head_channels=shape.head_width,
        use_flash_attention=True,
    )
    if weights is not None:
        network.load_state_dict(weights)
    return network


def scheduler_like(settings: DiffusionSettings) -> RFlowScheduler:
    """`RFlowScheduler` in continuous time with the law of `settings.strategy.rflow`."""
    from monai.networks.schedulers import RFlowScheduler

    law = settings.strategy.rflow
    return RFlowScheduler(
        num_train_timesteps=TRAINED_STEPS,
        use_discrete_timesteps=False,
        sample_method="logit-normal",
        loc=law.mean,
        scale=law.std,
    )


def training_step(
    settings: DiffusionSettings, shift: Tensor, scale: Tensor
) -> Callable[[list[Mapping[str, Tensor]]], None]:
    """A step on a batch of images: standardise, noise, predict, update, average.

    Args:
        shift, scale: of the one channel.
    """
    torch.manual_seed(0)
    network, scheduler = network_like(settings), scheduler_like(settings)
    node, train = settings.optimizer, settings.train
    optimizer = torch.optim.AdamW(
        network.parameters(), node.lr, (node.beta1, node.beta2), weight_decay=node.weight_decay
    )
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay))

    def step(batches: list[Mapping[str, Tensor]]) -> None:
        (batch,) = batches
        clean = (batch["image"] - shift) / scale
        noise, t = torch.randn_like(clean), scheduler.sample_timesteps(clean)
        noisy = scheduler.add_noise(original_samples=clean, noise=noise, timesteps=t)
        loss = F.mse_loss(network(noisy, t), clean - noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), train.clip_norm)
        optimizer.step()
        average.update_parameters(network)

    return step


def sampled(
    network: DiffusionModelUNet, scheduler: RFlowScheduler, noise: Tensor, steps: int
) -> Tensor:
    """Images of the noise by MONAI's `DiffusionInferer`."""
    from monai.inferers import DiffusionInferer

    scheduler.set_timesteps(steps)
    images = DiffusionInferer(scheduler).sample(noise, network, verbose=False)
    return images if isinstance(images, Tensor) else images[0]
