"""Low-rank adapters: trained alone, saved as a small file, applied when a model is loaded, and merged."""

import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.low_rank import Adapter, load_adapter, low_rank_shapes, save_adapter
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.tracks import BoxTracks
from smcd_jax.training.selection import join
from tests.cli.command_errors import failure
from tests.errors import refused
from tests.training.training_run import train_here, training_files

pytestmark = pytest.mark.usefixtures("shared_programs")

TRACKS = BoxTracks(np.tile([[0.1, 0.1, 0.6, 0.6]], (2, 1, 1)), np.ones((2, 1), bool), ("a ball",))
PICTURE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """Workdir, adapter file and merged model folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("low_rank")
    more = ("low_rank.rank=2", "trainable=('low_rank/.*',)", "run.steps=4", "optimizer.learning_rate=0.05")
    assert train_here(files, folder / "run", *more, preset="clips") == 0
    export = ["export", "--workdir", str(folder / "run"), "--no_ema"]
    assert main([*export, "--adapter", "--output", str(folder / "mine.safetensors")]) in (0, None)
    assert main([*export, "--output", str(folder / "merged")]) in (0, None)
    return folder


def latents(model, **adapter):
    pipeline = VideoPipeline.from_pretrained(model, **adapter)
    options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 2.0}
    return pipeline(PICTURE, "a ball", tracks=TRACKS, **options).latents


def test_only_the_adapter_is_trained_and_its_file_is_small(files, run):
    adapter = load_adapter(run / "mine.safetensors")
    assert all(path.startswith("unet/") and path.endswith(("/down", "/up")) for path in adapter.leaves)
    assert {min(leaf.shape) for leaf in adapter.leaves.values()} == {2}
    assert any(np.abs(leaf).max() > 0 for path, leaf in adapter.leaves.items() if path.endswith("/up"))
    assert adapter.base == ModelFolder(files.model).digest
    arrays = sum(leaf.nbytes for leaf in ModelFolder(files.model).leaves("unet").values())
    assert (run / "mine.safetensors").stat().st_size < arrays / 4


def test_an_applied_and_a_merged_adapter_make_the_same_frames(files, run):
    base, merged = latents(files.model), latents(run / "merged")
    applied = latents(files.model, adapter=run / "mine.safetensors")
    np.testing.assert_allclose(applied, merged, atol=1e-5 * np.abs(merged).max())
    assert np.abs(merged - base).max() > 1e-3 * np.abs(base).max()
    off = latents(files.model, adapter=run / "mine.safetensors", adapter_scale=0.0)
    np.testing.assert_array_equal(off, base)


def test_an_adapter_of_another_model_is_refused(run, tmp_path):
    with refused("adapter", path=str(run / "mine.safetensors")):
        VideoPipeline.from_pretrained("tiny", adapter=run / "mine.safetensors")
    error = failure(["animate", "--adapter", str(tmp_path / "none.safetensors"), "--image", "x.png"])
    assert error.argument == "adapter"
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with refused("adapter", path=str(tmp_path / "other.safetensors")):
        load_adapter(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("path", "shape", "rank", "argument"),
    [
        ("unet/conv/kernel", (3, 3, 4, 4), 2, "low_rank.kernels"),
        ("unet/dense/bias", (4,), 2, "low_rank.kernels"),
        ("unet/dense/kernel", (4, 8), 5, "low_rank.rank"),
    ],
)
def test_only_linear_layers_of_sufficient_width_are_adapted(path, shape, rank, argument):
    with refused(argument):
        low_rank_shapes({path: np.zeros(shape)}, rank)


def test_joined_parameters_contain_the_update(tmp_path):
    kernel, down, up = np.eye(3, dtype=np.float32), np.ones((3, 1), np.float32), np.ones((1, 3), np.float32)
    tree = {"low_rank": {"net": {"dense": {"kernel": {"down": down, "up": up}}}}}
    whole = join(tree, {"net": {"dense": {"kernel": kernel, "bias": up}}})
    assert set(whole) == {"net"}
    np.testing.assert_array_equal(whole["net"]["dense"]["kernel"], kernel + 1)
    adapter = Adapter({"net/dense/kernel/down": down, "net/dense/kernel/up": up}, "digest", "note")
    save_adapter(tmp_path / "a.safetensors", adapter)
    back = load_adapter(tmp_path / "a.safetensors")
    assert (back.base, back.note, set(back.leaves)) == ("digest", "note", set(adapter.leaves))
