"""Plans of a run: topologies by name, communication read from the compiled program's text, and the cache on disk."""

import collections
import dataclasses
import importlib.util
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from smcd_jax.cli import main
from smcd_jax.errors import SMCDError
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime import hlo_text, topology
from smcd_jax.runtime.hlo_collectives import Collective, collective_report
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.runtime.topology import check_topology_name, find_topology
from smcd_jax.training.config import load_config
from smcd_jax.training.plan import plan as plan_module
from smcd_jax.training.plan import plan_cache
from smcd_jax.training.plan.compiled import MemoryUse, ProgramPlan, Setting, needed_by
from smcd_jax.training.plan.plan import Planner, parameter_lines
from smcd_jax.training.state import abstract
from smcd_jax.training.step import TrainProgram
from tests.errors import refused

jax.devices()  # starts JAX with eight devices, before a topology requests fewer
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra tpu)")
CONFIG = "tests/training/training_run.py:pictures"
OVERRIDES = ("mesh.fsdp=8", "run.sample_every=6", "run.sample_steps=2")
GIB = 2**30


def small_config(*overrides: str):
    return load_config(CONFIG, (*OVERRIDES, *overrides))


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Turns off strict promotion, because optax raises float decay rates to the power of integer step counts."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory, promotion):
    """Returns a folder of cached plans of the very small run on cpu:8, and the plans themselves."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", str(folder))
        planner = Planner(small_config(), "cpu:8")
        return folder, planner.plan("step"), planner.plan("sampler")


@pytest.fixture
def kept(store, monkeypatch):
    """Returns the plans of `store`; compiling anything fails the test."""
    monkeypatch.setenv("SMCD_CACHE_DIR", str(store[0]))
    monkeypatch.setattr(plan_module, "compile_program", lambda *_, **__: pytest.fail("compiled again"))
    return store


class TestTopology:
    @pytest.mark.parametrize(
        "name",
        [
            "v9:2x2",
            "",
            "v5e",
            "v5e:2x2x2",
            "v5p:2x4",
            "v6e:0x4",
            "v4:8",
            "cpu:0",
            "cpu:many",
            "h100",
            "h100:9",
            "h100:2x2",
        ],
    )
    def test_a_malformed_name_is_refused(self, name):
        with refused("topology", value=name):
            check_topology_name(name)

    def test_fake_cpu_devices_share_main_memory(self):
        found = find_topology("cpu:4")
        assert (len(found.devices), found.platform, found.usable_bytes) == (4, "cpu", None)

    def test_more_cpu_devices_than_jax_runs_with(self):
        with refused("topology", value="cpu:512"):
            find_topology("cpu:512")

    def test_local_devices_are_the_topology_local(self):
        assert find_topology("local").devices == tuple(jax.devices())

    def test_without_libtpu_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: None)
        with refused("topology", value="v5e:2x4"):
            find_topology("v5e:2x4")

    def test_without_the_cuda_plugin_gpus_are_refused(self, monkeypatch):
        monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: None)
        with refused("topology", value="h100:8"):
            find_topology("h100:8")

    @pytest.mark.parametrize("count", [1, 8])
    def test_gpus_of_one_host_need_no_gpu(self, count):
        if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
            pytest.skip("needs JAX's CUDA plugin")
        found = find_topology(f"h100:{count}")
        assert (len(found.devices), found.platform) == (count, "gpu")
        assert found.usable_bytes == int(84942979072 * 0.75)

    @needs_libtpu
    @pytest.mark.parametrize(
        ("name", "count", "gibibytes"),
        [("v5e:2x4", 8, 15.75), ("v5e:1x1", 1, 15.75), ("v5p:2x2x2", 8, 95.74), ("v4:2x2x1", 4, 30.75)],
    )
    def test_a_device_is_a_chip_of_a_slice(self, name, count, gibibytes):
        found = find_topology(name)
        assert (len(found.devices), found.platform) == (count, "tpu")
        assert found.usable_bytes == pytest.approx(gibibytes * GIB, rel=1e-6)

    @needs_libtpu
    def test_a_slice_that_cannot_be_cut_is_an_error(self):
        with refused("topology", value="v5e:2x3"):
            find_topology("v5e:2x3")


HLO = """\
HloModule jit_step, is_scheduled=true, num_partitions=8, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %moved = f32[4]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[], f32[4]) tuple(%p, %moved)
}

