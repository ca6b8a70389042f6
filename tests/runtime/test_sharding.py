"""The device mesh, and the table of rules that shards every parameter over it."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from smcd_jax.models.registry import make_model
from smcd_jax.models.smcd.config import PRESETS, TINY, ControlNetConfig
from smcd_jax.models.smcd.sharding import RULES
from smcd_jax.nn.config import UNetConfig, VisionEncoderConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, network
from smcd_jax.runtime import sharding
from smcd_jax.runtime.sharding import MeshShape, ShardingTable, make_mesh
from tests.errors import refused
from tests.models.toy_family import ToyConfig

TINY_VISION = VisionEncoderConfig(picture_size=28, patch=14, width=64, heads=2, layers=1, embed_width=64)
COMPONENTS = frozenset(
    ("unet", "position_net", "image_encoder", "controlnet", "autoencoder", "text_encoder", "vision_encoder")
)
TABLE = ShardingTable(RULES, COMPONENTS)
TINY_TABLE = dataclasses.replace(TABLE, head_dim=TINY.unet.head_dim)
GATES = ("none", "object", "object_image", "parallel", "double", "merge")
SMALL_UNET = dataclasses.replace(TINY.unet, channel_mult=(1,), attention_scales=(1.0,))


@functools.cache
def shapes(preset: str, gate: str = "object_image") -> dict:
    """Returns the shapes of all components, including every optional part of the UNet."""
    config = PRESETS[preset]
    unet = dataclasses.replace(config.unet, gate=gate, fps_embedding=True, control=True)
    components = config.components() | {
        "unet": unet,
        "controlnet": ControlNetConfig(config.unet),
        "vision_encoder": VisionEncoderConfig() if preset == "smcd" else TINY_VISION,
    }
    if gate != "object_image":
        components = {"unet": unet}
    return {name: abstract_params(component) for name, component in components.items()}


def specs_of(tree: dict, shape: MeshShape, table: ShardingTable = TABLE) -> dict[str, P]:
    return flatten(sharding.partition_specs(tree, make_mesh(shape), table))


class TestMesh:
    @pytest.mark.parametrize(
        ("shape", "sizes"),
        [
            (MeshShape(), (8, 1, 1)),
            (MeshShape(fsdp=4), (2, 4, 1)),
            (MeshShape(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        ],
    )
    def test_sizes(self, shape, sizes):
        mesh = make_mesh(shape)
        assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
        assert set(mesh.axis_types) == {AxisType.Auto}

    @pytest.mark.parametrize(
        "shape",
        [
            MeshShape(fsdp=3),
            MeshShape(fsdp=16),
            MeshShape(data=2, fsdp=2),
            MeshShape(data=0),
            MeshShape(tensor=-1),
        ],
    )
    def test_devices_that_do_not_divide(self, shape):
        with refused("mesh", value=shape):
            make_mesh(shape)

    def test_a_part_of_the_devices(self):
        assert make_mesh(MeshShape(fsdp=2), jax.devices()[:4]).devices.shape == (2, 2, 1)

    def test_the_order_of_processes_replaces_a_scattered_topology(self, monkeypatch):
        @dataclasses.dataclass(frozen=True)
        class Chip:
            id: int
            process_index: int

        chips = [Chip(index, index // 2) for index in range(8)]
        odd_first = [1, 3, 5, 7, 0, 2, 4, 6]
        made = []

        def by_topology(sizes, axes, *, axis_types, devices):
            mesh = type("FakeMesh", (), {})()
            mesh.devices = np.array([devices[index] for index in odd_first], object).reshape(sizes)
            mesh.shape = dict(zip(axes, sizes, strict=True))
            return mesh

        monkeypatch.setattr(jax, "make_mesh", by_topology)
        monkeypatch.setattr(sharding, "Mesh", lambda devices, axes, axis_types: made.append(devices) or "by process")
        assert make_mesh(MeshShape(fsdp=8), chips[::-1]) == "by process"
        assert [chip.process_index for chip in made[0].flat] == [0, 0, 1, 1, 2, 2, 3, 3]


class TestTable:
    @pytest.mark.parametrize("preset", ["smcd", "tiny"])
    def test_every_parameter_of_every_component_matches_one_rule(self, preset):
        tree = shapes(preset)
        assert set(tree) == COMPONENTS
        assert len(specs_of(tree, MeshShape(fsdp=8))) == len(flatten(tree))

    @pytest.mark.parametrize("gate", GATES)
    def test_every_gate_form_is_covered(self, gate):
        tree = shapes("tiny", gate)
        assert len(specs_of(tree, MeshShape(fsdp=8))) == len(flatten(tree))

    def test_every_rule_is_used(self):
        paths = flatten(shapes("tiny"))
        assert [rule.name for rule in RULES if not any(re.fullmatch(rule.pattern, path) for path in paths)] == []

    def test_a_missing_rule_is_named_with_its_parameters(self):
        table = dataclasses.replace(TABLE, rules=tuple(rule for rule in RULES if rule.name != "position net"))
        with refused("sharding") as caught:
            specs_of(shapes("tiny"), MeshShape(), table)
        assert caught.value.value == [f"position_net/dense_{index}/kernel (no rule)" for index in range(3)]

    def test_two_rules_for_one_parameter_are_both_named(self):
        second = sharding.Rule("second", r"unet/conv_out/bias", (None,))
        with refused("sharding", value=["unet/conv_out/bias (vector and second)"]):
            specs_of(shapes("tiny"), MeshShape(), dataclasses.replace(TABLE, rules=(*RULES, second)))

    def test_a_rule_for_another_number_of_axes_is_an_error(self):
        tree = {"unet": {"conv_out": {"kernel": jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)}}}
        with refused("sharding") as caught:
            specs_of(tree, MeshShape())
        assert len(caught.value.value) == 1

    def test_a_family_without_rules_splits_the_kernels_of_every_layer(self):
        model = make_model(ToyConfig())
        tree = {"net": abstract_params(model.config.net)}
        assert specs_of(tree, MeshShape(fsdp=4), model.sharding) == {
            "net/Conv_0/kernel": P(None, None, None, None, "fsdp"),
            "net/Conv_1/kernel": P(None, None, None, "fsdp"),
            "net/Dense_0/kernel": P(None, "fsdp"),
            **dict.fromkeys(("net/Conv_0/bias", "net/Conv_1/bias", "net/Dense_0/bias"), P()),
        }

    def test_a_tree_without_its_component_is_refused(self):
        with refused("shapes"):
            specs_of(shapes("tiny")["unet"], MeshShape())

    def test_many_faults_fit_on_one_line(self):
        with refused("sharding") as caught:
            specs_of(shapes("tiny"), MeshShape(), dataclasses.replace(TABLE, rules=()))
        assert len(str(caught.value)) < 4000


class TestSpecs:
    def test_under_two_per_cent_is_replicated_at_full_size(self):
        leaves, specs = flatten(shapes("smcd")), specs_of(shapes("smcd"), MeshShape(data=1, fsdp=8))
        sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
        assert sum(size for path, size in sizes.items() if not tuple(specs[path])) < 0.02 * sum(sizes.values())

    def test_without_fsdp_nothing_is_split(self):
        assert set(specs_of(shapes("tiny"), MeshShape()).values()) == {P()}

    def test_axes_that_may_not_split_do_not(self):
        mesh, tree = make_mesh(MeshShape(fsdp=4, tensor=2)), shapes("smcd")
        specs = flatten(sharding.partition_specs(tree, mesh, TABLE, over=sharding.WHOLE_AXES))
        assert {axis for spec in specs.values() for axis in spec} == {None, "tensor"}

    def test_every_split_divides_on_every_mesh(self):
        leaves = flatten(shapes("smcd"))
        for data, fsdp, tensor in [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 4, 2), (1, 2, 4)]:
            mesh = make_mesh(MeshShape(data, fsdp, tensor))
            for name, spec in specs_of(shapes("smcd"), MeshShape(data, fsdp, tensor)).items():
                whole = leaves[name]
                shard = NamedSharding(mesh, spec).shard_shape(whole.shape)  # raises an error if one does not divide
                parts = math.prod(mesh.shape[axis] for axis in spec if axis is not None)
                assert math.prod(shard) * parts == math.prod(whole.shape), name

    def test_fsdp_takes_the_largest_axis_that_divides(self):
        specs = specs_of(shapes("smcd"), MeshShape(fsdp=8))
        assert specs["unet/conv_out/kernel"] == P(None, None, "fsdp")  # 320 -> 4 channels
        assert specs["unet/encoder_1/residual/time/kernel"] == P("fsdp")  # 1280 -> 320 channels
        assert specs["image_encoder/conv_in/kernel"] == P(None, None, None, "fsdp")  # 4 -> 256 channels
        assert specs["autoencoder/post_quant/kernel"] == P()  # 4 -> 4 channels; 8 divides neither
        assert specs["unet/norm_out/scale"] == P()

    def test_tensor_splits_as_megatron_and_fsdp_takes_the_other_axis(self):
        specs = specs_of(shapes("smcd"), MeshShape(fsdp=2, tensor=2))
        block = "unet/middle/attended/spatial/block"
        for name in ("self_attention", "cross_attention", "gates/object_gate/attention", "gates/image_gate/attention"):
            assert specs[f"{block}/{name}/query/kernel"] == P("fsdp", "tensor")
            assert specs[f"{block}/{name}/value/kernel"] == P("fsdp", "tensor")
            assert specs[f"{block}/{name}/out/kernel"] == P("tensor", "fsdp")
        assert specs[f"{block}/ff/dense_in/kernel"] == P("fsdp", "tensor")
        assert specs[f"{block}/ff/dense_out/kernel"] == P("tensor", "fsdp")
        assert specs[f"{block}/gates/object_gate/ff/dense_out/kernel"] == P("tensor", "fsdp")

    def test_heads_split_whole_or_not_at_all(self):
        specs = specs_of(shapes("smcd"), MeshShape(fsdp=2, tensor=2))
        assert "tensor" not in specs["unet/encoder_1/spatial/block/self_attention/query/kernel"]  # 5 heads
        assert "tensor" in specs["unet/encoder_4/spatial/block/self_attention/query/kernel"]  # 10 heads

    def test_an_axis_that_tensor_has_split_is_split_again_where_the_other_does_not_divide(self):
        leaf = jax.ShapeDtypeStruct((6, 64), jnp.float32)
        tree = {"unet": {"encoder_0": {"ff": {"dense_in": {"kernel": leaf}}}}}
        assert flatten(sharding.partition_specs(tree, make_mesh(MeshShape(fsdp=4, tensor=2)), TABLE)) == {
            "unet/encoder_0/ff/dense_in/kernel": P(None, ("tensor", "fsdp"))
        }

    def test_a_mesh_of_other_axes_replicates(self):
        specs = flatten(sharding.partition_specs(shapes("tiny"), Mesh(np.array(jax.devices()), ("data",)), TABLE))
        assert set(specs.values()) == {P()}


class TestState:
    def test_optimiser_state_and_averages_are_split_like_their_parameters(self):
        mesh = make_mesh(MeshShape(fsdp=8))
        params = {"unet": shapes("tiny")["unet"]}
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
        state = jax.eval_shape(
            lambda params: {
                "step": jnp.zeros((), jnp.int32),
                "key": jax.random.key(0),
                "params": params,
                "ema": params,
                "optimizer": optimizer.init(params),
            },
            params,
        )
        wanted = flatten(sharding.shardings(params, mesh, TABLE))
        placed = sharding.state_shardings(state, mesh, TABLE)
        adam = placed["optimizer"][1][0]
        for tree in (placed["params"], placed["ema"], adam.mu, adam.nu):
            assert flatten(tree) == wanted
        for scalar in (placed["step"], placed["key"], adam.count):
            assert scalar == NamedSharding(mesh, P())
        assert jax.tree.structure(placed) == jax.tree.structure(state)

    def test_a_flat_dictionary_of_paths_is_sharded_like_a_nested_one(self):
        mesh = make_mesh(MeshShape(fsdp=8))
        params = {"unet": shapes("tiny")["unet"]}
        flat = flatten(params)
        assert sharding.state_shardings({"mu": flat}, mesh, TABLE)["mu"] == flatten(
            sharding.shardings(params, mesh, TABLE)
        )

    def test_an_array_with_other_axes_than_its_parameter_is_replicated(self):
        mesh = make_mesh(MeshShape(fsdp=8))
        row = {"unet": {"conv_out": {"kernel": jnp.zeros((32,))}}}  # such as factored second moments
        assert jax.tree.leaves(sharding.state_shardings(row, mesh, TABLE)) == [NamedSharding(mesh, P())]

    def test_a_parameter_without_a_rule_is_an_error_here_too(self):
        state = {"mu": {"unet": {"surprise": jnp.zeros((8, 8))}}}
        with refused("sharding", value=["unet/surprise (no rule)"]):
            sharding.state_shardings(state, make_mesh(MeshShape(fsdp=8)), TABLE)


class TestBatch:
    def test_rows_are_split_over_data_and_fsdp(self):
        mesh = make_mesh(MeshShape(2, 2, 2))
        x = jax.device_put(jnp.arange(8.0), sharding.batch_sharding(mesh))
        assert {shard.data.shape for shard in x.addressable_shards} == {(2,)}

    def test_a_constraint_holds_inside_jit(self):
        mesh = make_mesh(MeshShape(2, 2, 2))
        with jax.set_mesh(mesh):
            out = jax.jit(lambda x: sharding.constrain_batch({"x": x * 2})["x"])(jnp.ones((8, 3)))
        assert out.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 2)

    def test_without_a_mesh_or_with_one_device_nothing_happens(self):
        x = jnp.ones((3,))
        assert sharding.constrain_batch(x) is x
        with jax.set_mesh(make_mesh(MeshShape(), jax.devices()[:1])):
            assert sharding.constrain_batch(x) is x


def inputs(config: UNetConfig, batch: int) -> dict:
    draw = np.random.default_rng(0).standard_normal
    return {
        "latents": draw((batch, 2, 8, 8, config.input_channels), np.float32),
        "timesteps": np.linspace(1, 900, batch, dtype=np.float32),
        "text": draw((batch, 7, config.context_dim), np.float32),
        "objects": draw((batch, 2, 3, config.object_width), np.float32),
        "image_tokens": draw((batch, 4, config.image_width), np.float32),
    }


def forward(params: dict, given: dict) -> jax.Array:
    given = sharding.constrain_batch(given)
    module = network(SMALL_UNET, ComputePolicy())
    variables = {"params": params["unet"]}
    conditions = module.apply(
        variables, given["text"], given["objects"], image_tokens=given["image_tokens"], method="keys_values"
    )
    return module.apply(variables, given["latents"], given["timesteps"], conditions)


@functools.cache
def open_params() -> dict:
    """Returns host arrays without zeros, so that every branch of the network has an effect."""
    draw = np.random.default_rng(1).standard_normal
    made = lambda leaf: 0.3 * draw(leaf.shape, np.float32) / max(leaf.shape or (1,)) ** 0.5  # noqa: E731
    return jax.tree.map(made, {"unet": abstract_params(SMALL_UNET)})


@functools.cache
def on_one_device() -> np.ndarray:
    return np.asarray(jax.jit(forward)(open_params(), inputs(SMALL_UNET, 8)))


class TestNetwork:
    def test_initial_parameters_are_sharded(self):
        mesh = make_mesh(MeshShape(data=1, fsdp=8))
        module = network(TINY.position_net)

        def init(key):
            return {"position_net": module.init(key, method="dummy_call")["params"]}

        placed = sharding.shardings(jax.eval_shape(init, jax.random.key(0)), mesh, TABLE)
        params = jax.jit(init, out_shardings=placed)(jax.random.key(0))
        kernel = params["position_net"]["dense_1"]["kernel"]
        assert len(kernel.addressable_shards) == 8
        assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
        assert {str(shard.index) for shard in kernel.addressable_shards} == {
            str((slice(8 * part, 8 * part + 8), slice(None))) for part in range(8)
        }
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
        places = flatten(sharding.shardings(params, mesh, TABLE))
        assert held == sum(
            4 * math.prod(places[path].shard_shape(leaf.shape)) for path, leaf in flatten(params).items()
        )
        whole = module.init(jax.random.key(0), method="dummy_call")["params"]["dense_1"]["kernel"]
        np.testing.assert_array_equal(kernel, whole)

    @pytest.mark.parametrize("sizes", [(8, 1, 1), pytest.param((2, 4, 1), marks=pytest.mark.slow), (2, 2, 2)])
    def test_the_unet_is_the_same_function_on_every_mesh(self, sizes):
        mesh = make_mesh(MeshShape(*sizes))
        with jax.set_mesh(mesh):
            params = jax.device_put(open_params(), sharding.shardings(open_params(), mesh, TINY_TABLE))
            given = jax.device_put(inputs(SMALL_UNET, 8), sharding.batch_sharding(mesh))
            out = jax.jit(forward)(params, given)
        assert {shard.data.shape[0] for shard in out.addressable_shards} == {8 // (sizes[0] * sizes[1])}
        # another order of float32 sums; outputs are of order 1
        np.testing.assert_allclose(out, on_one_device(), rtol=1e-4, atol=1e-4)
