"""The VAE that a `prepare` shares: trained once, loaded or refused; latents and their decoder."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.fields.outlines import field, random_outline
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.conditioner.field_latents import (
    VaeSettings,
    encode_all,
    load_decoder,
    scale_given,
    train_or_load,
)
from trainables.conditioner.field_vae import FieldVae
from trainables.conditioner.field_vae_file import load_vae, write_module
from trainables.loop import fit
from trainables.run import LocalRun

SMALL = VaeSettings(filters=(12, 10, 8), main_size=6, hier_size=4, steps=6, batch_size=4)
ROOT = Path(__file__).resolve().parents[3]
TRAIN, VALIDATION = np.arange(0, 20), np.arange(20, 25)  # one of the 26 is for a test


def files_of(latents):
    return [Path(latents.folder) / f"{name}.npy" for name in ("main", "hier")]


def write_fields(path, count=26, length=8, seed=0):
    values = [
        field(random_outline(np.random.default_rng((seed, number))), length, 4)
        for number in range(count)
    ]
    np.save(path, np.stack(values).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(file of fields, file of a VAE of them)."""
    folder = tmp_path_factory.mktemp("vae")
    fields = write_fields(folder / "fields.npy")
    return fields, train_or_load(SMALL, fields, TRAIN, folder / "vae")


def test_it_is_trained_once(shared, capsys):
    fields, file = shared
    written = file.stat().st_mtime_ns
    assert train_or_load(SMALL, fields, TRAIN[::-1].copy(), file.parent) == file
    assert file.stat().st_mtime_ns == written
    assert capsys.readouterr() == ("", "")
    assert not (file.parent / "training").exists(), "checkpoints are left over"


def test_two_at_once_train_once(tmp_path, shared, capsys):
    found = []

    def ask():
        found.append(train_or_load(SMALL, shared[0], TRAIN, tmp_path / "vae"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "vae" / "vae.safetensors"] * 2
    said = capsys.readouterr().err
    assert said.count("simulation VAE: step 6,") == 1
    assert said.count("waiting for another process") == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from trainables.nested import training
from trainables.conditioner.field_latents import VaeSettings, train_or_load

said = training.say
def say(text):
    said(text)
    if "step 3," in text:
        os.kill(os.getpid(), signal.SIGKILL)
training.say = say
vae = VaeSettings(filters=(12, 10, 8), main_size=6, hier_size=4, steps=6, batch_size=4)
train_or_load(vae, Path(sys.argv[1]), np.arange(0, 20), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_and_gives_the_same(tmp_path, shared, capsys):
    fields, whole = shared
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(fields), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "vae.safetensors").exists()
    again = train_or_load(SMALL, fields, TRAIN, tmp_path)
    said = capsys.readouterr().err
    assert "step 6," in said and "step 1," not in said
    one, two = load_file(whole), load_file(again)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    ("vae", "train", "message"),
    [
        (dataclasses.replace(SMALL, seed=1), TRAIN, "of other vae"),
        (SMALL, TRAIN[:-1], "of other train"),
    ],
)
def test_a_folder_belongs_to_one_request(shared, vae, train, message):
    fields, file = shared
    with pytest.raises(ValueError, match=message):
        train_or_load(vae, fields, train, file.parent)


def test_a_file_or_a_training_is_loaded(tmp_path, shared):
    fields, file = shared
    for given in (file, trained_by_itself(tmp_path / "run", fields)):
        vae = dataclasses.replace(SMALL, checkpoint=str(given))
        assert train_or_load(vae, fields, TRAIN, tmp_path / "unused") == given
        assert load_vae(given).encode(torch.zeros(2, 8, 16))[0].shape == (2, 6)
    assert not (tmp_path / "unused").exists()


def trained_by_itself(directory, fields):
    system = FieldVae()
    settings = replace(
        system.Settings(model=SMALL.network),
        {"data.fields": str(fields), "train.steps": 2, "train.tensorboard": False},
    )
    fit(system, settings, LocalRun(directory), system.prepare(settings, directory))
    return directory


