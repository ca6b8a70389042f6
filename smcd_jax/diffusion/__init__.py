"""Diffusion maths without networks: noise schedule, prediction types, timesteps, samplers, guidance and loss.

Every latent here is variance preserving, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a_t = ``alphas_cumprod[t]``, and
channels last, ``[b, f, h, w, c]``.
"""
