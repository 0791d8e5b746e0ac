"""Noise levels in continuous time, and every formulation's samplers on densities that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import continuous, diffusion, schedule, solvers, unet
from tada_jax.setup import build
from tada_jax.training.step import loss_fn
from tests import tiny

PROCESSES = {
    "edm": continuous.Edm(),
    "flow": continuous.Flow(),
    "logit_normal": continuous.Flow(times="logit_normal"),
}
LEVELS = dict(PROCESSES, cosine=schedule.cosine(1000), linear=schedule.linear(1000))


@pytest.mark.parametrize("name", PROCESSES)
def test_time_inverts_log_snr_and_the_variance_is_preserved(name):
    process = PROCESSES[name]
    t = jnp.asarray(process.grid(50), jnp.float32)
    np.testing.assert_allclose(process.time(process.logsnr(t)), t, rtol=1e-4)
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-5)
    np.testing.assert_allclose(
        2 * np.log(process.alpha(t) / process.sigma(t)), process.logsnr(t), atol=1e-3
    )
    assert (np.diff(process.logsnr(t)) < 0).all()


def test_log_snrs_are_those_of_the_formulations_own_mixtures():
    t = np.array([0.1, 0.5, 0.8])
    np.testing.assert_allclose(PROCESSES["flow"].logsnr(t), 2 * np.log((1 - t) / t), atol=1e-5)
    np.testing.assert_allclose(PROCESSES["edm"].logsnr(t), -2 * np.log(t), rtol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_network_sees_what_its_paper_says(name):
    """From z = alpha x + sigma n, scaled, back to c_in (x + sigma n), and to (1 - t) x + t n."""
    process, x, n = PROCESSES[name], 0.7, -1.3
    t = jnp.asarray(process.grid(9), jnp.float32)
    seen = process.input_scale(t) * (process.alpha(t) * x + process.sigma(t) * n)
    if name == "edm":
        expected, told = (x + t * n) / np.sqrt(0.5**2 + t**2), np.log(t) / 4
    else:
        expected, told = (1 - t) * x + t * n, 1000 * t
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(process.network_time(t), told, rtol=1e-4)


def test_times_of_training_have_their_distributions():
    key, n = jax.random.key(0), 20_000
    log_sigma = np.log(PROCESSES["edm"].draw(key, n))
    assert log_sigma.mean() == pytest.approx(-1.2, abs=0.03)
    assert log_sigma.std() == pytest.approx(1.2, abs=0.03)
    uniform = np.asarray(PROCESSES["flow"].draw(key, n))
    np.testing.assert_allclose(np.quantile(uniform, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    logit = np.asarray(PROCESSES["logit_normal"].draw(key, n))
    logit = np.log(logit / (1 - logit))
    assert logit.mean() == pytest.approx(0, abs=0.03) and logit.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", LEVELS)
def test_quantiles_are_those_of_the_draws(name):
    process, u = LEVELS[name], np.array([0.1, 0.3, 0.5, 0.9])
    drawn = np.asarray(process.draw(jax.random.key(1), 20_000), np.float64)
    np.testing.assert_allclose(np.mean(drawn[:, None] < process.quantile(u), 0), u, atol=0.015)
    assert process.draw(jax.random.key(1), 3).shape == (3,)


def test_walks():
    edm = PROCESSES["edm"].walk(18)
    i = np.arange(18)  # Karras et al. 2022, eq. 5
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(edm.timesteps[::-1], sigma, rtol=1e-5)
    np.testing.assert_allclose(edm.log_snr_table[::-1], -2 * np.log(sigma), rtol=1e-9)
    flow = PROCESSES["flow"].walk(11)
    np.testing.assert_allclose(flow.timesteps, np.linspace(0.001, 0.999, 11), rtol=1e-6)
    for process in PROCESSES.values():
        even = process.walk(20, stride="logsnr")
        steps = np.diff(even.log_snr_table)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
        np.testing.assert_allclose(even.log_snr_table[[-1, 0]], process.ends, rtol=1e-6)
        short = process.walk(20, stride="tapered", side=16)
        steps = np.diff(schedule.tapered(short.log_snr_table, 16))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
        np.testing.assert_allclose(short.log_snr_table[[-1, 0]], process.ends, rtol=1e-6)
        for wrong in (dict(steps=1), dict(steps=5, stride="ddim"), dict(steps=5, stride="tapered")):
            with pytest.raises(ValueError):
                process.walk(**wrong)


@pytest.mark.parametrize(
    "process",
    [continuous.Edm(p_std=9.0), continuous.Flow(times="logit_normal", logit_std=9.0)],
    ids=["edm", "flow"],
)
def test_no_time_is_drawn_that_single_precision_cannot_tell_from_an_end(process):
    r = process.logsnr(process.draw(jax.random.key(0), 50_000))
    assert np.isfinite(r).all() and np.abs(r).max() > 20
    for weighting in ("p2", "min_snr"):
        weight = diffusion.loss_weight(weighting, "flow", r)
        assert np.isfinite(weight).all()


@pytest.mark.parametrize("name", LEVELS)
def test_nearest_leaves_out_what_lies_beyond_the_ends(name):
    process = LEVELS[name]
    t, levels = process.nearest(np.array([-30.0, -2.0, 0.0, 3.0, 30.0]))
    np.testing.assert_allclose(levels, [-2, 0, 3], atol=0.02)
    np.testing.assert_allclose(process.logsnr(t), levels, atol=1e-3)
    assert process.ends[0] < -2 and process.ends[1] > 3


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (continuous.Edm, dict(sigma_min=0.0)),
        (continuous.Edm, dict(sigma_min=90.0)),
        (continuous.Edm, dict(rho=-1.0)),
        (continuous.Edm, dict(sigma_min=1e-9)),
        (continuous.Flow, dict(t_min=1e-8)),
        (continuous.Flow, dict(times="cosine")),
        (continuous.Flow, dict(t_min=0.5)),
        (continuous.Flow, dict(logit_std=0.0)),
    ],
)
def test_values_out_of_range_are_refused(make, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)


# Parameterisations, in any of the formulations


@pytest.mark.parametrize("source", diffusion.PARAMETERISATIONS)
def test_parameterisations_convert_into_each_other(source):
    """All pairs, at all noise levels, whether the variance is preserved or not."""
    x0, eps = jax.random.normal(jax.random.key(0), (2, 40, 3, 2, 1))
    r = jnp.linspace(-6, 6, 40)
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(r)), jnp.sqrt(jax.nn.sigmoid(-r))

    @jax.jit
    def computed(a, s):
        z = diffusion.diffuse(x0, eps, a, s)
        given = diffusion.target(source, x0, eps, a, s)
        both = [
            f(source, given, z, a, s) for f in (diffusion.predicted_x0, diffusion.predicted_eps)
        ]
        names = diffusion.PARAMETERISATIONS
        wanted = [diffusion.target(to, x0, eps, a, s) for to in names]
        return (
            both,
            wanted,
            [diffusion.convert(given, z, a, s, source=source, to=to) for to in names],
        )

    for gain in (1.0, 1 / alpha):  # the second is EDM's own x_0 + sigma n
        both, wanted, found = computed(gain * alpha, gain * sigma)
        for one, other in zip(both, (x0, eps), strict=True):
            np.testing.assert_allclose(one, other, atol=5e-5, rtol=1e-3)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-3)


def test_edms_target_and_weight():
    """c_skip, c_out and lambda of Table 1: the squared error of F is EDM's weighted loss."""
    sd, sigma = 0.5, jnp.array([0.01, 0.3, 5.0, 60.0])
    x0, n = jax.random.normal(jax.random.key(0), (2, 4, 1, 1, 1))
    s = sigma[:, None, None, None]
    y = x0 + s * n
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / jnp.sqrt(s**2 + sd**2)
    one = jnp.ones(4)
    f = diffusion.target("edm", x0, n, one, sigma, sigma_data=sd)
    np.testing.assert_allclose(f, (x0 - c_skip * y) / c_out, rtol=1e-3, atol=1e-4)
    denoised = diffusion.predicted_x0("edm", f + 0.1, y, one, sigma, sigma_data=sd)
    weight = (s**2 + sd**2) / (s * sd) ** 2
    np.testing.assert_allclose(weight * (denoised - x0) ** 2, 0.01, rtol=2e-2)