def test_a_vae_that_does_not_fit_is_refused(tmp_path, shared):
    fields, file = shared
    vae = dataclasses.replace(SMALL, checkpoint=str(file))
    longer = write_fields(tmp_path / "longer.npy", length=9)
    with pytest.raises(SettingsError, match="8 time steps x 16 nodes, and the data has 9 x 16"):
        train_or_load(vae, longer, TRAIN, tmp_path)
    wider = dataclasses.replace(vae, main_size=7, filters=(12, 8))
    with pytest.raises(SettingsError, match=r"Set vae.filters=\(12, 10, 8\) vae.main_size=6"):
        train_or_load(wider, fields, TRAIN, tmp_path)
    for content in (b"", b"no tensors here"):
        (tmp_path / "bad.safetensors").write_bytes(content)
        bad = dataclasses.replace(SMALL, checkpoint=str(tmp_path / "bad.safetensors"))
        with pytest.raises(CheckpointError, match="cannot be read as a simulation VAE"):
            train_or_load(bad, fields, TRAIN, tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_vae(tmp_path / "none.safetensors")


def test_latents_are_scaled_by_the_training_samples_alone(tmp_path, shared):
    fields, file = shared
    latents = encode_all(file, fields, TRAIN, VALIDATION, tmp_path / "latents")
    with torch.no_grad():
        raw = load_vae(file).encode(torch.from_numpy(np.load(fields)))
    beyond = 0
    for name, path, own in zip(("main", "hier"), files_of(latents), raw, strict=True):
        values = own.double().numpy()
        low, high = values[TRAIN].min(axis=0), values[TRAIN].max(axis=0)
        expected = 0.7 * (2.0 * (values - low) / (high - low) - 1.0)
        found = np.load(path)
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=name)
        assert np.abs(found[TRAIN]).max() <= 0.7 + 1e-5
        beyond += (np.abs(found[VALIDATION]) > 0.7 * (1 + 1e-6)).sum()
    assert np.load(files_of(latents)[1]).shape == (26, 2, 4)
    assert latents.notes["latents.validation_beyond_training"] == beyond > 0
    assert latents.notes["latents.validation_values"] == 5 * (6 + 2 * 4)
    assert latents.notes["latents.constant_columns"] == 0


def test_the_decoder_gives_back_what_the_vae_would(tmp_path, shared):
    fields, file = shared
    latents = encode_all(file, fields, TRAIN, VALIDATION, tmp_path / "latents")
    decoder = load_decoder(latents)
    scaled = (torch.from_numpy(np.load(p)) for p in files_of(latents))
    true = np.load(fields)
    with torch.no_grad():
        found = decoder(*scaled)
        model = load_vae(file)
        expected = model.decode(*model.encode(torch.from_numpy(true)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    errors = [
        np.linalg.norm(f - t) / np.linalg.norm(t)
        for f, t in zip(found.numpy()[VALIDATION], true[VALIDATION], strict=True)
    ]
    assert latents.notes["vae.validation_error"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert latents.notes["vae.validation_error_p95"] == pytest.approx(
        np.quantile(errors, 0.95), rel=1e-3
    )
    assert (latents.length, latents.nodes) == (8, 16)


def test_encoded_data_is_found_again(tmp_path, shared):
    fields, file = shared
    one = encode_all(file, fields, TRAIN, VALIDATION, tmp_path / "latents")
    written = files_of(one)[0].stat().st_mtime_ns
    two = encode_all(file, fields, TRAIN, VALIDATION, tmp_path / "latents")
    assert one == two == pickle.loads(pickle.dumps(one))  # noqa: S301 - our own bytes
    assert files_of(two)[0].stat().st_mtime_ns == written


def test_another_vae_under_the_same_name_is_encoded_anew(tmp_path, shared):
    """As the folder of a training is, once the training went on."""
    fields, file = shared
    own = tmp_path / "vae.safetensors"
    own.write_bytes(file.read_bytes())
    one = encode_all(own, fields, TRAIN, VALIDATION, tmp_path / "latents")
    model = load_vae(own)
    with torch.no_grad():
        model.encoder.heads[0].bias.add_(torch.arange(4.0))
        model.decoder.linear.basis.neg_()
    write_module(own, model)
    two = encode_all(own, fields, TRAIN, VALIDATION, tmp_path / "latents")
    assert not np.array_equal(np.load(files_of(one)[0]), np.load(files_of(two)[0]))


def test_given_latents_are_scaled_the_same_way(tmp_path):
    rng = np.random.default_rng(0)
    main, hier = rng.normal(size=(9, 5)), rng.normal(size=(9, 2, 3))
    main[:, 1] = 4.0
    for name, values in (("main", main), ("hier", hier)):
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
    given = scale_given(tmp_path, np.arange(6), np.arange(6, 8), 0.5)
    assert given.meta == {"main_size": 5, "hier_shape": [2, 3]}
    assert given.notes["latents.constant_columns"] == 1.0
    assert given.notes["latents.validation_values"] == 2 * (5 + 2 * 3)
    found = np.load(given.folder / "hier.npy")
    low, high = hier[:6].min(axis=0), hier[:6].max(axis=0)
    np.testing.assert_allclose(found, 0.5 * (2 * (hier - low) / (high - low) - 1), atol=1e-5)
    assert (np.load(given.folder / "main.npy")[:, 1] == 0).all()
    scalers = load_file(given.folder / "scalers.safetensors")
    np.testing.assert_allclose(
        found * scalers["hier.half_range"].numpy() / 0.5 + scalers["hier.center"].numpy(),
        hier,
        atol=1e-5,
    )
    assert scale_given(tmp_path, np.arange(6), np.arange(6, 8), 0.5) == given
    assert scale_given(tmp_path, np.arange(5), np.arange(6, 8), 0.5).folder != given.folder
