"""Samplers as tables of coefficients, which are computed on the host in float64 and read by one step function.

A step of each sampler here is linear in the latents and the last few x_0 predictions, so one compiled loop serves all
of them, at any number of steps. With alpha = sqrt(a) and sigma = sqrt(1-a), the step from level s to level t shared by
all of them is

    x_t = (sigma_t/sigma_s) x_s + g x_0,    g = alpha_t - alpha_s sigma_t/sigma_s        (first order)

which is DDIM (Song et al. 2020, arXiv 2010.02502, eq. 12), Euler's step in sigma/alpha (Karras et al. 2022, arXiv
2206.00364), and the first order of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) and UniPC (Zhao et al. 2023, arXiv
2302.04867) alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcd_jax.diffusion.prediction import x0_coefficients
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import inference_timesteps
from smcd_jax.sampling_options import Sampler, Spacing, refuse

SAMPLERS: tuple[str, ...] = get_args(Sampler)
MULTISTEP_SAMPLERS = ("dpmsolver++", "unipc")

# At zero terminal SNR the log-SNR gaps that the multistep formulas divide by, and Euler's sigma/alpha, are infinite;
# like diffusers, those samplers start from the smallest float16 instead.
SMALLEST_ALPHA_CUMPROD = 2.0**-24


class SolverTable(NamedTuple):
    """Coefficients of every step: float32 NumPy arrays of R = T+1 rows, zero after the last step.

    The number of rows does not depend on the number of steps, so one compiled program serves any number of steps.

    Attributes:
        timesteps: ``[R]``, timestep that the network receives at each step; may be fractional (Euler with "linspace").
        x0_from_x: ``[R]``, coefficient of x in x_0 = x0_from_x x + x0_from_model model_output.
        x0_from_model: ``[R]``, coefficient of the model output in the same sum.
        corrector: ``[R, 5]``, weights of the corrected x on x, the previous corrected x, and x_0 of this step, the
            previous step and the step before that.
        update: ``[R, 4]``, weights of the next x on the corrected x, and x_0 of this step, the previous step and the
            step before that.
        noise: ``[R]``, standard deviation of the noise added to the next x; zero unless DDIM has eta > 0.
        alpha: ``[R]``, signal of the latents in x = alpha x_0 + sigma eps; read by ``x0_transform``.
        sigma: ``[R]``, noise of the latents in the same sum; read by ``x0_transform``.
        num_steps: Number of rows in use, the trip count of the loop.
    """

    timesteps: np.ndarray
    x0_from_x: np.ndarray
    x0_from_model: np.ndarray
    corrector: np.ndarray
    update: np.ndarray
    noise: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    num_steps: int


class SamplerState(NamedTuple):
    """State between steps, all float32 of one shape ``[b, f, h, w, c]``.

    Attributes:
        latents: Latents x at the timestep of the next step, the network's next input.
        previous_latents: Corrected x of the previous step.
        previous_x0: Prediction of x_0 one step earlier.
        earlier_x0: Prediction of x_0 two steps earlier.
    """

    latents: Float[Array, "*latents"]
    previous_latents: Float[Array, "*latents"]
    previous_x0: Float[Array, "*latents"]
    earlier_x0: Float[Array, "*latents"]


class _Levels(NamedTuple):
    """Signal and noise at the start and the end of each step; the signals include the factors of dynamic rescale.

    All are float64 ``[steps]``.
    """

    alpha: np.ndarray
    sigma: np.ndarray
    next_alpha: np.ndarray
    next_sigma: np.ndarray
    scale: np.ndarray
    next_scale: np.ndarray


def make_solver_table(
    schedule: NoiseSchedule,
    *,
    sampler: Sampler,
    num_steps: int,
    spacing: Spacing = "leading",
    eta: float = 0.0,
    undo_dynamic_rescale: bool = False,
) -> SolverTable:
    """Returns the table of ``sampler`` on ``schedule``, computed in float64 on the host.

    - "ddim" ends at the a of timestep 0, as the reference does, and not at a = 1: 2.9% of the noise direction remains.
      A step goes down by T // num_steps with "leading" and "reference", and to the next timestep of the list with
      "trailing" and "linspace".
    - "euler" keeps fractional timesteps for "linspace" and interpolates sigma/alpha linearly there. It ends at zero
      noise.
    - "dpmsolver++" is 2M with midpoint: second order except for the first and the last step. It ends at zero noise.
    - "unipc" is order 2, B2(h), predicting x_0, with its corrector after every step but the last. It ends at zero
      noise.

    The last three are diffusers' schedulers of the same name with their defaults, as are their timesteps
    ("dpmsolver++" and "unipc" leave out the lowest point of "leading" and "linspace").

    Args:
        schedule: Noise schedule, with the network's prediction type.
        sampler: Name of the sampler.
        num_steps: Number of steps, 1 to T. With spacing "reference" the table may have more; see its ``num_steps``.
        spacing: See `smcd_jax.diffusion.timesteps.inference_timesteps`.
        eta: Amount of fresh noise, 0 (deterministic) to 1 (ancestral); DDIM only (arXiv 2010.02502, eq. 16).
        undo_dynamic_rescale: Whether DDIM restores the full contrast. As published, the last step keeps the scale of
            the last timestep visited, so fewer steps give a duller picture. The other samplers always undo it.

    Raises:
        SMCDError: The sampler or spacing is unknown, or the number of steps or eta is out of range.
    """
    if sampler not in SAMPLERS:
        refuse("sampler", sampler, f"be one of {', '.join(SAMPLERS)}")
    if not 0 <= eta <= 1:
        refuse("eta", eta, "be between 0 and 1")
    if eta and sampler != "ddim":
        refuse("eta", eta, f"be 0 with sampler {sampler!r}, which adds no noise")

    multistep = sampler in MULTISTEP_SAMPLERS
    timesteps = inference_timesteps(schedule, num_steps, spacing, skip_lowest=multistep, fractional=sampler == "euler")
    if sampler == "ddim":
        stride = schedule.num_train_timesteps // num_steps if spacing in ("leading", "reference") else None
        levels = _ddim_levels(schedule, timesteps, stride, undo_rescale=undo_dynamic_rescale)
    else:
        levels = _levels_to_zero_noise(schedule, timesteps)

    noise = eta * _ancestral_deviation(levels) if eta else np.zeros_like(timesteps)
    update = _second_order_update(levels) if multistep else _first_order_update(levels, noise)
    corrector = _unipc_corrector(levels) if sampler == "unipc" else _no_corrector(len(timesteps))
    x0_from_x, x0_from_model = x0_coefficients(
        levels.alpha / levels.scale, levels.sigma, schedule.prediction_type, scale=levels.scale
    )
    columns = (timesteps, x0_from_x, x0_from_model, corrector, update, noise, levels.alpha, levels.sigma)
    rows = schedule.num_train_timesteps + 1
    return SolverTable(*(_padded(column, rows) for column in columns), num_steps=len(timesteps))


def initial_state(noise: Float[Array, "b f h w c"]) -> SamplerState:
    """Returns the state before step 0, in which the latents of every sampler are unit Gaussian ``noise``."""
    latents = noise.astype(jnp.float32)
    nothing = jnp.zeros_like(latents)
    return SamplerState(latents, previous_latents=nothing, previous_x0=nothing, earlier_x0=nothing)


def solver_step(
    table: SolverTable,
    i: int | Int[Array, ""],
    state: SamplerState,
    model_output: Float[Array, "b f h w c"],
    *,
    noise: Float[Array, "b f h w c"] | None = None,
) -> tuple[SamplerState, Float[Array, "b f h w c"]]:
    """Runs step ``i`` in 0..num_steps-1, in float32; returns the next state and the x_0 predicted at this step.

    Pure; ``i`` may be traced, so it runs in ``lax.fori_loop`` and ``lax.while_loop`` with a traced trip count.

    Args:
        table: Result of `make_solver_table`, unchanged or as traced arrays.
        i: Index of the step.
        state: Result of `initial_state` or of the step before.
        model_output: Guided network output at ``state.latents`` and ``table.timesteps[i]``.
        noise: Unit Gaussian noise, fresh at each step; needed where ``eta`` is above 0, unused elsewhere.

    Raises:
        SMCDError: ``noise`` is missing for a numpy table with ``eta`` above 0. Traced tables are not checked.
    """
    if noise is None and isinstance(table.noise, np.ndarray) and table.noise.any():
        refuse("noise", noise, "be given with a table of eta above 0")
    row = table_row(table, i)
    x0 = row.x0_from_x * state.latents + row.x0_from_model * model_output.astype(jnp.float32)
    return advance(row, state, x0, noise=noise), x0


def table_row(table: SolverTable, i: int | Int[Array, ""]) -> SolverTable:
    """Returns row ``i`` of the table, without ``num_steps``."""
    return jax.tree.map(lambda column: jnp.asarray(column)[i], table._replace(num_steps=None))


def advance(
    row: SolverTable,
    state: SamplerState,
    x0: Float[Array, "b f h w c"],
    *,
    noise: Float[Array, "b f h w c"] | None = None,
) -> SamplerState:
    """Returns the next state, given the clean latents ``x0`` that were predicted at ``state.latents``.

    Args:
        row: Coefficients of the step, from `table_row`.
        state: State before the step.
        x0: Predicted clean latents, float32.
        noise: Unit Gaussian noise, fresh at each step; needed where ``eta`` is above 0.
    """
    x = _weighted_sum(row.corrector, (state.latents, state.previous_latents, x0, state.previous_x0, state.earlier_x0))
    next_x = _weighted_sum(row.update, (x, x0, state.previous_x0, state.earlier_x0))
    if noise is not None:
        next_x = next_x + row.noise * noise.astype(jnp.float32)
    return SamplerState(next_x, previous_latents=x, previous_x0=x0, earlier_x0=state.previous_x0)


def _weighted_sum(weights: Float[Array, " k"], terms: tuple[Float[Array, ...], ...]) -> Float[Array, ...]:
    return sum(weights[k] * term for k, term in enumerate(terms))


def _padded(column: np.ndarray, rows: int) -> np.ndarray:
    padded = np.zeros((rows, *column.shape[1:]), np.float32)
    padded[: len(column)] = column
    return padded


def _ddim_levels(schedule: NoiseSchedule, timesteps: np.ndarray, stride: int | None, *, undo_rescale: bool) -> _Levels:
    """Returns levels at integer timesteps; a step lands ``stride`` lower, or on the next listed one, not below 0."""
    here = timesteps.astype(np.int64)
    landing = np.append(here[1:], 0) if stride is None else np.maximum(here - stride, 0)
    next_scale = schedule.scale[landing]
    if not undo_rescale:
        next_scale[-1] = schedule.scale[here[-1]]
    next_alpha = np.sqrt(schedule.alphas_cumprod[landing]) * next_scale
    noises = {"sigma": schedule.noise(here), "next_sigma": schedule.noise(landing)}
    return _Levels(
        schedule.signal(here), next_alpha=next_alpha, scale=schedule.scale[here], next_scale=next_scale, **noises
    )


def _levels_to_zero_noise(schedule: NoiseSchedule, timesteps: np.ndarray) -> _Levels:
    """Returns the levels of steps that land on the next timestep of the list, and finally on the clean sample.

    Between integer timesteps sigma/alpha is interpolated linearly.
    """
    a = np.maximum(schedule.alphas_cumprod, SMALLEST_ALPHA_CUMPROD)
    ratio = np.interp(timesteps, np.arange(len(a)), np.sqrt((1 - a) / a))
    scale = np.interp(timesteps, np.arange(len(a)), schedule.scale)
    alpha = 1 / np.sqrt(1 + ratio**2)
    sigma = ratio * alpha
    alpha = alpha * scale
    nexts = (np.append(part[1:], end) for part, end in ((alpha, 1.0), (sigma, 0.0)))
    return _Levels(alpha, sigma, *nexts, scale, np.append(scale[1:], 1.0))


def _ancestral_deviation(levels: _Levels) -> np.ndarray:
    """Returns the standard deviation of the noise that eta = 1 adds (arXiv 2010.02502, eq. 16)."""
    a_over_next = (levels.alpha / levels.scale / (levels.next_alpha / levels.next_scale)) ** 2
    return levels.next_sigma / levels.sigma * np.sqrt(1 - a_over_next)


def _first_order_update(levels: _Levels, noise: np.ndarray) -> np.ndarray:
    """Returns columns (x, x_0, 0, 0) of arXiv 2010.02502, eq. 12; ``noise`` is the deviation of the fresh noise."""
    # at zero terminal SNR and eta 1 the difference is 0, and rounding must not make it negative
    from_x = np.sqrt(np.maximum(levels.next_sigma**2 - noise**2, 0)) / levels.sigma
    from_x0 = levels.next_alpha - levels.alpha * from_x
    return np.stack([from_x, from_x0, np.zeros_like(from_x), np.zeros_like(from_x)], axis=1)


def _second_order_update(levels: _Levels) -> np.ndarray:
    """Returns the columns of DPM-Solver++ 2M, midpoint (arXiv 2211.01095, algorithm 2).

    Adds g/2 h/h_before (x_0 - x_0 before) to the first order, for gaps h in log(alpha/sigma).

    UniPC's predictor of order 2 with B2(h) and its weight set to 1/2 (arXiv 2302.04867) is the same formula.
    """
    update = _first_order_update(levels, np.zeros_like(levels.alpha))
    gap = _log_snr_gaps(levels)
    for i in range(1, len(update) - 1):
        if gap[i] == 0 or gap[i - 1] == 0:  # a timestep visited twice gives no second point for the extrapolation
            continue
        extrapolation = 0.5 * update[i, 1] * gap[i] / gap[i - 1]
        update[i, 1] += extrapolation
        update[i, 2] -= extrapolation
    return update


def _no_corrector(num_steps: int) -> np.ndarray:
    return np.tile([1.0, 0.0, 0.0, 0.0, 0.0], (num_steps, 1))


def _unipc_corrector(levels: _Levels) -> np.ndarray:
    """Returns the columns of UniC with B2(h) (arXiv 2302.04867): step i redoes the previous step with x_0 known.

    Its order is that of the step it redoes: 1 for the first, 2 for the rest.
    """
    corrector = _no_corrector(len(levels.alpha))
    redone = _first_order_update(levels, np.zeros_like(levels.alpha))
    gap = _log_snr_gaps(levels)
    for i in range(1, len(corrector)):
        if gap[i - 1] == 0:
            continue
        from_x, g = redone[i - 1, :2]
        second_order = i > 1 and gap[i - 2] != 0
        before, here = _unic_weights(gap[i - 1], gap[i - 2]) if second_order else (0.0, 0.5)
        corrector[i] = [0.0, from_x, g * here, g * (1 - here - before), g * before]
    return corrector


def _unic_weights(gap: float, gap_before: float) -> tuple[float, float]:
    """Returns UniC-2's weights on (x_0 two before - x_0 one before) and (x_0 here - x_0 one before).

    Solves the order conditions of arXiv 2302.04867 for the nodes r = -gap_before/gap and 1, w + v = b_1 and r w + v =
    b_2; the first weight is returned divided by r, because UniC divides the difference that it multiplies by r.
    """
    node = -gap_before / gap
    b_h = math.expm1(-gap)
    phi_2 = -b_h / gap - 1
    phi_3 = -phi_2 / gap - 0.5
    b_1, b_2 = phi_2 / b_h, 2 * phi_3 / b_h
    weight = (b_2 - b_1) / (node - 1)
    return weight / node, b_1 - weight


def _log_snr_gaps(levels: _Levels) -> np.ndarray:
    """Returns the gap h in log(alpha/sigma) of each step; infinite for a step that lands on zero noise."""
    half_log_snr = np.log(levels.alpha / levels.sigma)
    return np.append(np.diff(half_log_snr), np.inf)
