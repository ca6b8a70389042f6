"""BatchNorm whose running statistics are returned by each step, compared with PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.nn.batch_norm import STATISTICS, BatchNorm, is_statistic, statistics_of, with_statistics
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import flatten

torch = pytest.importorskip("torch")

TOLERANCE = 2e-6  # allows a few float32 rounding errors


def layers():
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("scale", "bias", "mean", "variance")}
    layer = torch.nn.BatchNorm2d(6)
    named = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    layer.load_state_dict({name: torch.tensor(values[ours]) for name, ours in named.items()}, strict=False)
    return BatchNorm(ComputePolicy()), {name: jnp.asarray(value) for name, value in values.items()}, layer


def test_two_training_steps_and_evaluation_are_those_of_torch():
    module, params, layer = layers()
    rng = np.random.default_rng(1)
    for _ in range(2):
        x = rng.normal(2, 3, (3, 4, 5, 6)).astype(np.float32)
        got, changed = module.apply({"params": params}, jnp.asarray(x), train=True, mutable=[STATISTICS])
        params = with_statistics(params, changed[STATISTICS])
        want = layer(torch.tensor(x.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
        np.testing.assert_allclose(got, want.detach(), atol=TOLERANCE)
    np.testing.assert_allclose(params["mean"], layer.running_mean, atol=TOLERANCE)
    np.testing.assert_allclose(params["variance"], layer.running_var, rtol=TOLERANCE)
    layer.eval()
    want = layer(torch.tensor(x.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    np.testing.assert_allclose(module.apply({"params": params}, jnp.asarray(x)), want.detach(), atol=TOLERANCE)


def test_no_gradient_reaches_the_running_statistics():
    module, params, _ = layers()
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 6))

    def loss(params):
        out, changed = module.apply({"params": params}, x, train=True, mutable=[STATISTICS])
        return (out**3).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(changed))

    gradient = jax.grad(loss)(params)
    assert not gradient["mean"].any()
    assert not gradient["variance"].any()
    assert gradient["scale"].any()


def test_statistics_are_found_by_the_names_of_their_leaves():
    _, params, _ = layers()
    tree = {"block": {"norm": params, "conv": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}}}
    assert set(flatten(statistics_of(tree))) == {"block/norm/mean", "block/norm/variance"}
    assert not is_statistic("block/conv/bias")
