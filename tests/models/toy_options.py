"""The toy family with its own options: a last picture, loops sampled with an extra frame, and other defaults."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from smcd_jax.models.registry import Family, register_family
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.autoencoder_kl import to_model_range
from tests.models.toy_family import ToyConfig, ToyInputs, ToyModel


@dataclasses.dataclass(frozen=True)
class ToyOptionsConfig(ToyConfig):
    pass


def in_range(x, estimate_x0, row, **arrays):
    return jnp.clip(estimate_x0(x), -1, 1)


class ToyOptionsModel(ToyModel):
    null_prompt = "nothing"
    own_options = {"loop": ("ends", "pingpong"), "end_image": (), "frame_stride": ()}  # noqa: RUF012
    sampling_defaults = {  # noqa: RUF012
        **VideoModel.sampling_defaults,
        **{"num_inference_steps": 3, "timestep_spacing": "trailing", "eta": 1.0, "guidance_rescale": 0.7},
    }

    def plan(self, request, tokenizer):
        plan = super().plan(request, tokenizer)
        end, frames = request.end_pictures, request.num_frames
        video = np.stack([request.pictures, request.pictures if end is None else end], axis=1)
        plan = plan._replace(raw={**plan.raw, "video": video})
        if not request.options.loop:
            return plan
        return plan._replace(latent_shape=(frames + 1, *plan.latent_shape[1:]), keep_frames=tuple(range(frames)))

    def inputs(self, features, key=None):
        ends = to_model_range(features["video"])
        return ToyInputs((ends[:, 0] + ends[:, -1]) / 2)

    def x0_transform(self, options):
        return in_range if options.loop else None


register_family(Family("toy_options", ToyOptionsConfig, {"toy_options": ToyOptionsConfig()}, ToyOptionsModel))
