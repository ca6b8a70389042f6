"""`smcd verify`: findings for the shipped model, for damaged and untrained weights, and for reference code."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.conversion.untrained import write_untrained
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.conversion import FamilyConversion, ReferenceNetwork, get_conversion
from smcd_jax.nn.networks import abstract_params
from smcd_jax.pipeline import reference, verify
from smcd_jax.pipeline.verify import BROKEN, OK, WARNING, array_statistics, looks_random
from smcd_jax.weights.conversion_table import LINEAR, weighted
from tests.errors import refused
from tests.models.toy_family import ToyConfig

TINY = Path(str(resources.files("smcd_jax"))) / "assets" / "models" / "tiny"


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_fresh_weights_look_random_and_heavy_tails_do_not(distribution):
    rng, shape = np.random.default_rng(0), (256, 512)
    fresh = rng.standard_normal(shape) if distribution == "normal" else rng.uniform(-(3**0.5), 3**0.5, shape)
    trained = fresh * np.exp(0.7 * rng.standard_normal((1, 512)))
    found = array_statistics({"fresh": fresh / 16, "trained": trained / 16, "bias": np.zeros(512)})
    assert looks_random(found["fresh"])
    assert not looks_random(found["trained"])
    assert not looks_random(found["bias"])


def statistics_of(leaves) -> verify.Finding:
    return verify._component("unet", leaves, leaves)


def test_arrays_that_are_not_finite_zero_or_huge_are_found():
    good = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8
    assert statistics_of({"a/kernel": good * np.linspace(0.1, 3, 64)}).state == OK
    assert statistics_of({"a/kernel": good}).state == WARNING  # looks like random initial values
    assert statistics_of({"a/kernel": np.where(good > 0.4, np.nan, good)}).state == BROKEN
    for wrong in (0 * good, 1e4 * good):
        finding = statistics_of({"a/kernel": wrong, "b/kernel": good * np.linspace(0.1, 3, 64)})
        assert finding.state == WARNING
        assert "a/kernel" in finding.detail


def test_a_damaged_folder_is_broken_by_component_and_no_network_runs(tmp_path, capsys):
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    file = max((folder / "params" / "unet").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert main(["verify", str(folder), "--json", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    states = {finding["subject"]: finding["state"] for finding in report["findings"]}
    assert (states["unet"], states["autoencoder"], states["schedule"]) == (BROKEN, OK, OK)
    assert "clip" not in states
    assert len(capsys.readouterr().out.splitlines()) < 25


@pytest.mark.slow
def test_the_shipped_model_passes_and_its_report_fits_one_screen(tmp_path, capsys):
    assert main(["verify", "tiny", "--steps", "1", "--json", str(tmp_path / "report.json")]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 25
    report = json.loads((tmp_path / "report.json").read_text())
    findings = {finding["subject"]: finding for finding in report["findings"]}
    assert BROKEN not in {finding["state"] for finding in findings.values()}
    errors = [finding["values"]["error"] for name, finding in findings.items() if "timestep" in name]
    assert len(errors) == 2
    assert max(errors) < 0.3
    assert findings["autoencoder: round trip"]["values"]["psnr"] > 20
    assert report["hash"] == ModelFolder("tiny").digest


def test_a_family_of_another_package_is_verified_too(tmp_path):
    folder = write_untrained(tmp_path / "toy", ToyConfig(), seed=0, dtype=np.float32, overwrite=False)
    findings = {finding.subject: finding.state for finding in verify.verify(folder, steps=1)}
    assert findings["net: timestep 300"] == WARNING, findings  # the network is untrained
    assert findings["clip"] == OK


# --- compared with reference code ------------------------------------------------------------------------------------

CODE = """
import torch

class Doubler(torch.nn.Module):
    def __init__(self, width, scale=SCALE):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.layer(x)
"""
X = np.arange(8, dtype=np.float32).reshape(2, 4)
LEAVES = {"layer/kernel": np.eye(4, dtype=np.float32) * 3, "layer/bias": np.ones(4, np.float32)}


def doubler(class_name: str) -> ReferenceNetwork:
    return ReferenceNetwork(
        component="a",
        class_name=class_name,
        arguments={"width": 4, "unknown": 1},
        method="forward",
        inputs={"x": X},
        rows=weighted("layer", "layer", LINEAR),
        ours=lambda params: np.asarray(2 * (jnp.asarray(X) @ params["layer"]["kernel"] + params["layer"]["bias"])),
    )


@pytest.mark.parametrize(("scale", "name", "state"), [(2, "Doubler", OK), (3, "Doubler", BROKEN), (2, "No", WARNING)])
def test_a_network_is_compared_with_the_class_of_the_checkout(tmp_path, scale, name, state):
    pytest.importorskip("torch")
    package = tmp_path / f"code_{scale}_{name}"
    package.mkdir()
    (package / f"net_{scale}_{name}.py").write_text(CODE.replace("SCALE", str(scale)))
    finding = reference._compared(doubler(name), LEAVES, package)
    assert finding.state == state, finding.detail


def test_what_the_reference_needs_is_refused_by_name(tmp_path):
    with refused("reference", path=tmp_path / "none"):
        list(reference.compare_with_reference(ModelFolder("tiny"), tmp_path / "none"))


def test_the_networks_of_smcd_have_their_names_and_inputs():
    folder = ModelFolder("tiny")
    conversion: FamilyConversion = get_conversion(folder.family)
    found = {network.component: network for network in conversion.reference_networks(folder.config)}
    assert found.keys() == {"autoencoder", "unet"}
    config = folder.config.unet
    assert found["unet"].arguments["dim"] == config.base_channels
    assert found["unet"].inputs["x"].shape[1] == config.input_channels
    decoded = found["autoencoder"].ours(folder.params("autoencoder", dtype=np.float32))
    side = 8 * folder.config.autoencoder.downscale
    assert decoded.shape == (1, 3, side, side)
    assert np.isfinite(decoded).all()
    assert abstract_params(config).keys()
