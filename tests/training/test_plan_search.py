"""`smcd plan --search`: settings compared by arithmetic, the best two compiled, and the cache on disk."""

import jax
import pytest

from smcd_jax.cli import main
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.training.config import load_config
from smcd_jax.training.plan import plan as plan_module
from smcd_jax.training.plan import search as search_module
from smcd_jax.training.plan.compiled import MemoryUse, ProgramPlan, Setting
from smcd_jax.training.plan.search import Choice, search
from smcd_jax.training.step import TrainProgram
from tests.errors import refused

jax.devices()  # starts JAX with eight devices, before a topology requests fewer
CONFIG = "tests/training/training_run.py:pictures"
RATES = {"peak_flops": 1e12, "memory_bandwidth": 1e11, "link_bandwidth": 1e9}


@pytest.fixture(scope="module", autouse=True)
def rates():
    """Gives CPU devices rates, and turns off strict promotion for optax."""
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        for name, rate in RATES.items():
            patch.setattr(search_module, name, lambda *_, rate=rate: rate)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(folder, monkeypatch):
    monkeypatch.setenv("SMCD_CACHE_DIR", str(folder))


@pytest.fixture(scope="module")
def found(folder, rates):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", str(folder))
        return search(load_config(CONFIG), "cpu:8", batch=16)


def one(found, **fields) -> Choice:
    (choice,) = [c for c in found.choices if all(getattr(c, name) == value for name, value in fields.items())]
    return choice


def test_the_fastest_setting_comes_first(found):
    speeds = [choice.clips_per_second for choice in found.choices]
    assert speeds == sorted(speeds, reverse=True)
    assert found.compared == len(found.choices) == 2 * (1 + 3 * 4)  # remat, fsdp 1, then three sizes in four policies
    assert {choice.batch for choice in found.choices} == {16}


def test_memory_falls_where_parameters_are_split_and_traffic_where_they_are_whole(found):
    common = {"gather": "step", "remat": "none"}
    whole = one(found, fsdp=1, frozen="replicated", **common)
    trained = one(found, fsdp=8, frozen="replicated", **common)
    everything = one(found, fsdp=8, frozen="sharded", **common)
    assert whole.memory_bytes > trained.memory_bytes > everything.memory_bytes
    assert trained.seconds["links"] < everything.seconds["links"]
    assert (
        trained.seconds["links"] < one(found, fsdp=8, frozen="replicated", gather="use", remat="none").seconds["links"]
    )


def test_remat_holds_less_and_computes_more(found):
    common = {"fsdp": 8, "frozen": "replicated", "gather": "step"}
    none, blocks = (one(found, remat=remat, **common) for remat in ("none", "blocks"))
    assert blocks.memory_bytes < none.memory_bytes
    assert none.seconds["arithmetic"] < blocks.seconds["arithmetic"] < 1.5 * none.seconds["arithmetic"]


def test_operations_are_those_of_the_step(found):
    config = load_config(CONFIG, ("data.batch_size=16",))
    flops = TrainProgram(config, make_mesh(MeshShape(), jax.devices()[:8])).flops()
    counted = one(found, fsdp=1, frozen="replicated", gather="step", remat="none").seconds["arithmetic"]
    assert counted * RATES["peak_flops"] * 8 == pytest.approx(flops, rel=0.01)


def test_without_a_batch_sizes_double_until_memory_is_full(cache, monkeypatch):
    topology = search_module.find_topology("cpu:1")
    limited = topology._replace(
        usable_bytes=2 * min(c.memory_bytes for c in search(load_config(CONFIG), "cpu:1").choices)
    )
    monkeypatch.setattr(search_module, "find_topology", lambda _: limited)
    result = search(load_config(CONFIG), "cpu:1", again=True)
    sizes = {choice.batch for choice in result.choices}
    assert sizes == {2**power for power in range(len(sizes))}
    assert len(result.choices) < result.compared


def test_a_setting_becomes_a_config(found):
    choice = one(found, fsdp=4, frozen="sharded", gather="use", remat="blocks")
    config = choice.of(load_config(CONFIG))
    assert (config.mesh.fsdp, config.mesh.frozen, config.mesh.gather) == (4, "sharded", "use")
    assert (config.remat, config.data.batch_size) == ("blocks", 16)


def test_nothing_that_fits_is_an_error(cache, monkeypatch):
    small = search_module.find_topology("cpu:2")._replace(usable_bytes=1000)
    monkeypatch.setattr(search_module, "find_topology", lambda _: small)
    with refused("topology", value="cpu:2"):
        search(load_config(CONFIG), "cpu:2")


def test_a_batch_that_the_devices_do_not_divide_is_refused(cache):
    with refused("batch", value=12):
        search(load_config(CONFIG), "cpu:8", batch=12)


class TestCommand:
    @pytest.fixture
    def compilations(self, monkeypatch):
        """Replaces the compiler by a fixed report, and returns the list of compiled configs."""
        made = []

        def compile_program(program, topology, what, **_):
            made.append(program.config)
            setting = Setting(8, "cpu", dict(program.mesh.shape), "float32", None, 1, 1, 0.0)
            memory = MemoryUse(2**20, 0, 0, 0, 0)
            return ProgramPlan(what, 16, setting, 2**20, memory=memory, estimated_seconds=0.5)

        monkeypatch.setattr(plan_module, "compile_program", compile_program)
        return made

    def run(self, *flags: str) -> int:
        return main(["plan", "--config", CONFIG, "--topology", "cpu:8", "--batch", "16", "--search", *flags])

    def test_the_best_two_are_compiled_once(self, found, cache, compilations, capsys, monkeypatch):
        assert self.run() == 0
        first = capsys.readouterr().out
        best = [choice.of(load_config(CONFIG)) for choice in found.choices[:2]]
        assert [(c.mesh, c.remat) for c in compilations] == [(c.mesh, c.remat) for c in best]
        assert f"mesh.fsdp={found.choices[0].fsdp} " in first
        assert "4.000" in first  # 16 clips in 0.5 s on 8 devices
        monkeypatch.setattr(search_module, "find_topology", lambda _: pytest.fail("searched again"))
        assert self.run() == 0
        assert capsys.readouterr().out == first
        assert len(compilations) == 2

    def test_devices_without_published_rates_are_one_line(self, compilations, capsys, monkeypatch):
        monkeypatch.setenv("SMCD_CACHE_DIR", "")
        monkeypatch.setattr(search_module, "link_bandwidth", lambda _: None)
        assert self.run() == 2
        err = capsys.readouterr().err
        assert "published" in err
        assert len(err.splitlines()) == 1
        assert not compilations