def test_the_target_of_rectified_flow_is_its_velocity():
    x0, n = jnp.full((1, 1, 1, 1), 0.3), jnp.full((1, 1, 1, 1), -2.0)
    t = jnp.array([0.25])
    velocity = diffusion.target("flow", x0, n, 1 - t, t)
    np.testing.assert_allclose(velocity, n - x0)
    y = 0.75 * x0 + 0.25 * n
    np.testing.assert_allclose(diffusion.predicted_x0("flow", velocity, y, 1 - t, t), x0, rtol=1e-6)


@pytest.mark.parametrize("weighting", ["p2", "min_snr"])
def test_weights_mean_the_same_objective_in_every_parameterisation(weighting):
    """The same denoiser has the same weighted loss, whatever its network predicts."""
    r = jnp.linspace(-5, 5, 11)
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(r)), jnp.sqrt(jax.nn.sigmoid(-r))
    x0, eps, off = jax.random.normal(jax.random.key(0), (3, 11, 2, 2, 1))
    z = diffusion.diffuse(x0, eps, alpha, sigma)
    losses = {}
    for name in diffusion.PARAMETERISATIONS:
        prediction = diffusion.convert(eps + off, z, alpha, sigma, source="eps", to=name)
        error = prediction - diffusion.target(name, x0, eps, alpha, sigma)
        losses[name] = diffusion.loss_weight(weighting, name, r) * diffusion.per_example(error**2)
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, losses["eps"], rtol=1e-2, err_msg=name)