%cond (p: (s32[], f32[4])) -> pred[] {
  ROOT %yes = pred[] constant(true)
}

%ring_body (q: (f32[6], u32[])) -> (f32[6], u32[]) {
  %q = (f32[6]{0}, u32[]) parameter(0)
  %two = u32[] constant(2)
  %at = u32[]{:T(128)} get-tuple-element(%q), index=1
  %next = u32[]{:T(128)S(6)} add(%at, %two), metadata={op_name="f(x)"}
  %y = f32[6]{0} get-tuple-element(%q), index=0
  %go = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%y), source_target_pairs={{0,1}}
  %gone = f32[6]{0} collective-permute-done(%go)
  ROOT %u = (f32[6], u32[]) tuple(%gone, /*index=1*/%next)
}

%ring_cond (q.1: (f32[6], u32[])) -> pred[] {
  %q.1 = (f32[6]{0}, u32[]) parameter(0)
  %here = u32[] get-tuple-element(%q.1), index=1
  %stop = u32[] constant(7)
  ROOT %less = pred[] compare(%here, %stop), direction=LT
}

ENTRY %main (x: f32[8], /*index=1*/y: f32[6]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %zero = u32[] constant(0)
  %start = u32[] copy(%zero)
  %gs = (bf16[5,8]{1,0:T(8,128)(2,1)}, bf16[40,8]{1,0:T(8,128)(2,1)}) all-gather-start(%x.1), replica_groups=[1,8]<=[8]
  %gd = bf16[40,8]{1,0:T(8,128)(2,1)} all-gather-done(%gs)
  %ar = (f32[10]{0}, /*index=1*/f32[2,5]{1,0}) all-reduce(%x.1, %x.1), replica_groups={{0,1},{2,3}}, to_apply=%add
  %rs = f32[3]{0} reduce-scatter(%x.1), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, to_apply=%add
  %alone = f32[9]{0} all-reduce(%x.1), replica_groups={{0},{1}}, to_apply=%add
  %aa = (f32[2]{0}, f32[2]{0}) all-to-all(%x.1, %x.1), replica_groups={}
  %in = (s32[], f32[4]{0}) tuple(%zero, %x.1)
  %w = (s32[], f32[4]{0}) while(%in), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %v = (s32[], f32[4]{0}) while(%in), condition=%cond, body=%body
  %ring_in = (f32[6]{0}, u32[]) tuple(%x.1, %start)
  %r = (f32[6]{0}, u32[]) while(%ring_in), condition=%ring_cond, body=%ring_body
  ROOT %out = f32[8]{0} copy(%x.1)
}
"""


class TestCollectives:
    def test_kinds_groups_and_loops_of_a_text(self):
        report = collective_report(HLO)
        assert report.by_kind == {
            "all-gather": Collective(1, 640, 560),  # 40 x 8 bfloat16, of which 7/8 are sent
            "all-reduce": Collective(1, 80, 80),  # 20 float32 in pairs, sent 2 x 1/2 times; one device sends nothing
            "reduce-scatter": Collective(1, 48, 36),  # 12 float32 in groups of 4, of which 3/4 are sent
            "all-to-all": Collective(1, 16, 14),
            # 5 stated iterations, 1 assumed where the number is unknown, and 4 where a counter rises to 7 in steps of 2
            "collective-permute": Collective(10, 6 * 16 + 4 * 24, 6 * 16 + 4 * 24),
        }
        assert report.unknown_loops == 1
        assert report.total == Collective(14, 640 + 80 + 48 + 16 + 192, 560 + 80 + 36 + 14 + 192)

    def test_types_of_less_than_a_byte_and_without_width(self):
        assert hlo_text.shape_bytes("(pred[7]{0}, s4[10]{0}, f8e4m3fn[3], bf16[], c64[2])") == 7 + 5 + 3 + 2 + 16

    def test_a_sum_over_eight_devices(self):
        mesh = make_mesh(MeshShape(data=8))
        summed = jax.shard_map(
            lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
        )
        x = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=NamedSharding(mesh, P("data")))
        report = collective_report(jax.jit(summed).lower(x).compile().as_text())
        assert report.by_kind == {"all-reduce": Collective(1, 4000, 7000)}

    def test_a_gathered_matrix_in_a_scan(self):
        mesh = make_mesh(MeshShape(fsdp=8))
        whole = NamedSharding(mesh, P())

        def repeat(x):
            step = lambda carry, _: (jnp.tanh(jax.lax.with_sharding_constraint(x, whole).T @ carry), None)  # noqa: E731
            return jax.lax.scan(step, jnp.ones((64, 16)), None, length=6)[0]

        x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
        report = collective_report(jax.jit(repeat, out_shardings=whole).lower(x).compile().as_text())
        gathered = report.by_kind["all-gather"]
        # the compiler gathers once before the loop or in each of its iterations
        assert gathered.payload_bytes == gathered.count * 64 * 64 * 4
        assert gathered.count in (1, 6)

    @needs_libtpu
    def test_what_the_tpu_compiler_writes_is_read(self):
        mesh = make_mesh(MeshShape(fsdp=8), find_topology("v5e:2x4").devices)
        x = jax.ShapeDtypeStruct((64, 1024), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))
        gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
        assert collective_report(gather.lower(x).compile().as_text()).total == Collective(1, 131072, 114688)


class TestProgramPlan:
    def test_memory_is_that_of_the_shards(self, store):
        config, plan = small_config(), store[1].plan
        program = TrainProgram(config, make_mesh(config.mesh))
        trees = jax.tree.leaves((program.state, program.frozen, program.batch))
        held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in trees)
        assert plan.memory.arguments + plan.resident_bytes == held
        assert 0 < plan.resident_bytes < held / 2  # temporal layers, which this run does not use
        state = [leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(program.state)]
        assert plan.memory.aliased == pytest.approx(sum(4 * math.prod(shape) for shape in state), rel=0.01)
        assert plan.memory.temporaries > 0
        assert plan.needed_bytes == plan.memory.total + plan.resident_bytes
        assert plan.fits

    def test_arithmetic_and_communication_are_there(self, store):
        plan = store[1].plan
        assert plan.model_flops * 8 == pytest.approx(
            TrainProgram(small_config(), make_mesh(MeshShape(fsdp=8))).flops(), rel=1e-6
        )
        assert plan.flops > 0.5 * plan.model_flops
        count, payload, sent = plan.collectives["all-gather"]
        assert count > 10
        assert payload > sent > 0
        assert plan.sent_bytes > sent
        assert set(plan.seconds) == {"tracing", "lowering", "compiling"}

    def test_the_setting_counts_parameters(self, store):
        setting = store[1].plan.setting
        sizes = {path: math.prod(leaf.shape) for path, leaf in flatten(abstract(small_config())).items()}
        assert setting.trained + setting.frozen == sum(sizes.values())
        assert setting.trained == sum(
            size for path, size in sizes.items() if re.fullmatch(r"position_net/.*|unet/.*/gates/.*", path)
        )
        assert (setting.devices, setting.rows, setting.mesh["fsdp"], setting.dtype) == (8, 8, 8, "float32")
        assert 0 < setting.replicated_share < 0.2

    def test_the_sampler_runs_beside_the_moments(self, store):
        step, sampler = store[1].plan, store[2].plan
        assert sampler.memory.arguments < step.memory.arguments
        assert sampler.resident_bytes > 2 * 4 * step.setting.trained / 8
        assert sampler.needed_bytes == sampler.memory.total + sampler.resident_bytes

    def test_a_batch_that_the_mesh_does_not_divide_is_refused(self, monkeypatch):
        monkeypatch.setenv("SMCD_CACHE_DIR", "")
        with refused("data.batch_size", value=12):
            Planner(small_config(), "cpu:8").plan("step", 12)

    def test_an_effort_out_of_range_is_refused(self):
        with refused("effort", value=2):
            Planner(small_config(), "cpu:8", effort=2)

    @needs_libtpu
    def test_a_program_for_a_tpu_computes_as_on_a_tpu(self):
        config = small_config()
        program = TrainProgram(config, make_mesh(config.mesh, find_topology("v5e:2x4").devices))
        assert program.platform == "tpu"
        kernels = [leaf.dtype for leaf in jax.tree.leaves(program.frozen) if leaf.ndim]
        assert set(kernels) == {jnp.dtype(jnp.bfloat16)}

    @needs_libtpu
    def test_the_tpu_compiler_says_what_a_refused_program_needs(self):
        chip = SingleDeviceSharding(find_topology("v5e:1x1").devices[0])
        x = jax.ShapeDtypeStruct((100_000, 100_000), jnp.float32, sharding=chip)
        with pytest.raises(jax.errors.JaxRuntimeError) as caught:
            jax.jit(lambda x: jnp.sin(x) + 1).lower(x).compile()
        assert needed_by(str(caught.value)) == pytest.approx(2 * 4 * 100_000**2, rel=0.02)

    def test_the_needed_memory_is_read_from_a_refusal(self):
        refusal = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded"
        assert needed_by(refusal) == 17.5 * GIB

    def test_another_refusal_is_an_error(self):
        with pytest.raises(SMCDError, match="cannot be compiled: INTERNAL: no such op"):
            needed_by("INTERNAL: no such op")


class TestStore:
    def test_the_same_request_is_answered_from_the_cache(self, kept):
        folder, step, _ = kept
        assert step.cached_at is None
        again = Planner(small_config(), "cpu:8").plan("step")
        assert again.cached_at is not None
        assert again.plan == step.plan
        assert len(list((folder / "plans").iterdir())) == 2

    @pytest.mark.parametrize(
        "change",
        [
            {"config": {"a": 2}},
            {"topology": "cpu:4"},
            {"effort": -1.0},
            {"what": "sampler"},
        ],
    )
    def test_another_request_has_another_key(self, change):
        asked = {"what": "step", "config": {"a": 1}, "topology": "cpu:8", "effort": 0.0}
        assert plan_cache.key(asked) == plan_cache.key(dict(asked))
        assert plan_cache.key(asked | change) != plan_cache.key(asked)

    @pytest.mark.parametrize("name", ["jax", "jaxlib", "libtpu", "smcd_jax"])
    def test_another_version_has_another_key(self, name, monkeypatch):
        before = plan_cache.key({})
        other = plan_cache.versions() | {name: "0.0.1"}
        monkeypatch.setattr(plan_cache, "versions", lambda: other)
        assert plan_cache.key({}) != before

    def test_a_change_of_the_source_code_changes_the_key(self, monkeypatch, tmp_path):
        package = tmp_path / "smcd_jax"
        (package / "nn").mkdir(parents=True)
        monkeypatch.setattr(plan_cache.smcd_jax, "__file__", str(package / "__init__.py"))
        keys = []
        for text in ("a = 1", "a = 2", "a = 1"):
            (package / "nn" / "layers.py").write_text(text)
            plan_cache._source_hash.cache_clear()
            keys.append(plan_cache.key({}))
        plan_cache._source_hash.cache_clear()
        assert keys[0] == keys[2] != keys[1]

    @pytest.mark.parametrize("override", ["data.batch_size=16", "mesh.fsdp=4", "optimizer.ema_decay=0.0"])
    def test_another_config_is_compiled(self, kept, override):
        with pytest.raises(pytest.fail.Exception, match="compiled again"):
            Planner(small_config(override), "cpu:8").plan("step")

    def test_a_damaged_file_is_ignored(self, kept, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("SMCD_CACHE_DIR", str(tmp_path))
        plan_cache.write({"a": 1}, {"b": 2})
        (file,) = (tmp_path / "plans").iterdir()
        assert plan_cache.read({"a": 1}).plan == {"b": 2}
        file.write_text(file.read_text()[:-9])
        assert plan_cache.read({"a": 1}) is None
        assert "damaged" in caplog.text

    def test_without_a_cache_folder_no_plan_is_stored(self, monkeypatch):
        monkeypatch.setenv("SMCD_CACHE_DIR", "")
        plan_cache.write({"a": 1}, {"b": 2})
        assert plan_cache.read({"a": 1}) is None


def planned(batch: int, needed: float, *, usable: float | None = 16, refused: bool = False) -> ProgramPlan:
    """Returns a plan for two groups of devices; ``needed`` and ``usable`` are in GiB."""
    usable = None if usable is None else int(usable * GIB)
    setting = Setting(2, "some", {"data": 2, "fsdp": 1, "tensor": 1}, "bfloat16", usable, 1, 1, 0.0)
    memory = None if refused else MemoryUse(0, 0, 0, int(needed * GIB), 0)
    return ProgramPlan("step", batch, setting, int(needed * GIB), memory=memory)


class TestFloors:
    def test_each_part_takes_its_amount_at_the_published_rate(self):
        setting = Setting(8, "TPU v5 lite", {"data": 1, "fsdp": 8, "tensor": 1}, "bfloat16", None, 1, 1, 0.0)
        plan = ProgramPlan(
            "step", 8, setting, 1, flops=197e12, bytes_accessed=819e9 / 2, collectives={"all-gather": [1, 0, 10**10]}
        )
        assert plan.floors == {"arithmetic": 1.0, "memory": 0.5, "links": 0.1}

    def test_a_device_without_published_rates_has_no_floors(self):
        assert planned(8, 1).floors == {}


class TestLargestBatch:
    planner = Planner(small_config(), "cpu:8")

    def test_the_largest_batch_lies_on_the_line_through_two_plans(self):
        assert self.planner.largest_batch(planned(8, 10), planned(2, 7)) == 20  # 6 + batch / 2 <= 16
        assert self.planner.largest_batch(planned(8, 10, usable=16.9), planned(2, 7, usable=16.9)) == 20  # 21 is odd

    def test_a_refused_plan_is_a_point_of_the_line_too(self):
        assert self.planner.largest_batch(planned(32, 22, refused=True), planned(2, 7)) == 20

    def test_zero_means_that_no_batch_fits(self):
        assert self.planner.largest_batch(planned(8, 30, refused=True), planned(2, 24, refused=True)) == 0

    def test_without_a_limit_or_growth_there_is_no_largest(self):
        assert self.planner.largest_batch(planned(8, 10, usable=None), planned(2, 7, usable=None)) is None
        assert self.planner.largest_batch(planned(8, 7), planned(2, 7)) is None

    def test_the_second_batch_has_one_example_per_group(self):
        assert self.planner.second_batch(planned(8, 1)) == 2
        assert self.planner.second_batch(planned(2, 1)) == 4


class TestList:
    def test_every_parameter_has_a_line(self):
        lines = list(parameter_lines(small_config(), find_topology("cpu:8")))
        paths = flatten(abstract(small_config()))
        assert [line.split()[0] for line in lines] == list(paths)
        (line,) = [line for line in lines if line.startswith("position_net/dense_1/kernel ")]
        assert line.split() == ["position_net/dense_1/kernel", "16x16", "trained", "fsdp"]
        (line,) = [line for line in lines if line.startswith("unet/conv_out/bias ")]
        assert line.split() == ["unet/conv_out/bias", "4", "frozen", "whole"]

    def test_a_pattern_that_matches_nothing_is_reported_after_the_list(self):
        config = dataclasses.replace(small_config(), trainable=("unet/nothing/.*",))
        lines, shown = parameter_lines(config, find_topology("cpu:8")), []
        with refused("trainable", value="unet/nothing/.*"):
            collections.deque((shown.append(line) for line in lines), maxlen=0)
        assert len(shown) == len(flatten(abstract(config)))
        assert all(line.split()[2] == "?" for line in shown)


class TestCommand:
    def run(self, *flags: str) -> int:
        overrides = [f"--config.{override}" for override in OVERRIDES]
        return main(["plan", "--config", CONFIG, "--topology", "cpu:8", *overrides, *flags])

    def test_the_command_prints_a_plan_and_that_it_was_cached(self, kept, capsys):
        assert self.run() == 0
        out = capsys.readouterr().out
        assert "cpu:8: 8 cpu, mesh data 1 x fsdp 8 x tensor 1" in out
        assert re.search(r"training step +batch 8, 1 on each of 8 parts of the mesh; cached on", out)
        assert re.search(r"all-gather [0-9.]+ MiB", out)
        assert re.search(r"sampler +batch 8", out)
        assert "share main memory" in out

    def test_without_sampler_and_search(self, kept, capsys):
        assert self.run("--batch", "8", "--no_sampler") == 0
        out = capsys.readouterr().out
        assert "sampler" not in out
        assert "largest" not in out

    def test_the_list(self, kept, capsys):
        assert self.run("--list") == 0
        assert "position_net/dense_1/kernel" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--topology", "v5e:8"], "topology of v5e must have a shape of 2 axes"),
            (["--batch", "0"], "--batch must be"),
            (["--effort", "3"], "effort must be"),
            (["--config.mesh.fsdp=3"], "mesh data=-1 fsdp=3 tensor=1"),
        ],
    )
    def test_wrong_input_is_one_line(self, flags, says, capsys, monkeypatch):
        monkeypatch.setenv("SMCD_CACHE_DIR", "")
        assert self.run(*flags) == 2
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1


def test_cached_plans_are_readable_json(store):
    files = [json.loads(file.read_text()) for file in (store[0] / "plans").iterdir()]
    assert {file["what"] for file in files} == {"step", "sampler"}
    assert all(file["versions"]["jax"] == jax.__version__ and file["cached_at"] for file in files)
