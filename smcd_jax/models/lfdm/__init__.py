"""LFDM (CVPR 2023) and MRAA (CVPR 2021): their published networks, which are those of `smcd_jax.models.lvmm`."""
