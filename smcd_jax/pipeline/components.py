"""Weights and compiled programs of a model: read when first needed, compiled once per shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.low_rank import Adapter, add_low_rank
from smcd_jax.nn.networks import flatten, unflatten
from smcd_jax.runtime.compilation import Compiled
from smcd_jax.runtime.memory import trim_malloc
from smcd_jax.runtime.progress import Progress


class Components:
    """The weights of a model folder's components, and the programs that use them.

    Attributes:
        programs: Compiled programs by key.
        progress: Progress reporting of loading and compiling.
    """

    def __init__(
        self,
        folder: ModelFolder,
        policy: ComputePolicy,
        *,
        verify: bool,
        keep_loaded: bool,
        adapter: Adapter | None = None,
        adapter_scale: float = 1.0,
    ):
        """Creates an empty store; `release` frees weights only with ``keep_loaded=False``.

        An adapter, multiplied by ``adapter_scale``, is added to the weights as they are read.
        """
        self._adapter, self._adapter_scale = adapter, adapter_scale
        self.programs: dict[Any, Compiled] = {}
        self.progress = Progress()
        self._folder, self._policy = folder, policy
        self._verify, self._keep_loaded = verify, keep_loaded
        self._params: dict[str, Any] = {}
        self._load_seconds = 0.0

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the components whose weights are in memory."""
        return tuple(self._params)

    def params(self, name: str) -> Any:
        """Returns the weights of one component, in the policy's dtype.

        Raises:
            SMCDError: The weights are damaged.
        """
        if name not in self._params:
            start = time.perf_counter()
            with self.progress.stage(f"load {name}"):
                params = self._folder.params(name, dtype=self._policy.params, verify=self._verify)
                if self._adapter is not None:
                    leaves = add_low_rank(
                        flatten(params), self._adapter.leaves, scale=self._adapter_scale, prefix=f"{name}/"
                    )
                    params = unflatten(leaves)
                self._params[name] = params
            self._load_seconds += time.perf_counter() - start
        return self._params[name]

    def params_of(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns the weights of several components, by name."""
        return {name: self.params(name) for name in names}

    def release(self, *names: str) -> None:
        """Frees these weights, and memory left over from reading and compiling, unless ``keep_loaded`` is set."""
        if not self._keep_loaded:
            for name in names:
                self._params.pop(name, None)
            trim_malloc()

    def unload(self) -> None:
        """Frees all weights, which are read again at their next use; compiled programs stay."""
        self._params.clear()
        trim_malloc()

    def program(self, key: Any, function: Callable[..., Any]) -> Compiled:
        """Returns the compiled function for a key; only the first call with a key uses ``function``."""
        if key not in self.programs:
            name = key if isinstance(key, str) else key[0]
            self.programs[key] = Compiled(function, around=lambda: self.progress.stage(f"compile {name}"))
        return self.programs[key]

    def load_and_compile_seconds(self) -> tuple[float, float]:
        """Returns the seconds spent reading weights and compiling so far."""
        return self._load_seconds, sum(program.compile_seconds for program in self.programs.values())
