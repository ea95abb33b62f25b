"""A folder of latents, as users have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.style.settings import DataSettings

FACTS = {"scale": 0.18215, "source": "sd-vae-ft-mse"}


def store(path: Path, latent: torch.Tensor, facts: dict[str, object] | None = None) -> None:
    """A latent by the suffix of its path; .npy without facts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = FACTS if facts is None else facts
    if path.suffix == ".pt":
        torch.save({"latent": latent, **facts} if facts else latent, path)
    elif path.suffix == ".npy":
        np.save(path, latent.numpy())
    else:
        save_file({"z": latent}, path, {name: str(value) for name, value in facts.items()})


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., DataSettings]:
    """`make_folder(monet=20, photo=30)`: settings of a folder with so many latents of each."""

    def make(
        suffix: str = ".pt",
        std: float = 1.0,
        facts: dict[str, object] | None = None,
        **counts: int,
    ) -> DataSettings:
        generator = torch.Generator().manual_seed(0)
        for name, count in (counts or {"monet": 20, "photo": 30}).items():
            for number in range(count):
                latent = std * torch.randn(4, 8, 8, generator=generator)
                store(tmp_path / "latents" / name / f"{number}{suffix}", latent, facts)
        return DataSettings(
            source="folder",
            root=str(tmp_path / "latents"),
            validation_share=0.2,
            test_share=0.2,
            references=2,
        )

    return make
