"""What one phase hands on to the next: a critic judges what the generator has just made."""

from __future__ import annotations

import dataclasses

import torch

from models.draws import hash63
from trainables.stepping.batches import Share, train_loader
from trainables.toy import ToyGan

FORWARDS: list[str] = []


def judge_what_was_made(modules, batch, settings):
    """`judge` of the toy without its own forward of the model."""
    y = batch["model.y"]
    assert not y.requires_grad
    FORWARDS.append("critic")
    real = modules["critic"](torch.cat([batch["x"], batch["y"]], dim=1))
    return {"real": real, "fake": modules["critic"](torch.cat([batch["x"], y.float()], dim=1))}


class HandedOn(ToyGan):
    name = "tests:HandedOn"

    def phases(self, settings, prepared):
        first, critic = super().phases(settings, prepared)
        return [
            dataclasses.replace(first, shares_outputs=("y",)),
            dataclasses.replace(critic, forward=judge_what_was_made),
        ]


def test_the_critic_sees_what_the_generator_made_in_this_step(toys, tmp_path):
    """The critic's gradient is that at the model before its update; the model's own update is the
    usual one.
    """
    once = {"train__steps": 1, "train__report_every": 1, "critic_optimizer__kind": "sgd"}
    handed = toys.train(HandedOn(), tmp_path / "handed", **once)
    usual = toys.train(ToyGan(), tmp_path / "usual", **once)
    for key, tensor in usual.tensors.items():
        if key.startswith("module.model"):
            assert torch.equal(handed.tensors[key], tensor)
    critic = "module.critic.weight"
    assert not torch.equal(handed.tensors[critic], usual.tensors[critic])
    tree = toys.settings(ToyGan, **once)
    expected = one_critic_step(tree)
    assert torch.allclose(handed.tensors[critic], expected, atol=1e-6)


def one_critic_step(tree):
    """The critic after one step of Adam, by hand, from the batch that the loop draws."""
    system = ToyGan()
    torch.default_generator.manual_seed(hash63(tree.train.seed, 3, 0, 0))
    modules = system.build(tree, None).modules
    share = Share(tree.train.batch_size, 1, 1, 0)
    loader = train_loader(system.loaders(tree, None), share, tree.train.seed, 0, 1)
    batch = next(iter(loader))
    fake = torch.cat([batch["x"], modules["model"](batch["x"]).detach()], dim=1)
    real = torch.cat([batch["x"], batch["y"]], dim=1)
    critic = modules["critic"]
    loss = (1.0 - critic(real)).relu().mean() + (1.0 + critic(fake)).relu().mean()
    loss.backward()
    own = tree.critic_optimizer
    torch.nn.utils.clip_grad_norm_(critic.parameters(), tree.train.clip_norm)
    torch.optim.SGD(critic.parameters(), lr=own.lr, momentum=own.beta1).step()
    return critic.weight.detach()


def test_validation_hands_on_as_well(toys, tmp_path):
    FORWARDS.clear()
    trained = toys.train(HandedOn(), tmp_path, train__steps=2, train__report_every=2)
    assert trained.report["val.critic.hinge"] > 0.0
    assert len(FORWARDS) > 2  # two steps, and the batches of one validation


def test_a_critic_that_has_not_begun_is_not_run(toys, tmp_path):
    """No forward, no step: its weights stay, bit by bit, and the columns say so."""
    FORWARDS.clear()
    start = {
        "critic__hinge__schedule__kind": "step",
        "critic__hinge__schedule__start": 0.5,
    }
    trained = toys.train(HandedOn(), tmp_path, train__steps=4, train__report_every=2, **start)
    before, after = trained.history
    assert before["train.critic.grad_norm"] is None and before["train.critic.hinge.weight"] == 0.0
    assert after["train.critic.grad_norm"] > 0.0 and after["train.critic.hinge.weight"] == 1.0
