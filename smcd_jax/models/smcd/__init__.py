"""SMCD (ECCV 2024): its networks, their sizes, and the model that training and sampling call."""

from smcd_jax.models.smcd.config import ControlNetConfig, ImageEncoderConfig
from smcd_jax.models.smcd.controlnet import ControlNet
from smcd_jax.models.smcd.image_encoder import ImageEncoder
from smcd_jax.models.smcd.unet3d import SMCDUNet
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.networks import register_network

register_network(UNetConfig, SMCDUNet)
register_network(ControlNetConfig, ControlNet)
register_network(ImageEncoderConfig, ImageEncoder)
