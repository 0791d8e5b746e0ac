"""Forward process, parameterisations and losses of a discrete-time diffusion model.

Images and noise are float32 [B,H,W,C], images in [-1, 1]; alpha, sigma and every loss are [B].
z_t = alpha_t x_0 + sigma_t eps. Losses stay unreduced per example: who calls decides what to mean.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import schedule as schedules

PARAMETERISATIONS = ("eps", "x0", "v", "flow", "edm")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
WEIGHTINGS = ("none", "p2", "min_snr")

RANGES = {  # of the arguments of `training_losses`
    "vlb_weight": (0, math.inf),
    "p2_gamma": (0, math.inf),
    "p2_k": (0, math.inf),
    "min_snr_gamma": (0, math.inf),
    "sigma_data": (math.ulp(0), math.inf),
}


def expand(a, like):
    """[B] -> [B,1,..,1] with as many axes as `like`."""
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim))


def per_example(x):
    """Mean over all axes but the first: [B,...] -> [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def normal(rng, shape):
    """The numbers of `jax.random.normal`, drawn in one row and then put into `shape`.

    Where a batch is spread over the chips of a TPU and as long as its images are high, the compiler
    takes the numbering of both axes for one array, and has the chips send it to each other.
    """
    return jax.random.normal(rng, (math.prod(shape),)).reshape(shape)


def diffuse(x0, eps, alpha, sigma):
    """The forward process, z_t = alpha_t x_0 + sigma_t eps."""
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


# Parameterisations. A target is a combination of x_0 and eps, so that a prediction and z_t together
# fix both. Nothing changes if z, alpha and sigma are multiplied by one number, so that each holds
# for processes that do not preserve the variance too.


def _coefficients(parameterisation, alpha, sigma, sigma_data):
    """The target as (a, b), a x_0 + b eps: each [B,1,1,1] or a number."""
    length = jnp.sqrt(alpha**2 + sigma**2)
    if parameterisation == "eps":
        return 0.0, 1.0
    if parameterisation == "x0":
        return 1.0, 0.0
    if parameterisation == "v":
        return -sigma / length, alpha / length
    if parameterisation == "flow":
        return -1.0, 1.0
    if parameterisation == "edm":
        scaled = jnp.sqrt((alpha * sigma_data) ** 2 + sigma**2)
        return sigma / (sigma_data * scaled), -alpha * sigma_data / scaled
    raise ValueError(f"parameterisation must be one of {PARAMETERISATIONS}: {parameterisation!r}")


def target(parameterisation, x0, eps, alpha, sigma, *, sigma_data=0.5):
    """What the network is to predict, a combination of x_0 and eps.

    Args:
      parameterisation: "eps"; "x0"; "v" = alpha eps - sigma x0 (Salimans & Ho 2022); "flow" =
        eps - x0 (rectified flow); "edm", the F of Karras et al. 2022, eq. 8: with it the squared
        error is EDM's weighted loss.
      x0, eps: [B,H,W,C].
      alpha, sigma: amplitudes of x_0 and eps in z, [B].
      sigma_data: of "edm", the standard deviation of the pixels.
    """
    a, b = _coefficients(parameterisation, expand(alpha, x0), expand(sigma, x0), sigma_data)
    return a * x0 + b * eps


def predicted_x0(parameterisation, prediction, z, alpha, sigma, *, sigma_data=0.5):
    """x0_hat from a prediction, [B,H,W,C]; not clipped."""
    alpha, sigma = expand(alpha, z), expand(sigma, z)
    if parameterisation == "x0":
        return prediction
    a, b = _coefficients(parameterisation, alpha, sigma, sigma_data)
    return (b * z - sigma * prediction) / (b * alpha - a * sigma)


def predicted_eps(parameterisation, prediction, z, alpha, sigma, *, sigma_data=0.5):
    """eps_hat from a prediction, [B,H,W,C]."""
    alpha, sigma = expand(alpha, z), expand(sigma, z)
    if parameterisation == "eps":
        return prediction
    a, b = _coefficients(parameterisation, alpha, sigma, sigma_data)
    return (alpha * prediction - a * z) / (b * alpha - a * sigma)


def convert(prediction, z, alpha, sigma, *, source, to, sigma_data=0.5):
    """The prediction in another parameterisation that means the same denoiser, [B,H,W,C]."""
    given = (prediction, z, alpha, sigma)
    x0 = predicted_x0(source, *given, sigma_data=sigma_data)
    eps = predicted_eps(source, *given, sigma_data=sigma_data)
    return target(to, x0, eps, alpha, sigma, sigma_data=sigma_data)


def loss_weight(
    weighting,
    parameterisation,
    logsnr,
    *,
    p2_gamma=1.0,
    p2_k=1.0,
    min_snr_gamma=5.0,
    sigma_data=0.5,
):
    """Weight of the squared error of the *target* at each noise level, [B] -> [B].

    P2 (Choi et al. 2022) and min-SNR (Hang et al. 2023) are stated for the error of eps; for a
    network that predicts something else the same objective is expressed in the error of that:
    |eps_hat - eps|^2 = SNR |x0_hat - x0|^2 = SNR/(1+SNR) |v_hat - v|^2, and likewise.

    Args:
      weighting: "none" (the plain squared error of the target), "p2": 1/(k + SNR)^gamma, or
        "min_snr": min(SNR, gamma)/SNR.
      parameterisation: what the network predicts.
      logsnr: [B].
      sigma_data: of the parameterisation "edm".
    """
    if weighting == "none":
        return jnp.ones_like(logsnr)
    snr = jnp.exp(logsnr)
    if weighting == "p2":
        on_eps = (p2_k + snr) ** -p2_gamma
    elif weighting == "min_snr":
        on_eps = jnp.minimum(1.0, min_snr_gamma * jnp.exp(-logsnr))
    else:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    error_of_eps = {  # squared, for an error of 1 in the target
        "eps": 1.0,
        "x0": snr,
        "v": snr / (1.0 + snr),
        "flow": jax.nn.sigmoid(logsnr / 2.0) ** 2,
        "edm": snr * sigma_data**2 / (1.0 + snr * sigma_data**2),
    }
    return on_eps * error_of_eps[parameterisation]


# The reverse process p(z_{t-1} | z_t), Gaussian.


def split_output(output, variance):
    """Network output -> (prediction [B,H,W,C], variance part [B,H,W,C] or None)."""
    if variance == "learned_range":
        return jnp.split(output, 2, axis=-1)
    return output, None


def posterior_mean(schedule, x0, z, t):
    """Mean of q(z_{t-1} | z_t, x_0) (DDPM, eq. 7)."""
    from_x0 = schedules.lookup(schedule.posterior_mean_x0, t)
    from_z = schedules.lookup(schedule.posterior_mean_z, t)
    return expand(from_x0, z) * x0 + expand(from_z, z) * z


def model_log_variance(schedule, variance, variance_output, z, t):
    """log Sigma_theta, broadcastable to z (Improved DDPM, eq. 15 for "learned_range")."""
    large = expand(schedules.lookup(np.log(schedule.betas), t), z)
    small = expand(schedules.lookup(schedule.posterior_log_variance, t), z)
    if variance == "fixed_small":
        return small
    if variance == "fixed_large":
        return expand(schedules.lookup(schedule.fixed_large_log_variance, t), z)
    if variance == "learned_range":
        fraction = (variance_output + 1.0) / 2.0
        return fraction * large + (1.0 - fraction) * small
    raise ValueError(f"variance must be one of {VARIANCES}, got {variance!r}")


# The variational bound.


def gaussian_kl(mean1, log_var1, mean2, log_var2):
    """KL(N1 || N2) elementwise, in nats; 0 for equal ones, and exact to rounding near there."""
    d = log_var1 - log_var2
    return 0.5 * (jnp.expm1(d) - d + (mean1 - mean2) ** 2 * jnp.exp(-log_var2))


def discretized_gaussian_log_likelihood(x, mean, log_scale):
    """Log probability, in nats, of 8-bit images under a Gaussian cut into 256 bins on [-1, 1].

    The CDF is the tanh approximation of DDPM, s(g(v)) with the logistic function s; the outermost
    bins reach to infinity, and no bin counts as less probable than 1e-12. The difference of two
    such CDFs, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), is taken in logarithms: subtracted in
    float32, bins in either tail would have no digits left.

    Args:
      x: images whose values are k/127.5 - 1.
      mean, log_scale: of the Gaussian, broadcastable to x.
    """
    slope, cubic = 2.0 * np.sqrt(2.0 / np.pi), 0.044715

    def g(v):
        return slope * (v + cubic * v**3)

    centered, inv_std = x - mean, jnp.exp(-log_scale)
    high, low = inv_std * (centered + 1.0 / 255.0), inv_std * (centered - 1.0 / 255.0)
    below, above = jax.nn.log_sigmoid(g(high)), jax.nn.log_sigmoid(-g(low))
    # g(high) - g(low), without subtracting them; positive even where it underflows
    width = inv_std * (2.0 / 255.0) * slope * (1.0 + cubic * (high**2 + high * low + low**2))
    inside = below + above + jnp.log(-jnp.expm1(-jnp.maximum(width, 1e-30)))
    log_p = jnp.where(x > 0.999, above, jnp.where(x < -0.999, below, inside))
    return jnp.maximum(log_p, np.log(1e-12))


def vlb_term(schedule, parameterisation, variance, output, x0, z, t, *, sigma_data=0.5):
    """One term of the variational bound, L_t of DDPM eq. 5, in bits per dimension, [B].

    For t > 0 the KL between the true and the model's reverse step, for t = 0 the negative
    log-likelihood of the 8-bit image. x0_hat is not clipped here.
    """
    prediction, variance_output = split_output(output, variance)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0_hat = predicted_x0(parameterisation, prediction, z, alpha, sigma, sigma_data=sigma_data)
    mean = posterior_mean(schedule, x0_hat, z, t)
    log_variance = model_log_variance(schedule, variance, variance_output, z, t)
    true_mean = posterior_mean(schedule, x0, z, t)
    true_log_variance = expand(schedules.lookup(schedule.posterior_log_variance, t), z)

    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -discretized_gaussian_log_likelihood(x0, mean, 0.5 * log_variance)
    return jnp.where(t == 0, per_example(nll), per_example(kl)) / np.log(2.0)


def training_losses(
    schedule,
    output,
    x0,
    eps,
    z,
    t,
    *,
    parameterisation="eps",
    variance="learned_range",
    vlb_weight=0.001,
    weighting="none",
    sigma_data=0.5,
    weight=None,
    known=None,
    **weighting_options,
):
    """L_simple, or the hybrid L_simple + vlb_weight L_vlb (Improved DDPM, eq. 16), unreduced.

    With a learned variance, L_vlb = T E_t[L_t] trains the variance only: the mean's half of the
    output is under a stop-gradient there.

    Args:
      schedule: a `Schedule`, or one of `continuous.py` if the variance is not learned.
      output: what the network returned, [B,H,W,C] or [B,H,W,2C] with a learned variance.
      x0, eps, z: clean (augmented) image, its noise, and the noisy image; [B,H,W,C].
      t: timesteps [B].
      parameterisation, variance, weighting: see `PARAMETERISATIONS`, `VARIANCES`, `WEIGHTINGS`.
      vlb_weight: weight of L_vlb; used with a learned variance only.
      sigma_data: of the parameterisation "edm".
      weight: of each example in the loss, [B], besides that; None: 1.
      known: whether x0 is the clean image, bool [B]: of others there is no L_vlb. None: always.
      **weighting_options: of `loss_weight`.

    Returns:
      A dict of [B]: "loss" and "mse" (the unweighted squared error of the target), and "vlb" (L_t
      in bits per dimension) with a learned variance.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    prediction, variance_output = split_output(output, variance)
    wanted = target(parameterisation, x0, eps, alpha, sigma, sigma_data=sigma_data)
    mse = per_example((wanted - prediction) ** 2)
    of_level = loss_weight(
        weighting, parameterisation, schedule.logsnr(t), sigma_data=sigma_data, **weighting_options
    )
    counts, weight = weight, of_level if weight is None else of_level * weight
    if variance != "learned_range":
        return {"loss": weight * mse, "mse": mse}
    frozen = jnp.concatenate([jax.lax.stop_gradient(prediction), variance_output], axis=-1)
    vlb = vlb_term(schedule, parameterisation, variance, frozen, x0, z, t, sigma_data=sigma_data)
    vlb = vlb if known is None else jnp.where(known, vlb, 0.0)
    bound = vlb_weight * len(schedule) * (vlb if counts is None else counts * vlb)
    return {"loss": weight * mse + bound, "mse": mse, "vlb": vlb}
