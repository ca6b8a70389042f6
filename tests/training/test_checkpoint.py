"""Checkpoints: restoring returns exactly the saved values, falls back to an older step, or raises an error."""

import errno
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import unflatten_dict
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from smcd_jax.training.checkpoint.array_checksums import _program, array_checksums
from smcd_jax.training.checkpoint.checkpoints import Checkpoints, read_checkpoint
from smcd_jax.training.checkpoint.manifest import named_leaves
from smcd_jax.training.checkpoint.mismatch import config_differences
from smcd_jax.training.checkpoint.orbax_io import reason_of_failed_save
from tests.errors import refused


@pytest.fixture(autouse=True, scope="module")
def short_collections():
    """Excludes existing objects from garbage collection: every read of a damaged checkpoint runs a full collection."""
    gc.freeze()
    yield
    gc.unfreeze()


INLINE = 1024  # largest size in bytes of an array that TensorStore stores in an index rather than a data file
DATA, CONFIG = {"epoch": 1, "position": 48}, {"seed": 7, "model": {"frames": 8, "size": [64, 64]}}


class Moments(NamedTuple):
    count: jax.Array
    mu: dict


def mesh(*shape: int) -> jax.sharding.Mesh:
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def state(step: int, on=(1, 1)) -> tuple[dict, dict]:
    """Returns (params, train) of a step, with several dtypes, sharded over one mesh axis, over both, or not at all."""
    rng, placed_on = np.random.default_rng(step), mesh(*on)

    def put(value, *spec):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, NamedSharding(placed_on, P(*spec)), lambda index: value[index])

    kernel = rng.standard_normal((16, 24)).astype(np.float32)
    gate, bias = np.float32(step), rng.standard_normal(64).astype(np.float32)
    half, mask = kernel.astype(jnp.bfloat16), kernel > 0
    params = {
        "unet": {"conv": {"kernel": put(kernel, "fsdp"), "gate": put(gate)}},
        "position_net": {"bias": put(bias, ("data", "fsdp")), "half": put(half, None, "fsdp")},
    }
    train = {
        "step": put(np.int32(step)),
        "optimizer": (Moments(put(np.int32(step)), jax.tree.map(lambda leaf: leaf * 2, params)), {}),
        "ema": jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), params),
        "key": put(np.arange(2, dtype=np.uint32) + np.uint32(step)),
        "mask": put(mask, "data"),
    }
    return params, train


def abstract(tree, **replaced):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def save(folder, *steps: int, on=(1, 1), **options) -> None:
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        params, train = state(step, on)
        checkpoints.save(step, params=params, train=train, data={**DATA, "step": step}, config=CONFIG)
    checkpoints.close()


def restore(folder, on=(1, 1)):
    params, train = map(abstract, state(0, on))
    return Checkpoints(folder).restore(params=params, train=train)


def assert_is(restored, step: int, on=(1, 1)) -> None:
    assert restored.step == step
    assert restored.data == {**DATA, "step": step}
    assert restored.config == CONFIG
    expected, found = state(step, on), (restored.params, restored.train)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (name, want), got in zip(named_leaves(expected).items(), jax.tree.leaves(found), strict=True):
        assert got.dtype == want.dtype, name
        assert got.sharding.is_equivalent_to(want.sharding, want.ndim), name
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the valid steps 10 and 20."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    save(folder, 10, 20)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "checkpoints"))


