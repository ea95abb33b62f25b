"""Figures of a training: the same fixed samples in every trial of a sweep, as PNG files beside the
checkpoints and in TensorBoard.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from settings.atomic_file import atomic_file
from settings.paths import TrainingPaths
from trainables.parts import Phase
from trainables.reporting.evaluate import Worst
from trainables.reporting.tensorboard import TensorBoard
from trainables.run import LocalRun
from trainables.stepping.train_settings import SystemSettings
from trainables.system import System

MOST = 16
"""Figures of one report."""

LARGEST = 2048
"""Pixels of a figure's side: a PNG file of that size has 12 MiB at the most."""

TENSORBOARD_BYTES = 64 * 2**20
"""TensorBoard keeps every figure that it is given, so that there is an end to it; the folder keeps
three of each.
"""

COUNTS = "counts.json"
"""Beside the folders: `drawn`, `tensorboard_bytes`, and `left_out`, how many were not drawn, or
not into TensorBoard.
"""

_FREE = re.compile(r"[\w.-]+")


class Figures:
    """Draws the figures of a training into `figures/<name>/<step>.png`, of which the first, the
    last, and that of the best report before the last are kept, and into TensorBoard. The first
    rank alone does.
    """

    def __init__(
        self, system: System, settings: SystemSettings, run: LocalRun, board: TensorBoard
    ) -> None:
        self.system, self.settings, self.run, self.board = system, settings, run, board
        self.folder = TrainingPaths(run.directory).figures
        self.is_on = settings.train.figures and run.is_main
        self.counts = {"drawn": 0, "tensorboard_bytes": 0, "left_out": 0}
        if self.is_on and (self.folder / COUNTS).exists():
            self.counts |= json.loads((self.folder / COUNTS).read_text())
        self._told: set[str] = set()

    def begin(self, step: int) -> None:
        """Removes what was drawn after the step that a training goes on from: it is drawn again.
        """
        for path in self.folder.glob("*/*.png") if self.run.is_main else ():
            if _step_of(path) > step:
                path.unlink()

    def worst(self, name: str, phase: Phase, step: int) -> Worst | None:
        """A collector of the batch to draw; None where the document has no tag for the figure."""
        if not (self.is_on and self.board.wants(name)):
            return None
        weights = phase.composite.weights(step, self.settings.train.steps)
        return Worst(name, weights, self.system.picture)

    def draw(
        self,
        images: Iterable[tuple[str, Tensor]],
        step: int,
        best: int | None = None,
        worst: Worst | None = None,
    ) -> None:
        """Draws images [3, H, W] in [0, 1] by name, and that of the worst batch.

        Args:
            best: the step of the best report before this one.
        """
        if not self.is_on:
            return
        collected = [(worst.name, worst.image)] if worst and worst.image is not None else []
        for count, (name, image) in enumerate(chain(collected, images)):
            problem = _problem(name, image, count) or self._without_room(name)
            if problem:
                self._leave_out(f"figure {name} is not drawn: {problem}.", name)
                continue
            self._draw(name, image.detach().float().clamp(0.0, 1.0).cpu(), step, best)
        if any(self.counts.values()):
            with atomic_file(self.folder / COUNTS) as scratch:
                scratch.write_text(json.dumps(self.counts) + "\n")

    def _without_room(self, name: str) -> str:
        """Why a figure has no folder, and gets none; "" elsewhere."""
        folders = {path.name for path in self.folder.glob("*") if path.is_dir()}
        if name in folders or len(folders) < MOST:
            return ""
        return f"a training has at most {MOST} figures by name, each drawn again and again"

    def _draw(self, name: str, image: Tensor, step: int, best: int | None) -> None:
        from PIL import Image

        content = io.BytesIO()
        pixels = (image.permute(1, 2, 0) * 255.0).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(content, "PNG")
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"{step:08d}.png") as scratch:
            scratch.write_bytes(content.getvalue())
        steps = {_step_of(path): path for path in folder.glob("*.png")}
        for other in steps.keys() - {min(steps), best, step}:
            steps[other].unlink()
        self.counts["drawn"] += 1
        if self.settings.train.tensorboard:
            self._show(name, image, step, len(content.getvalue()))

    def _show(self, name: str, image: Tensor, step: int, size: int) -> None:
        tags = self.board.figures.get(name, (name,))
        size *= len(tags)
        if self.counts["tensorboard_bytes"] + size > TENSORBOARD_BYTES:
            text = (
                f"TensorBoard gets {TENSORBOARD_BYTES >> 20} MiB of figures of a training, and no "
                f"more; {self.folder} goes on. Draw smaller ones, or fewer: train.examine_every."
            )
            self._leave_out(text, "tensorboard")
            return
        self.counts["tensorboard_bytes"] += size
        self.board.draw(tags, image, step)

    def _leave_out(self, text: str, about: str) -> None:
        self.counts["left_out"] += 1
        if about not in self._told:
            self._told.add(about)
            self.run.warn(text)


def _problem(name: str, image: Tensor, before: int) -> str:
    """Why a figure cannot be drawn; "" where it can."""
    if not _FREE.fullmatch(name):
        return "its name is that of a folder, of letters, digits, '_', '-' and '.' alone"
    is_image = image.ndim == 3 and image.shape[0] == 3
    if not is_image or min(image.shape) < 1 or max(image.shape) > LARGEST:
        return (
            f"it has the shape {list(image.shape)}, and a figure has [3, H, W] with at most "
            f"{LARGEST} pixels a side"
        )
    if before >= MOST:
        return f"a report has at most {MOST} figures; make one of several"
    return ""


def _step_of(path: Path) -> int:
    return int(path.stem)
