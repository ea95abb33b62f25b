"""cluster.yaml is legal for the Ray we pin, and says what its comments claim."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def prepared(cluster: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(cluster)


@pytest.mark.slow
def test_ray_accepts_it_as_ray_up_would(cluster):
    from ray.autoscaler._private.util import validate_config

    config = prepared(cluster)
    validate_config(config)
    # Ray's own defaults would install a nightly Ray.
    assert not any("wheel" in command for command in config["setup_commands"])
    assert config["available_node_types"]["gpu"]["max_workers"] == 8
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


@pytest.mark.slow
def test_a_misspelt_key_would_be_refused(cluster):
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    cluster["idle_timeout_minuets"] = 10
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared(cluster))


@pytest.mark.slow
def test_its_ray_is_the_one_that_is_pinned(cluster):
    import ray

    for image in (cluster["docker"]["head_image"], cluster["docker"]["worker_image"]):
        assert image.split(":")[1].startswith(f"{ray.__version__}-")


def test_every_node_asks_for_the_token_and_has_it(cluster):
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert any(path.endswith("/.ray/auth_token") for path in cluster["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_gpu_nodes_come_and_go(cluster):
    gpu = cluster["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"], cluster["max_workers"]) == (0, 8, 8)
    assert cluster["idle_timeout_minutes"] == 10
