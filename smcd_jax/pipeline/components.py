"""A model's networks at work: weights that are read when first needed, and programs compiled once for each shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import network
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.runtime.compilation import Compiled
from smcd_jax.runtime.memory import trim_malloc
from smcd_jax.runtime.progress import Progress


class Components:
    """The networks of a model folder.

    Attributes:
        networks: module of each component of the folder, by name.
        programs: compiled programs by key.
        progress: what loading and compiling tell of themselves.
    """

    def __init__(self, folder: ModelFolder, policy: ComputePolicy, *, verify: bool, keep_loaded: bool):
        """With ``keep_loaded=False`` what `release` names is let go, else it stays for the next use."""
        _check_complete(folder)
        self.networks = {name: network(part, policy) for name, part in folder.config.components().items()}
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
        """The weights of one component, in the policy's dtype.

        Raises:
            SMCDError: they are damaged or do not fit into memory.
        """
        if name not in self._params:
            start = time.perf_counter()
            with self.progress.stage(f"load {name}"):
                self._params[name] = self._folder.params(name, dtype=self._policy.params, verify=self._verify)
            self._load_seconds += time.perf_counter() - start
        return self._params[name]

    def release(self, *names: str) -> None:
        """Lets these weights go, and what reading and compiling have used and freed, unless all are to be kept."""
        if not self._keep_loaded:
            for name in names:
                self._params.pop(name, None)
            trim_malloc()

    def program(self, key: Any, function: Callable[..., Any]) -> Compiled:
        """The compiled function of a key; ``function`` is taken the first time."""
        if key not in self.programs:
            name = key if isinstance(key, str) else key[0]
            self.programs[key] = Compiled(function, around=lambda: self.progress.stage(f"compile {name}"))
        return self.programs[key]

    def load_and_compile_seconds(self) -> tuple[float, float]:
        """Seconds spent reading weights and compiling since these were made."""
        return self._load_seconds, sum(program.compile_seconds for program in self.programs.values())


def _check_complete(folder: ModelFolder) -> None:
    """A network that is there must find the networks whose output it takes: without them it would sample nonsense."""
    config = folder.config
    needed = {"unet": True, "autoencoder": True, "text_encoder": True}
    if config.unet is not None:
        needed["position_net"] = config.unet.uses_objects
        needed["image_encoder"] = config.unet.uses_image_tokens
        needed["controlnet"] = config.unet.control
    absent = [name for name, wanted in needed.items() if wanted and getattr(config, name) is None]
    if absent:
        raise SMCDError(f"{folder.path}: the model has no {' and no '.join(absent)}; convert or copy it again")