# Samplers

FORMULATIONS = [
    ("cosine", "v", "dpmpp_2m", 40, "logsnr"),
    ("edm", "edm", "edm_heun", 40, "even"),
    ("edm", "edm", "heun", 18, "even"),
    ("edm", "eps", "dpmpp_2m", 30, "logsnr"),
    ("edm", "edm", "ddpm", 300, "logsnr"),
    ("flow", "flow", "ddim", 100, "even"),
    ("flow", "flow", "dpmpp_2m", 40, "logsnr"),
    ("logit_normal", "flow", "heun", 30, "logsnr"),
    ("flow", "v", "ddpm", 300, "logsnr"),
]


@pytest.mark.parametrize(("name", "parameterisation", "sampler", "steps", "stride"), FORMULATIONS)
def test_every_formulations_sampler_recovers_a_mixture(
    name, parameterisation, sampler, steps, stride
):
    """Images whose pixels are all near -0.5, or, three times as often, all near 0.25."""
    process, shape, std = LEVELS[name], (4, 3, 1), 0.1
    means, log_weights = jnp.array([-0.5, 0.25]), jnp.log(jnp.array([0.25, 0.75]))

    def predict(z, t):
        alpha, sigma = (a[:, None, None, None] for a in (process.alpha(t), process.sigma(t)))
        var = alpha**2 * std**2 + sigma**2
        apart = (z[..., None] - alpha[..., None] * means) ** 2 / var[..., None]
        which = jax.nn.softmax(log_weights - 0.5 * apart.sum((1, 2, 3)), -1)
        each = (
            means
            + alpha[..., None]
            * std**2
            * (z[..., None] - alpha[..., None] * means)
            / (var[..., None])
        )
        x0 = (each * which[:, None, None, None]).sum(-1)
        eps = (z - alpha * x0) / sigma
        return diffusion.target(parameterisation, x0, eps, process.alpha(t), process.sigma(t))

    def run(keys):
        return solvers.SAMPLERS[sampler](
            predict,
            keys,
            schedule=process.walk(steps, stride=stride),
            shape=shape,
            parameterisation=parameterisation,
            variance="fixed_small",
            clip_x0=False,
        )

    x = np.asarray(jax.jit(run)(solvers.sample_keys(0, jnp.arange(800))))
    upper = x.mean((1, 2, 3)) > -0.125
    assert upper.mean() == pytest.approx(0.75, abs=0.05)
    for mode, mean in ((x[upper], 0.25), (x[~upper], -0.5)):
        assert mode.mean() == pytest.approx(mean, abs=0.01)
        assert mode.std() == pytest.approx(std, rel=0.1)


