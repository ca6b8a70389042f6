"""Motion of a picture as fields: looping, slow motion, strength, and the motion file."""

from smcd_jax.motion.motion import INTERPOLATIONS, Motion
from smcd_jax.motion.motion_file import load_motion, save_motion

__all__ = ["INTERPOLATIONS", "Motion", "load_motion", "save_motion"]