class TestChecksums:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
    def test_checksums_are_equal_on_every_mesh_and_layout(self, dtype):
        value = np.random.default_rng(0).integers(0, 2, (8, 16)).astype(jnp.dtype(dtype))
        places = {
            f"{on} {spec}": jax.device_put(value, NamedSharding(mesh(*on), P(*spec)))
            for on in [(1, 1), (8, 1), (4, 2)]
            for spec in [(), (None, "data"), ("fsdp", "data"), (("fsdp", "data"), None)]
        }
        places["one device"] = jax.device_put(value, jax.devices()[3])
        sums = array_checksums(places)
        assert len(set(sums.values())) == 1, sums

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
    def test_every_single_bit_counts_in_both_lanes(self, dtype):
        whole = np.random.default_rng(1).integers(0, 9, (3, 5)).astype(jnp.dtype(dtype))
        bits = np.unpackbits(whole.view(np.uint8))
        flips = bits ^ np.eye(len(bits), dtype=np.uint8)
        flipped = [np.packbits(row).view(whole.dtype).reshape(whole.shape) for row in flips]
        arrays = {str(bit): jax.device_put(value) for bit, value in enumerate([whole, *flipped])}
        first, *others = array_checksums(arrays).values()
        assert not {first[:8]} & {other[:8] for other in others}
        assert not {first[8:]} & {other[8:] for other in others}

    def test_the_order_of_elements_and_the_sign_of_zero_count(self):
        values = {"plain": [0.0, 1, 2], "swapped": [1.0, 0, 2], "signed": [-0.0, 1, 2], "zeros": [0.0, 0, 0]}
        sums = array_checksums({name: jnp.asarray(value, jnp.float32) for name, value in values.items()})
        assert len(set(sums.values())) == len(values)

    def test_the_program_has_no_collective(self):
        array = jax.device_put(np.zeros((8, 16), np.float32), NamedSharding(mesh(4, 2), P("data", "fsdp")))
        text = _program(array.sharding).lower(array).compile().as_text()
        collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
        assert not [name for name in collectives if name in text]

    def test_an_empty_dict_has_no_checksums(self):
        assert array_checksums({}) == {}


