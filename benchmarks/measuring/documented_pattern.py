"""The peer: Ray's documented way to tune a `TorchTrainer`. A Tune function starts a trainer of
one worker per trial.

The trial is the trivial one of `trainables.toy`: y = 2x + 3, five epochs, Accelerate, a
`torch.save` each epoch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any


def train_loop(config: dict[str, Any]) -> None:
    """What runs in the worker."""
    import ray.train
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    model, optimizer = accelerator.prepare(model, optimizer)
    x = torch.rand(64, 1)
    y = 2.0 * x + 3.0
    for epoch in range(5):
        loss = (model(x[:8]) - y[:8]).square().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(
                accelerator.unwrap_model(model).state_dict(), os.path.join(folder, "model.pt")
            )
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": epoch, "loss": float(loss)}, checkpoint=checkpoint)


def main() -> None:
    """Runs `--trials` of it below `--dir`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--dir", required=True)
    arguments = parser.parse_args()
    import ray
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def trial(config: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            train_loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                name=tune.get_context().get_trial_id(),
                storage_path=arguments.dir,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            ),
        )
        trainer.fit()

    ray.init(num_cpus=os.cpu_count(), log_to_driver=False, logging_level=40)
    tuner = tune.Tuner(
        trial,
        param_space={"lr": tune.loguniform(1e-3, 1.0)},
        tune_config=tune.TuneConfig(num_samples=arguments.trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=arguments.dir, verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]


if __name__ == "__main__":
    main()
