"""How fast a run goes: clips and operations a second, share of the peak, waiting for data, memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from smcd_jax.runtime.memory import peak_memory_bytes


class Throughput:
    """Rates between two points of the log.

    It never waits for the device. Steps are queued faster than they run, so `read` and `restart` are right only where
    the loop has just waited for the last step, as it does to fetch what it logs.

        rates = Throughput(clips_per_step=16, flops_per_step=flops, peak_flops=len(jax.devices()) * peak)
        for ...:
            with rates.waiting_for_data():
                batch = next(batches)
            state = step(state, batch)
            rates.step()
            if at a log point:
                values = jax.device_get(...)
                writer.scalars(step, values | rates.read())
    """

    def __init__(
        self,
        *,
        clips_per_step: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """The clock starts now; call `restart` after the first step, whose time is compilation.

        Args:
            clips_per_step: of all processes together.
            flops_per_step: of all devices together, a multiply-add counted as two; None leaves the rate out.
            peak_flops: a second of all devices together; None leaves the share out.
            clock: seconds.
        """
        self._clips_per_step = clips_per_step
        self._flops_per_step = flops_per_step
        self._peak_flops = peak_flops
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted since the last point."""
        self._start = self._clock()
        self._steps = 0
        self._waited = 0.0
        self._paused = 0.0

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The block's time is waiting for the input pipeline.

        On an accelerator some of it may be hidden by steps that are queued; what is left in a steady run is not.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block's time (validation, samples, checkpoints) counts as if it had not passed.

        Enter it where no step is queued, or their time is lost with it.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def read(self) -> dict[str, float]:
        """Rates since the last call, by name; only memory if no step was counted.

        "clips_per_second", "seconds_per_step", "data_wait" (share of the time, 0..1), "tflop_per_second" (all devices
        together), "share_of_peak" (0..1), "memory_bytes" (the most the first device, or on a CPU this process, has
        held since it started).
        """
        seconds = self._clock() - self._start - self._paused
        steps, waited = self._steps, self._waited
        self.restart()
        memory = {"memory_bytes": float(peak_memory_bytes())}
        if steps == 0 or seconds <= 0:
            return memory
        rates = {
            "clips_per_second": steps * self._clips_per_step / seconds,
            "seconds_per_step": seconds / steps,
            "data_wait": waited / seconds,
        }
        if self._flops_per_step is not None:
            flops = steps * self._flops_per_step / seconds
            rates["tflop_per_second"] = flops / 1e12
            if self._peak_flops is not None:
                rates["share_of_peak"] = flops / self._peak_flops
        return rates | memory