class TestSaveAndRestore:
    @pytest.mark.parametrize("to", [(8, 1), (4, 2), (1, 1)])
    def test_restored_arrays_are_equal_bit_for_bit_on_any_mesh(self, tmp_path, to):
        save(tmp_path, 10, on=(2, 4))
        restored = restore(tmp_path, on=to)
        assert_is(restored, 10, on=to)
        assert restored.skipped == ()
        assert isinstance(restored.train["optimizer"][0], Moments)

    def test_arrays_may_be_donated_as_soon_as_save_returns(self, tmp_path):
        forward = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
        size, checkpoints = 1 << 20, Checkpoints(tmp_path, max_to_keep=4)
        tree = forward({"a": jnp.zeros(size), "b": jnp.ones(size)})  # compiled before the first save
        for step in range(1, 5):
            checkpoints.save(step, params=tree, train={"step": jnp.int32(step)}, data={}, config={})
            for _ in range(4):
                tree = forward(tree)
        checkpoints.close()
        for step in range(1, 5):
            _, leaves, _, _ = read_checkpoint(tmp_path, step=step, ema=False)
            np.testing.assert_array_equal(leaves["a"], np.full(size, 4 * step - 3, np.float32))

    def test_a_relative_folder_stays_where_it_was(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        checkpoints = Checkpoints("run/checkpoints")
        monkeypatch.chdir("/")
        params, train = state(10)
        checkpoints.save(10, params=params, train=train, data={**DATA, "step": 10}, config=CONFIG, wait=True)
        checkpoints.close()
        monkeypatch.chdir(tmp_path)
        assert_is(restore("run/checkpoints"), 10)

    def test_the_newest_steps_and_those_of_an_interval_are_kept(self, tmp_path):
        save(tmp_path, *range(10, 90, 10), max_to_keep=2, keep_every=30)
        assert Checkpoints(tmp_path).steps() == [30, 60, 70, 80]

    def test_an_existing_step_is_not_saved_again(self, folder):
        checkpoints = Checkpoints(folder)
        params, train = state(20)
        checkpoints.restore(params=abstract(params), train=abstract(train))
        before = (folder / "20" / "checksums" / "checksums.json").stat().st_mtime_ns
        for _ in range(2):
            checkpoints.save(20, params=params, train=train, data=DATA, config=CONFIG, wait=True)
        checkpoints.close()
        assert (folder / "20" / "checksums" / "checksums.json").stat().st_mtime_ns == before

    def test_a_run_that_has_not_resumed_cannot_save_among_the_steps_of_another(self, folder):
        params, train = state(15)
        with refused("step", path=folder, value=15):
            Checkpoints(folder).save(15, params=params, train=train, data=DATA, config=CONFIG)
        assert Checkpoints(folder).steps() == [10, 20]

    @pytest.mark.parametrize("name", ["max_to_keep", "keep_every"])
    def test_keeping_no_step_is_refused(self, tmp_path, name):
        with refused(name, value=0):
            Checkpoints(tmp_path, **{name: 0})

    def test_without_checkpoints_restore_returns_none(self, tmp_path):
        assert restore(tmp_path / "new") is None
        (tmp_path / "new" / "notes").mkdir()
        assert restore(tmp_path / "new") is None


class TestDamage:
    """After damage to the newest step, the previous step is restored or the values are still correct."""

    def fall_back(self, folder, caplog) -> tuple[int, str]:
        caplog.clear()
        restored = restore(folder)
        assert_is(restored, 10)
        ((step, reason),) = restored.skipped
        (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("smcd_jax")]
        assert message.startswith(f"{folder}: step {step} is damaged ({reason}); resuming from step 10.")
        assert "\n" not in message
        return step, reason

    @pytest.mark.parametrize("item", ["params", "train"])
    def test_a_flipped_bit_of_any_array_is_found_and_the_array_named(self, folder, caplog, item):
        """Orbax itself writes the changed array, so that only this project's checksums can find it."""
        saved = named_leaves(dict(zip(("params", "train"), state(20), strict=True))[item])
        for name, leaf in saved.items():
            content = bytearray(np.asarray(leaf).tobytes())
            content[len(content) // 2] ^= 1
            flipped = np.frombuffer(bytes(content), leaf.dtype).reshape(leaf.shape)
            tree = unflatten_dict({**saved, name: jax.device_put(flipped)}, sep="/")
            ocp.PyTreeCheckpointer(use_zarr3=False).save(folder / "20" / item, tree, force=True)
            assert self.fall_back(folder, caplog) == (20, f"array {item}/{name} differs from its checksum")
            (folder / "20.damaged-1").rename(folder / "20")

    @pytest.mark.parametrize("item", ["params", "train"])
    def test_a_flipped_bit_in_a_data_file_is_found_and_the_array_named(self, folder, caplog, item):
        saved = dict(zip(("params", "train"), state(20), strict=True))[item]
        large = {name: np.asarray(leaf) for name, leaf in named_leaves(saved).items() if leaf.nbytes > INLINE}
        assert large
        for name, leaf in large.items():
            files = [path for path in (folder / "20" / item).rglob("d/*") if leaf.tobytes() in path.read_bytes()]
            assert files
            before = [file.read_bytes() for file in files]
            for file, content in zip(files, before, strict=True):
                flip(file, content.index(leaf.tobytes()) + leaf.nbytes // 2)
            assert self.fall_back(folder, caplog) == (20, f"array {item}/{name} differs from its checksum")
            (folder / "20.damaged-1").rename(folder / "20")
            for file, content in zip(files, before, strict=True):
                file.write_bytes(content)

    @pytest.mark.parametrize("item", ["params", "train", "data", "config", "checksums", "."])
    def test_a_flipped_bit_anywhere_never_changes_a_value(self, folder, tmp_path, item):
        files = sorted(path for path in (folder / "20" / item).glob("*" if item == "." else "**/*") if path.is_file())
        outcomes = {10: 0, 20: 0}
        for file in files:
            content = file.read_bytes()
            for at in sorted({len(content) // 3, len(content) - 1} - {-1}):
                if not content:
                    continue
                flip(file, at)
                outcomes[self.restored_step(folder)] += 1
                file.write_bytes(content)
        assert files
        assert outcomes[10] > 0 or item == "."  # "." holds Orbax's own files, which are not read

    @pytest.mark.parametrize("cut", ["deleted", "emptied", "halved"])
    def test_a_truncated_or_missing_file_never_changes_a_value(self, folder, cut):
        fell_back = set()
        for file in sorted(path for path in (folder / "20").rglob("*") if path.is_file()):
            content, name = file.read_bytes(), str(file.relative_to(folder / "20"))
            file.unlink() if cut == "deleted" else file.write_bytes(content[: len(content) // 2 * (cut == "halved")])
            if self.restored_step(folder) == 10:
                fell_back.add(name)
            file.write_bytes(content)
        needed = {"data/data.json", "config/config.json", "checksums/checksums.json"}
        needed |= {f"{item}/{name}" for item in ("params", "train") for name in ("manifest.ocdbt",)}
        assert fell_back >= needed
        assert {"params", "train"} <= {name.split("/")[0] for name in fell_back if "/d/" in name}

    def restored_step(self, folder) -> int:
        restored = restore(folder)
        assert_is(restored, restored.step)
        if restored.step == 10:
            (folder / "20.damaged-1").rename(folder / "20")
        return restored.step

    @pytest.mark.parametrize("item", ["params", "train", "data", "config", "checksums"])
    def test_a_missing_item_is_named(self, folder, caplog, item):
        shutil.rmtree(folder / "20" / item)
        assert self.fall_back(folder, caplog) == (20, f"{item} missing")

    def test_an_empty_numeric_folder_is_skipped_and_its_number_can_be_saved(self, folder, caplog):
        (folder / "30").mkdir()
        params, train = state(30)
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore(params=abstract(params), train=abstract(train))
        assert_is(restored, 20)
        assert restored.skipped == ((30, "params, train, data, config, checksums missing"),)
        assert (folder / "30.damaged-1").is_dir()
        checkpoints.save(30, params=params, train=train, data={**DATA, "step": 30}, config=CONFIG)
        checkpoints.close()
        assert checkpoints.steps() == [10, 20, 30]
        assert_is(restore(folder), 30)

    def test_a_copy_under_another_number_is_skipped(self, folder):
        shutil.copytree(folder / "10", folder / "30")
        restored = restore(folder)
        assert_is(restored, 20)
        assert restored.skipped == ((30, "it contains step 10"),)

    def test_an_older_damaged_step_does_no_harm(self, folder):
        (folder / "5").mkdir()
        shutil.rmtree(folder / "10" / "train")
        assert_is(restore(folder), 20)
        save(folder, 30, max_to_keep=2)
        assert Checkpoints(folder).steps() == [20, 30]

    def test_a_step_damaged_twice_gets_a_further_name(self, folder):
        for number in (1, 2):
            (folder / "30").mkdir()
            assert_is(restore(folder), 20)
            assert (folder / f"30.damaged-{number}").is_dir()

    def test_stray_files_and_folders_stay_and_change_nothing(self, folder):
        strays = ["007", "-5", "1e3", "best", "20 copy"]
        for name in strays:
            (folder / name).mkdir()
        (folder / "notes.txt").write_text("ours")
        (folder / "99").write_text("a file, not a folder")
        assert_is(restore(folder), 20)
        save(folder, 30, 40, 50, 60, max_to_keep=2)
        assert Checkpoints(folder).steps() == [50, 60]
        assert_is(restore(folder), 60)
        assert {entry.name for entry in folder.iterdir()} >= {*strays, "notes.txt", "99"}

    def test_remains_of_a_killed_save_are_ignored_and_removed(self, folder):
        (folder / "30.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
        assert_is(restore(folder), 20)
        save(folder, 30)
        assert sorted(entry.name for entry in folder.iterdir()) == ["10", "20", "30"]

    def test_only_damaged_steps_are_an_error_each_time_and_nothing_is_renamed(self, folder):
        for step in (10, 20):
            (folder / str(step) / "data" / "data.json").unlink()
        for _ in range(2):
            with refused(path=folder, value=[20, 10]) as record:
                restore(folder)
            assert "step 20: data/data.json is missing" in str(record.value)
        assert Checkpoints(folder).steps() == [10, 20]

    def test_only_renamed_steps_are_an_error_too(self, folder):
        for step in (10, 20):
            (folder / str(step)).rename(folder / f"{step}.damaged-1")
        with refused(path=folder, value=None):
            restore(folder)

    def test_changed_data_and_config_are_damage(self, folder, caplog):
        for item, key in (("data", "position"), ("config", "seed")):
            path = folder / "20" / item / f"{item}.json"
            before = path.read_text()
            path.write_text(json.dumps({**json.loads(before), key: 0}))
            assert self.fall_back(folder, caplog) == (20, f"{item}.json differs from its checksum")
            (folder / "20.damaged-1").rename(folder / "20")
            path.write_text(before)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << (at % 8)
    file.write_bytes(content)


class TestRefusals:
    def test_other_arrays_are_refused_with_a_table_and_no_older_step_is_taken(self, folder):
        params, train = map(abstract, state(0))
        kernel = params["unet"]["conv"].pop("kernel")
        params["unet"]["conv"]["weight"] = kernel
        bias = params["position_net"]["bias"]
        params["position_net"]["bias"] = jax.ShapeDtypeStruct((32,), jnp.float32, sharding=bias.sharding)
        train["step"] = jax.ShapeDtypeStruct((), jnp.uint32, sharding=train["step"].sharding)
        names = ["params/position_net/bias", "params/unet/conv/kernel", "params/unet/conv/weight", "train/step"]
        with refused(path=folder / "20", value=names) as record:
            Checkpoints(folder).restore(params=params, train=train)
        header, *rows = record.value.table.split("\n")
        assert header.split() == ["array", "in", "checkpoint", "in", "this", "run"]
        assert [" ".join(row.split()) for row in rows] == [
            "params/position_net/bias float32 [64] float32 [32]",
            "params/unet/conv/kernel float32 [16, 24] -",
            "params/unet/conv/weight - float32 [16, 24]",
            "train/step int32 [] uint32 []",
        ]
        assert Checkpoints(folder).steps() == [10, 20]

    def test_a_long_table_is_cut_and_the_rest_counted(self, folder):
        params, train = map(abstract, state(0))
        with refused(path=folder / "20") as record:
            Checkpoints(folder).restore(params=params, train={"step": train["step"]})
        *rows, last = record.value.table.split("\n")
        assert len(rows) == 11
        assert len(record.value.value) == 11
        assert last == "  and 1 more"

    def test_another_config_is_refused_with_a_table(self, folder):
        params, train = map(abstract, state(0))
        wanted = {"seed": 8, "model": {"frames": 8, "size": (64, 64)}, "log_every": 5}
        with refused(path=folder / "20", value=["log_every", "seed"]) as record:
            Checkpoints(folder).restore(params=params, train=train, config=wanted)
        assert [row.split() for row in record.value.table.split("\n")[1:]] == [
            ["log_every", "None", "5"],
            ["seed", "7", "8"],
        ]
        checkpoints = Checkpoints(folder)
        assert checkpoints.restore(params=params, train=train, config=wanted, ignore=("seed", "log_every")).step == 20

    def test_config_differences_are_listed_by_dotted_key(self):
        old = {"a": {"b": 1, "c": [1, [2]]}, "d": {}, "e": None}
        assert config_differences(old, {"a": {"b": 1, "c": (1, (2,))}, "d": {}, "e": None}) == []
        new = {"a": {"b": 2, "c": [1]}, "d": {"x": 1}}
        assert config_differences(old, new) == [
            ("a.b", 1, 2),
            ("a.c", [1, [2]], [1]),
            ("d", {}, None),
            ("d.x", None, 1),
            ("e", None, None),
        ]
        assert config_differences(old, new, ignore=("a", "d", "e")) == []

    def test_another_format_version_is_refused(self, folder):
        from smcd_jax.training.checkpoint.manifest import digest

        path = folder / "20" / "checksums" / "checksums.json"
        content = {**json.loads(path.read_text()), "version": 2}
        content.pop("digest")
        path.write_text(json.dumps({**content, "digest": digest(content)}))
        with refused(path=folder / "20", value=2):
            restore(folder)

    def test_too_little_memory_is_not_damage(self, folder, monkeypatch):
        def too_large(*_, **__):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwhile allocating")

        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", too_large)
        with refused(path=folder / "20" / "params"):
            restore(folder)
        assert Checkpoints(folder).steps() == [10, 20]


class TestReadForExport:
    def test_reading_gives_the_average_or_the_parameters_by_path(self, folder):
        for ema, tree in ((True, state(20)[1]["ema"]), (False, state(20)[0])):
            step, leaves, data, config = read_checkpoint(folder, ema=ema)
            assert (step, data, config) == (20, {**DATA, "step": 20}, CONFIG)
            assert leaves.keys() == named_leaves(tree).keys()
            for name, leaf in named_leaves(tree).items():
                assert leaves[name].dtype == leaf.dtype
                assert leaves[name].tobytes() == np.asarray(leaf).tobytes()

    def test_reading_without_an_average_gives_the_parameters(self, tmp_path):
        params, train = state(10)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(10, params=params, train={**train, "ema": {}}, data={}, config={}, wait=True)
        checkpoints.close()
        _, leaves, _, _ = read_checkpoint(tmp_path)
        assert leaves.keys() == named_leaves(params).keys()

    def test_damage_is_handled_as_in_restore_but_nothing_is_renamed(self, folder, caplog):
        (folder / "20" / "config" / "config.json").unlink()
        assert read_checkpoint(folder)[0] == 10
        assert "step 20 is damaged (config/config.json is missing); reading step 10" in caplog.text
        with refused("step", path=folder, value=20):
            read_checkpoint(folder, step=20)
        assert Checkpoints(folder).steps() == [10, 20]

    def test_a_missing_step_or_folder_is_refused(self, folder, tmp_path):
        with refused("step", path=folder, value=15):
            read_checkpoint(folder, step=15)
        with refused("step", path=tmp_path / "missing", value=None):
            read_checkpoint(tmp_path / "missing")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def full_later(*_, **__):
    full()


class TestFailedSave:
    def begin(self, folder, step) -> Checkpoints:
        checkpoints = Checkpoints(folder, max_to_keep=1)
        params, train = state(step)
        checkpoints.restore(params=abstract(params), train=abstract(train))
        checkpoints.save(step, params=params, train=train, data={**DATA, "step": step}, config=CONFIG)
        return checkpoints

    def until_checked(self, checkpoints) -> None:
        while True:
            checkpoints.check()

    @pytest.mark.parametrize("fails", ["while writing", "at the end"])
    def test_a_full_disk_is_reported_once_by_check_and_the_previous_step_stays(self, folder, monkeypatch, fails):
        room, finalize = [False], ocp.PyTreeCheckpointHandler.finalize
        if fails == "while writing":
            write = ocp.JsonCheckpointHandler._save_fn
            monkeypatch.setattr(
                ocp.JsonCheckpointHandler, "_save_fn", lambda *args: write(*args) if room[0] else full_later()
            )
        else:
            monkeypatch.setattr(
                ocp.PyTreeCheckpointHandler, "finalize", lambda *args: finalize(*args) if room[0] else full()
            )
        checkpoints = self.begin(folder, 30)
        with refused("step", path=folder, value=30) as record:
            self.until_checked(checkpoints)
        room[0] = True
        assert f"step 30 could not be saved ({os.strerror(errno.ENOSPC)}); the newest" in str(record.value)
        checkpoints.check()
        assert checkpoints.steps() == [10, 20]  # both are kept although max_to_keep is 1
        assert_is(restore(folder), 20)
        params, train = state(30)
        checkpoints.save(30, params=params, train=train, data={**DATA, "step": 30}, config=CONFIG)
        checkpoints.close()  # the same step can be saved once there is space again
        assert_is(restore(folder), 30)

    def test_a_file_that_is_missing_after_a_failure_is_not_the_reason(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "manifest.ocdbt")
        assert reason_of_failed_save([missing, full]) == os.strerror(errno.ENOSPC)
        assert reason_of_failed_save([full, missing]) == os.strerror(errno.ENOSPC)
        assert reason_of_failed_save([missing]) == os.strerror(errno.ENOENT)

    def test_a_failed_save_is_reported_by_the_next_save_and_by_close(self, folder, monkeypatch):
        monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", full_later)
        params, train = state(40)
        save_next = {"params": params, "train": train, "data": DATA, "config": CONFIG}
        checkpoints = self.begin(folder, 30)
        with refused("step", path=folder, value=30):
            checkpoints.save(40, **save_next)
        checkpoints.save(40, **save_next)
        with refused("step", path=folder, value=40):
            checkpoints.close()

    def test_a_folder_below_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with refused(path=tmp_path / "file" / "checkpoints"):
            Checkpoints(tmp_path / "file" / "checkpoints")

    def test_a_folder_replaced_by_a_file_fails_the_save(self, folder):
        checkpoints = Checkpoints(folder)
        params, train = state(30)
        shutil.rmtree(folder)
        folder.write_text("")
        with refused("step", path=folder, value=30):
            checkpoints.save(30, params=params, train=train, data=DATA, config=CONFIG, wait=True)


CHILD = """
import os, resource, sys
import jax
from smcd_jax.errors import SMCDError
from tests.training.test_checkpoint import *
folder = Path(sys.argv[1])
"""


@pytest.fixture
def child():
    """Returns a function that runs code in a subprocess, given a folder; subprocesses are killed when the test ends."""
    started = []

    def start(folder, body: str, **variables: str) -> subprocess.Popen:
        environment = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", CHILD + body, str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def last_line(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip().split("\n")[-1]


class TestInAnotherProcess:
    def test_a_file_that_cannot_grow_fails_the_save_and_the_previous_step_stays(self, folder, child):
        body = """
checkpoints = Checkpoints(folder)
size = 1 << 16
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # larger writes fail, as on a full disk
leaf = jnp.arange(size, dtype=jnp.float32)
checkpoints.save(30, params={"a": leaf}, train={"b": leaf}, data={}, config={})
while True:
    try:
        checkpoints.check()
    except SMCDError as error:
        print(json.dumps([error.argument, error.path, error.value]))
        break
"""
        assert json.loads(last_line(child(folder, body))) == ["step", str(folder), 30]
        assert Checkpoints(folder).steps() == [10, 20]
        assert_is(restore(folder), 20)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
    def test_a_folder_without_permissions_is_refused(self, whole, child):
        body = """
import grp  # imported now because the other user cannot read the packages
save(folder / "elsewhere", 5)
shutil.rmtree(folder / "elsewhere")
params, train = state(30)
for path in (folder, folder.parent):
    path.chmod(0o555)
for path in (folder / "20").rglob("*"):
    path.chmod(0o700)
os.setuid(65534)
paths = []
for call in (
    lambda: Checkpoints(folder / "new"),
    lambda: Checkpoints(folder).save(30, params=params, train=train, data={}, config={}, wait=True),
    lambda: restore(folder),
):
    try:
        call()
    except SMCDError as error:
        paths.append(error.path)
print(json.dumps(paths))
"""
        with tempfile.TemporaryDirectory() as parent:  # pytest's own folders are not accessible to other users
            folder = Path(shutil.copytree(whole, Path(parent) / "checkpoints"))
            new, save, read = json.loads(last_line(child(folder, body)))
            assert (new, save) == (str(folder / "new"), str(folder))
            assert Path(read).is_relative_to(folder / "20")
            assert Checkpoints(folder).steps() == [10, 20]

    def test_two_processes_save_and_restore_and_agree_on_what_is_damaged(self, tmp_path, child):
        body = """
rank, port = int(os.environ["RANK"]), os.environ["PORT"]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
assert jax.device_count() == 16
if os.environ["FAILS_ON"] == str(rank):
    import smcd_jax.training.checkpoint.checkpoints as module
    from smcd_jax.training.checkpoint.manifest import DamagedStep
    read_arrays = module.read_arrays

    def fails(item, wanted):
        if item == folder / "20" / "train":
            raise DamagedStep("unreadable here")
        return read_arrays(item, wanted)

    module.read_arrays = fails
restored = restore(folder, on=(2, 8))
begun = restored.step if restored else 0
save(folder, begun + 10, begun + 20, on=(2, 8), max_to_keep=9)
print("resumed from", begun, *([restored.skipped] if restored else []))
"""
        for fails_on, expected in (
            ("", "resumed from 0"),
            ("1", "resumed from 10 ((20, 'unreadable here'),)"),
        ):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            both = [child(tmp_path, body, RANK=str(rank), PORT=port, FAILS_ON=fails_on) for rank in range(2)]
            assert [last_line(process) for process in both] == [expected] * 2
        assert Checkpoints(tmp_path).steps() == [10, 20, 30]
        assert_is(restore(tmp_path, on=(4, 2)), 30, on=(4, 2))

    @pytest.mark.parametrize(
        "delay", [0.0, 0.05, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.02, None))]
    )
    def test_a_process_killed_while_saving_resumes_from_a_complete_step(self, tmp_path, child, delay):
        body = """
checkpoints, step = Checkpoints(folder, max_to_keep=2), 0
restored = restore(folder)
step = restored.step if restored else 0
while True:
    step += 1
    params, train = state(step)
    checkpoints.save(step, params=params, train=train, data={**DATA, "step": step}, config=CONFIG)
    print(step, flush=True)
"""
        delays = np.random.default_rng(0).uniform(0, 0.3, 20) if delay is None else [delay]
        last = 0
        for seconds in delays:
            process = child(tmp_path, body)
            for _ in range(4):
                begun = int(process.stdout.readline())
            time.sleep(seconds)
            process.kill()
            begun = max([begun, *map(int, process.communicate()[0].split())])
            restored = restore(tmp_path)
            assert_is(restored, restored.step)
            assert restored.skipped == ()
            assert max(last, begun - 1) <= restored.step <= begun + 1  # only one save runs in the background at a time
            last = restored.step
