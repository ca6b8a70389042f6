"""Motion fields of a picture: loops, slow motion, scaling, and the motion file format."""

from smcd_jax.motion.motion import INTERPOLATIONS, Motion
from smcd_jax.motion.motion_file import load_motion, save_motion

__all__ = ["INTERPOLATIONS", "Motion", "load_motion", "save_motion"]
