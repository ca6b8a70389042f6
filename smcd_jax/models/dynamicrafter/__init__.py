"""DynamiCrafter (ECCV 2024): its networks, their sizes, and the model that training and sampling call."""

from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, LeftoversConfig, ResamplerConfig
from smcd_jax.models.dynamicrafter.resampler import Resampler
from smcd_jax.models.dynamicrafter.unet3d import DynamiCrafterUNet
from smcd_jax.models.leftovers import Leftovers
from smcd_jax.nn.networks import register_network

register_network(DynamiCrafterUNetConfig, DynamiCrafterUNet)
register_network(ResamplerConfig, Resampler)
register_network(LeftoversConfig, Leftovers)
