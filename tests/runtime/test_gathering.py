"""Parameters cast and gathered once per step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from smcd_jax.runtime.gathering import gather
from smcd_jax.runtime.sharding import MeshShape, make_mesh


def test_matrices_are_cast_on_one_device_and_vectors_are_not():
    places = dict.fromkeys(("kernel", "bias"), NamedSharding(make_mesh(MeshShape(), jax.devices()[:1]), P()))
    params = {"kernel": jnp.full((3, 3, 2, 4), 1.001), "bias": jnp.full(4, 1.001)}

    def loss(params):
        given = gather(params, shards=places, whole=places, dtype=jnp.bfloat16)
        assert (given["kernel"].dtype, given["bias"].dtype) == (jnp.bfloat16, jnp.float32)
        return (3 * given["kernel"].astype(jnp.float32)).sum() + given["bias"].sum()

    gradient = jax.jit(jax.grad(loss))(params)
    np.testing.assert_array_equal(gradient["kernel"], np.full((3, 3, 2, 4), 3, np.float32))
    np.testing.assert_array_equal(gradient["bias"], np.ones(4, np.float32))
