"""Throughput of a training run: clips and FLOP per second, share of the peak, time waiting for data, memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from smcd_jax.runtime.memory import peak_memory_bytes


class Throughput:
    """Rates between two log points.

    This class never waits for the device. Steps are queued faster than they run, so `read` and `restart` are accurate
    only when the loop has just waited for the last step, for example to fetch the values that it logs.

        rates = Throughput(clips_per_step=16, flops_per_step=flops, peak_flops=len(jax.devices()) * peak)
        for ...:
            with rates.waiting_for_data():
                batch = next(batches)
            state = step(state, batch)
            rates.step()
            if at a log point:
                values = jax.device_get(...)
                writer.scalars(step, values | rates.read())

    The clock starts with the object; call `restart` after the first step, which includes compilation.

    Args:
        clips_per_step: Number of clips per step over all processes.
        flops_per_step: FLOP per step over all devices, a multiply-add counted as two; None if unknown.
        peak_flops: Peak FLOP/s of all devices together; None if unknown.
        clock: Function that returns the time in seconds.
    """

    def __init__(
        self,
        *,
        clips_per_step: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._clips_per_step = clips_per_step
        self._flops_per_step = flops_per_step
        self._peak_flops = peak_flops
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Discards what was counted since the last log point."""
        self._start = self._clock()
        self._steps = 0
        self._waited = 0.0
        self._paused = 0.0

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time of the block as waiting for the input pipeline.

        On an accelerator, queued steps may hide some of this time.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of the block (validation, samples, checkpoints).

        No step should be queued when the block starts, because its time would be excluded, too.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def read(self) -> dict[str, float]:
        """Returns the rates since the last call by name; only "memory_bytes" if no step was counted.

        The names are "clips_per_second", "seconds_per_step", "data_wait" (share of the time, 0 to 1),
        "tflop_per_second" (all devices together), "share_of_peak" (0 to 1) and "memory_bytes" (peak since the start, of
        the first device or, on a CPU, of this process).
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