def test_edms_heun_is_its_algorithm_1():
    process, target = continuous.Edm(), continuous.Edm().walk(9)
    sigma = np.append(target.timesteps[::-1].astype(np.float64), 0.0)
    keys = solvers.sample_keys(0, jnp.arange(3))

    def denoise(y, s):
        return 0.3 + 0.04 / (0.04 + s**2) * (y - 0.3)

    def predict(z, t):
        scale = jnp.sqrt(1.0 + t**2)[:, None, None, None]
        return denoise(scale * z, t[:, None, None, None])

    found = solvers.edm_heun(
        predict, keys, schedule=target, shape=(2, 2, 1), parameterisation="x0", clip_x0=False
    )
    y = np.asarray(solvers._noise(keys, 0, (2, 2, 1)), np.float64) * sigma[0]
    for here, there in zip(sigma[:-1], sigma[1:]):
        slope = (y - denoise(y, here)) / here
        ahead = y + (there - here) * slope
        if there > 0:
            slope = (slope + (ahead - denoise(ahead, there)) / there) / 2
            ahead = y + (there - here) * slope
        y = ahead
    np.testing.assert_allclose(found, y, atol=2e-4)
    # From two levels y is seen to start at sigma n, not at sqrt(1 + sigma^2) n: x0_hat = z tells.
    few = continuous.Edm(sigma_min=0.5, sigma_max=1.0).walk(2)
    options = {"schedule": few, "shape": (2, 2, 1), "parameterisation": "x0", "clip_x0": False}
    seen = []

    def tell(z, t):
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z, ordered=True)
        return z

    jax.block_until_ready(solvers.edm_heun(tell, keys, **options))
    jax.effects_barrier()
    n = np.asarray(solvers._noise(keys, 0, (2, 2, 1)))
    np.testing.assert_allclose(seen[0], n * 1.0 / np.sqrt(1 + 1.0**2), rtol=1e-6)
    assert process.ends == pytest.approx((-2 * np.log(80), -2 * np.log(0.002)))


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_the_network_of_a_run_sees_what_its_paper_says(name, monkeypatch):
    """Through the loss: c_in (x + sigma n) and ln(sigma) / 4, or (1 - t) x + t n and 1000 t."""
    config = tiny.config("tada", schedule__name=name, diffusion__variance="fixed_small")
    config.augment.p, config.diffusion.sigma_data = 0.0, 0.5
    parts, seen = build.parts(config, (8, 8, 1)), {}

    def network(self, params, z, t, *args, **options):
        seen.update(z=z, t=t)
        return z

    monkeypatch.setattr(unet.UNet, "apply", network)
    rng, x0 = jax.random.key(3), np.full((64, 8, 8, 1), 0.3, np.float32)

    def computed():
        terms = loss_fn(None, rng, x0, None, parts)
        rng_t, _, rng_noise, *_ = jax.random.split(rng, 5)
        drawn = parts.schedule.draw(rng_t, 64), jax.random.normal(rng_noise, x0.shape)
        return terms, seen, *drawn

    terms, seen, t, n = jax.tree.map(np.asarray, tiny.at_once(computed))
    time = t[:, None, None, None]
    if name == "edm":
        expected, told = (x0 + time * n) / np.sqrt(0.25 + time**2), np.log(t) / 4
        logsnr = -2 * np.log(t)
    else:
        expected, told, logsnr = (1 - time) * x0 + time * n, 1000 * t, 2 * np.log((1 - t) / t)
    np.testing.assert_allclose(seen["z"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(seen["t"], told, rtol=1e-5)
    np.testing.assert_allclose(terms["strength"], parts.strength(logsnr), atol=1e-4)


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_strength_follows_the_true_log_snr_of_the_formulation(name):
    """TADA's w at equal log SNR is the same in every formulation."""
    config = tiny.config("tada", schedule__name=name, diffusion__variance="fixed_small")
    parts, timesteps = build.parts(config, (8, 8, 1)), build.parts(tiny.config(), (8, 8, 1))
    r = np.array([-6.0, -4.5, -0.75, 3.0, 7.0])
    t = parts.schedule.time(r)
    np.testing.assert_allclose(
        parts.strength(parts.schedule.logsnr(t)), timesteps.strength(r), rtol=1e-3, atol=1e-4
    )
