"""diffusers' `UNet3DConditionModel` in PyTorch at the sizes of a preset: one guided step and a whole clip, timed.

    python launch/gpu/torch_unet.py --preset smcd --device cuda --batches 1,8 --output torch.json

The network is ModelScope's without the gated adapters of SMCD, so its arithmetic is counted separately. The file is
written after every measurement and names the measurement that is running, so it shows which one a time limit has ended.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.files import write_json
from smcd_jax.models.smcd.config import PRESETS, ModelConfig
from smcd_jax.nn.config import UNetConfig

GUIDANCE_SCALE = 7.5
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
QUEUED = {"cpu": 1, "cuda": 20}  # matrix products queued before the host waits


def unet_arguments(config: UNetConfig) -> dict[str, Any]:
    """Returns the arguments of `UNet3DConditionModel` for a network of these sizes."""
    levels = [2.0**-level in config.attention_scales for level in range(len(config.channel_mult))]
    return {
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "block_out_channels": tuple(config.base_channels * factor for factor in config.channel_mult),
        "down_block_types": tuple("CrossAttnDownBlock3D" if level else "DownBlock3D" for level in levels),
        "up_block_types": tuple("CrossAttnUpBlock3D" if level else "UpBlock3D" for level in reversed(levels)),
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.groups,
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": config.head_dim,
    }


class Measurement:
    """The network on a device, and how to time it."""

    def __init__(self, config: ModelConfig, *, device: str, dtype: str):
        import torch
        from diffusers import UNet3DConditionModel

        self.torch, self.config, self.device = torch, config, device
        self.dtype = getattr(torch, dtype)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        with torch.device(device):
            model = UNet3DConditionModel(**unet_arguments(config.unet))
        self.model = model.to(self.dtype).eval()
        for parameter in self.model.parameters():  # `Module.to(memory_format=...)` rejects Conv3d's five axes
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            if parameter.ndim in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
        self.alphas = NoiseSchedule().alphas_cumprod

    def inputs(self, batch: int) -> tuple[Any, Any]:
        """Returns latents [b, c, f, h, w] in float32, and the text of both guidance branches [2 b, l, d]."""
        config, side = self.config, self.config.autoencoder.downscale
        latents = (
            batch,
            config.unet.latent_channels,
            config.frames,
            config.height // side,
            config.width // side,
        )
        text = (2 * batch, config.text_encoder.length, config.unet.context_dim)
        return self.torch.randn(latents, device=self.device), self.torch.randn(
            text, device=self.device, dtype=self.dtype
        )

    def step(self, model: Callable[..., Any], latents: Any, text: Any, *, index: int, steps: int) -> Any:
        """Runs one guided DDIM step; the network sees both branches in one batch."""
        stride = len(self.alphas) // steps
        t = (steps - 1 - index) * stride + 1
        alpha, before = float(self.alphas[t]), float(self.alphas[max(t - stride, 0)])
        both = self.torch.cat([latents, latents]).to(self.dtype)
        timestep = self.torch.full((len(both),), t, device=self.device)
        with_text, without = model(both, timestep, encoder_hidden_states=text).sample.float().chunk(2)
        noise = without + GUIDANCE_SCALE * (with_text - without)
        x0 = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        return before**0.5 * x0 + (1 - before) ** 0.5 * noise

    def loop(self, model: Callable[..., Any], latents: Any, text: Any, steps: int) -> Any:
        """Runs all steps of a clip."""
        for index in range(steps):
            latents = self.step(model, latents, text, index=index, steps=steps)
        return latents

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Returns the time of one call, to the end of its work on the device."""
        self.synchronize()
        start = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - start

    def matmul_flops(self) -> float:
        """Returns the operations per second in a large matrix product."""
        side, queued = MATMUL_SIDE[self.device], QUEUED[self.device]
        a, b = (self.torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        run = lambda: [self.torch.matmul(a, b) for _ in range(queued)]  # noqa: E731
        return 2 * side**3 * queued / min(self.seconds(run) for _ in range(6))

    def step_flops(self, batch: int) -> float:
        """Returns the operations of one step, counted by PyTorch."""
        from torch.utils.flop_counter import FlopCounterMode

        latents, text = self.inputs(batch)
        with FlopCounterMode(display=False) as counter:
            self.step(self.model, latents, text, index=0, steps=50)
        return counter.get_total_flops()

    def measure(self, mode: str, *, batch: int, steps: int, steps_timed: int) -> dict[str, Any]:
        """Measures the first call (which compiles), single steps, and a whole clip."""
        if self.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
        latents, text = self.inputs(batch)
        model = self.torch.compile(self.model, dynamic=False) if mode == "compile" else self.model
        one = lambda: self.step(model, latents, text, index=0, steps=steps)  # noqa: E731
        first = self.seconds(one)
        one()
        times = [self.seconds(one) for _ in range(steps_timed)]
        loop = self.seconds(lambda: self.loop(model, latents, text, steps))
        memory = self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {
            "mode": mode,
            "batch": batch,
            "first_call_seconds": first,
            "step_seconds": min(times),
            "median_step_seconds": statistics.median(times),
            "clip_loop_seconds": loop,
            "peak_memory_bytes": memory,
        }


def main() -> int:
    """Measures eager first, then `torch.compile`, each at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batches", default="1", metavar="N,N", help="numbers of videos at once (default: 1)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps of a clip (default: 50)")
    parser.add_argument("--steps_timed", type=int, default=3, metavar="N", help="single steps timed (default: 3)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    absent = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if absent:
        write_json(arguments.output, {"skipped": f"{' and '.join(absent)} not installed"})
        print(f"skipped: {' and '.join(absent)} not installed")
        return 0

    found: dict[str, Any] = {"preset": arguments.preset, "device": arguments.device, "dtype": arguments.dtype}
    found |= {"steps": arguments.steps, "measurements": [], "running": "eager"}
    write_json(arguments.output, found)
    measurement = Measurement(PRESETS[arguments.preset], device=arguments.device, dtype=arguments.dtype)
    found["parameters"] = sum(parameter.numel() for parameter in measurement.model.parameters())
    found["matmul_tflop_per_second"] = measurement.matmul_flops() / 1e12
    batches = [int(text) for text in arguments.batches.split(",")]
    found["tflop_per_step"] = {batch: measurement.step_flops(batch) / 1e12 for batch in batches}
    for mode in ("eager", "compile"):
        for batch in batches:
            found["running"] = f"{mode}, batch {batch}"
            write_json(arguments.output, found)
            sizes = {"batch": batch, "steps": arguments.steps, "steps_timed": arguments.steps_timed}
            done = measurement.measure(mode, **sizes)
            found["measurements"].append(done)
            first, step = done["first_call_seconds"], done["step_seconds"]
            print(f"{found['running']}: first call {first:.1f} s, step {step:.4g} s")
    write_json(arguments.output, found | {"running": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
