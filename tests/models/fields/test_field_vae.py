"""The simulation VAE: which numbers reach its output, and its frozen decoder."""

from __future__ import annotations

import copy

import pytest
import torch

from models.fields.field_vae import FieldVaeModel, FrozenDecoder, ModelSettings
from settings.schema import SettingsError

LENGTH, NODES = 12, 20
SMALL = {"filters": (16, 12, 8), "main_size": 6, "hier_size": 3}


def fields(count=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(count, 4, generator=generator) @ torch.randn(
        4, LENGTH * NODES, generator=generator
    )
    return 5.0 + smooth.view(count, LENGTH, NODES)


def make(seed=0, perturbed=True, **changes):
    """A fitted model, a little off its start, where corrections are exactly 0."""
    torch.manual_seed(seed)
    model = FieldVaeModel(ModelSettings(**{**SMALL, **changes}), LENGTH, NODES)
    known = fields()
    model.fit(float(known.min()), float(known.max()), lambda: iter(known.split(4)))
    if perturbed:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noise(settings, count):
    codes, size = settings.hier_shape
    return {
        "noise_main": torch.randn(count, settings.main_size),
        "noise_hier": torch.randn(count, codes, size, LENGTH),
    }


@pytest.mark.parametrize("filters", [(8, 4), (16, 12, 8), (10, 9, 8, 7, 6)])
def test_there_is_one_code_for_each_level_but_the_last(filters):
    model = make(filters=filters)
    main, hier = model.encode(fields(3))
    assert main.shape == (3, 6)
    assert hier.shape == (3, len(filters) - 1, 3)
    assert model.settings.hier_shape == (len(filters) - 1, 3)
    assert model.decode(main, hier).shape == (3, LENGTH, NODES)


@pytest.mark.parametrize("linear", [True, False])
def test_every_code_reaches_the_field(linear):
    model = make(linear=linear, filters=(10, 9, 8, 7))
    main, hier = model.encode(fields(2))
    main, hier = main.detach().requires_grad_(), hier.detach().requires_grad_()
    model.decode(main, hier).square().sum().backward()
    assert (main.grad != 0).all()
    assert (hier.grad != 0).all(), "a code that the output does not depend on"


def test_every_code_reaches_the_field_through_the_network_too():
    """Beside the linear path, of which the gradient is known."""
    model = make(filters=(10, 9, 8, 7))
    model.decoder.linear.basis.zero_()
    hier = torch.randn(2, 3, 3, requires_grad=True)
    model.decode(torch.randn(2, 6), hier).square().sum().backward()
    assert (hier.grad != 0).all()


def test_encoding_depends_on_the_sample_alone():
    model, known = make(), fields(7)
    main, hier = model.encode(known)
    for index in (0, 6):
        one, codes = model.encode(known[index : index + 1])
        torch.testing.assert_close(one[0], main[index], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codes[0], hier[index], rtol=1e-4, atol=1e-5)


def test_without_noise_the_forward_is_decode_of_encode():
    model, known = make(), fields(4)
    for training in (True, False):
        model.train(training)
        prediction = model({"field": known})
        torch.testing.assert_close(prediction["field"], model.decode(*model.encode(known)))


def test_noise_spreads_as_the_posterior_says():
    """With the codes' noise at 0 and the mean fixed, a draw is mean + noise * deviation."""
    model, known = make(), fields(4)
    drawn = noise(model.settings, 4)
    drawn["noise_hier"].zero_()
    prediction = model({"field": known, **drawn})
    latent = prediction["main"] + drawn["noise_main"] * (0.5 * prediction["main_logvar"]).exp()
    torch.testing.assert_close(prediction["field"], model.decode(latent, prediction["hier"]))
    codes = noise(model.settings, 4)
    codes["noise_main"].zero_()
    assert not torch.allclose(
        model({"field": known, **codes})["field"],
        model.decode(prediction["main"], prediction["hier"]),
    )


def test_with_components_it_starts_as_the_best_linear_autoencoder():
    """12 numbers hold fields of 4 components exactly; without the network's corrections."""
    model, known = make(perturbed=False), fields()
    torch.testing.assert_close(model.decode(*model.encode(known)), known, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_amplitude_of_a_sample_can_be_told():
    """A normalisation right before the tanh would give every sample the same deviation there."""
    model = make(linear=False)
    before_tanh = torch.atanh(model.decoder(3 * torch.randn(8, 6), 3 * torch.randn(8, 2, 3))[0])
    deviations = before_tanh.flatten(1).std(dim=1)
    assert float(deviations.max() / deviations.min()) > 1.05


def test_log_variances_are_finite_for_wild_fields():
    prediction = make()({"field": 1e6 * fields(3)})
    for name in ("main_logvar", "prior_logvar", "delta_logvar"):
        assert prediction[name].abs().max() <= 30.0
    assert all(bool(torch.isfinite(value).all()) for value in prediction.values())


def test_fields_of_another_mesh_are_refused():
    with pytest.raises(ValueError, match="12 time steps x 20 nodes, not 12 x 21"):
        make().encode(torch.zeros(1, LENGTH, NODES + 1))


def test_one_level_is_refused():
    with pytest.raises(SettingsError, match="at least two levels"):
        ModelSettings(filters=(8,))


def frozen(model):
    decoder = FrozenDecoder(model.settings, LENGTH, NODES)
    decoder.decoder.load_state_dict(model.decoder.state_dict())
    decoder.field_scaler.load_state_dict(model.scaler.state_dict())
    main, hier = (part.detach() for part in model.encode(fields()))
    decoder.main_scaler.fit(main)
    decoder.hier_scaler.fit(hier)
    return decoder, main, hier


def test_the_frozen_decoder_decodes_scaled_latents():
    model = make()
    decoder, main, hier = frozen(model)
    scaled = decoder.main_scaler(main), decoder.hier_scaler(hier)
    assert max(float(part.abs().max()) for part in scaled) <= 0.7 + 1e-6
    torch.testing.assert_close(decoder(*scaled), model.decode(main, hier), rtol=1e-4, atol=1e-3)


def test_the_frozen_decoder_passes_gradients_and_takes_none():
    decoder, _, _ = frozen(make())
    before = copy.deepcopy(decoder.state_dict())
    decoder.train()
    main = torch.rand(2, 6, requires_grad=True)
    hier = torch.rand(2, 2, 3, requires_grad=True)
    decoder(main, hier).square().sum().backward()
    assert (main.grad != 0).any() and (hier.grad != 0).any()
    assert all(p.grad is None and not p.requires_grad for p in decoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in decoder.state_dict().items())


def test_the_frozen_decoder_is_whole_in_its_state_dict():
    decoder, main, hier = frozen(make())
    torch.manual_seed(9)
    again = FrozenDecoder(decoder.settings, LENGTH, NODES)
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(again(main, hier), decoder(main, hier))


def test_the_frozen_decoder_decodes_in_float32_whatever_the_precision():
    decoder, main, hier = frozen(make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(main.bfloat16().float(), hier.bfloat16().float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, decoder(main.bfloat16().float(), hier.bfloat16().float()))
