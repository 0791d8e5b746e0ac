import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import continuous, schedule, solvers

MEAN, STD = 0.3, 0.2  # of the pixels of the data
SHAPE = (4, 3, 1)
SOLVERS = ("dpmpp_2m", "heun")
DETERMINISTIC = ("ddim", *SOLVERS)


def network(full, x0_hat, parameterisation="eps"):
    """What a network outputs whose x0_hat is x0_hat(z, alpha, sigma)."""

    def predict(z, t):
        alpha, sigma = (a[:, None, None, None] for a in (full.alpha(t), full.sigma(t)))
        x0 = x0_hat(z, alpha, sigma)
        eps = (z - alpha * x0) / sigma
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[parameterisation]

    return predict


def gaussian(mean=MEAN, std=STD):
    """The ideal x0_hat for data N(mean, std^2): the posterior mean is known in closed form."""

    def x0_hat(z, alpha, sigma):
        return mean + alpha * std**2 * (z - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return x0_hat


def mixture(z, alpha, sigma):
    """The ideal x0_hat for images that are N(0.5, 0.1^2) or, as often, N(-0.5, 0.1^2)."""
    var = alpha**2 * 0.1**2 + sigma**2
    which = jnp.tanh(jnp.sum(alpha * 0.5 * z / var, axis=(1, 2, 3), keepdims=True))
    mean = 0.5 * which
    return mean + alpha * 0.1**2 * (z - alpha * mean) / var


def draw(
    sampler,
    steps=None,
    count=400,
    parameterisation="eps",
    total=200,
    stride="even",
    x0_hat=None,
    **options,
):
    full = schedule.make("cosine", total)
    short = schedule.respace(full, steps, stride=stride) if steps else full
    keys = solvers.sample_keys(0, jnp.arange(count))
    predict = network(full, x0_hat or gaussian(), parameterisation)

    def run(keys):
        return sampler(
            predict,
            keys,
            schedule=short,
            shape=SHAPE,
            parameterisation=parameterisation,
            **{"clip_x0": False} | options,
        )

    return jax.jit(run)(keys)


@pytest.mark.parametrize("parameterisation", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (solvers.ddpm, {"variance": "fixed_small"}),
        (solvers.ddpm, {"variance": "fixed_large"}),
        (solvers.ddim, {}),
        (solvers.ddim, {"eta": 0.5}),
        (solvers.ddim, {"steps": 40}),
        (solvers.dpmpp_2m, {"steps": 40}),
        (solvers.dpmpp_2m, {"steps": 15, "stride": "logsnr"}),
        (solvers.heun, {"steps": 40}),
    ],
)
def test_recovers_a_gaussian_whose_score_is_known(sampler, options, parameterisation):
    x = np.asarray(draw(sampler, parameterisation=parameterisation, **options))
    n = x.size
    assert x.mean() == pytest.approx(MEAN, abs=4 * STD / np.sqrt(n) + 0.005)
    # A shorter DDIM walk contracts or spreads a little; the ancestral ones are exact at T = 200.
    assert x.std() == pytest.approx(STD, rel=4 / np.sqrt(2 * n) + 0.05)


def test_ddim_with_eta_1_on_the_full_grid_is_ancestral_with_the_small_variance():
    for clip_x0 in (False, True):
        ddim = draw(solvers.ddim, eta=1.0, clip_x0=clip_x0)
        ddpm = draw(solvers.ddpm, variance="fixed_small", clip_x0=clip_x0)
        np.testing.assert_allclose(ddim, ddpm, atol=2e-5)


def test_ddim_converges_to_the_exact_flow_at_first_order():
    """For Gaussian data the flow is affine: x0 = MEAN + STD (z_T - alpha_T MEAN) / std(z_T)."""

    def largest_error(total):
        full = schedule.make("cosine", total)
        z = solvers._noise(solvers.sample_keys(0, jnp.arange(8)), 0, SHAPE)
        a, s = float(full.alpha(total - 1)), float(full.sigma(total - 1))
        exact = MEAN + STD * (z - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)
        return np.abs(draw(solvers.ddim, total=total, count=8) - exact).max()

    coarse, fine = largest_error(250), largest_error(1000)
    assert fine < 3e-3
    assert 3 < coarse / fine < 5


def even_steps(full, steps):
    return schedule.respace(full, steps + 1, stride="logsnr")


def alternating_steps(full, steps):
    """Every other step in log SNR three times as long as the one before it."""
    fine = schedule.respace(full, 2 * steps + 1, stride="logsnr")
    kept = np.append(0, np.cumsum(np.resize([1, 3], steps)))
    return schedule.Schedule(fine.alpha_bar[kept], fine.timesteps[kept], full.total_timesteps)


@pytest.mark.parametrize("grid", [even_steps, alternating_steps])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_order_of_convergence_to_the_exact_flow(name, order, grid):
    """So many timesteps that rounding to them, and the step to sigma = 0, hardly matter."""
    full = schedule.make("linear", 20_000)
    mean, std = np.linspace(-0.5, 0.5, 12).reshape(SHAPE), np.linspace(1, 0.3, 12).reshape(SHAPE)
    keys = solvers.sample_keys(0, jnp.arange(8))
    a, s = np.sqrt(full.alpha_bar[-1]), np.sqrt(1 - full.alpha_bar[-1])
    z = np.asarray(solvers._noise(keys, 0, SHAPE), np.float64)
    exact = mean + std * (z - a * mean) / np.sqrt(a**2 * std**2 + s**2)

    def error(steps):
        predict = network(full, gaussian(mean, std), "v")

        def run(keys):
            return solvers.SAMPLERS[name](
                predict,
                keys,
                schedule=grid(full, steps),
                shape=SHAPE,
                parameterisation="v",
                clip_x0=False,
            )

        return float(np.sqrt(np.mean((jax.jit(run)(keys) - exact) ** 2)))

    steps = [40, 80, 160]
    errors = [error(n) for n in steps]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)
    assert errors[-1] < {1: 0.02, 2: 0.001}[order]


def dpmpp_2m_in_float64(x0_hat, z, alpha, sigma, lam):
    """Algorithm 2 of Lu et al. as printed, on [steps] from noise to image.

    But the step to t = 0 is of first order where it is a leap.
    """
    x = [x0_hat(z, alpha[0], sigma[0])]
    for i in range(1, len(lam)):
        h, d = lam[i] - lam[i - 1], x[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            if i == len(lam) - 1 and r < 0.5:
                r = np.inf
            d = (1 + 1 / (2 * r)) * x[-1] - 1 / (2 * r) * x[-2]
        z = sigma[i] / sigma[i - 1] * z - alpha[i] * (np.exp(-h) - 1) * d
        x.append(x0_hat(z, alpha[i], sigma[i]))
    return x[-1]


def heun_in_float64(x0_hat, z, alpha, sigma, lam):
    """ETD2RK of Cox & Matthews for dy/dlam = c y + F with c = -1, y = z / alpha, F = x0_hat."""
    for i in range(1, len(lam)):
        h, y, c = lam[i] - lam[i - 1], z / alpha[i - 1], -1
        f = x0_hat(z, alpha[i - 1], sigma[i - 1])
        a = y * np.exp(c * h) + f * (np.exp(c * h) - 1) / c
        change = x0_hat(alpha[i] * a, alpha[i], sigma[i]) - f
        z = alpha[i] * (a + change * (np.exp(c * h) - 1 - h * c) / (h * c**2))
    return x0_hat(z, alpha[-1], sigma[-1])


@pytest.mark.parametrize("first", [3, 12])  # the step to t = 0 is a leap, or not
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_the_papers_on_uneven_steps(name, first):
    """The order alone would not see h_last / h inverted, nor an alpha of the other end."""
    reference = {"dpmpp_2m": dpmpp_2m_in_float64, "heun": heun_in_float64}[name]
    full = schedule.make("cosine", 200)
    kept = np.array([0, first, 20, 25, 80, 110, 120, 180, 199])
    short = schedule.Schedule(full.alpha_bar[kept], full.timesteps[kept], 200)
    alpha, sigma = np.sqrt(short.alpha_bar[::-1]), np.sqrt(1 - short.alpha_bar[::-1])
    keys = solvers.sample_keys(0, jnp.arange(4))
    z = np.asarray(solvers._noise(keys, 0, SHAPE), np.float64)
    got = solvers.SAMPLERS[name](
        network(full, gaussian(), "x0"),
        keys,
        schedule=short,
        shape=SHAPE,
        parameterisation="x0",
        clip_x0=False,
    )
    exact = reference(gaussian(), z, alpha, sigma, np.log(alpha / sigma))
    np.testing.assert_allclose(got, exact, atol=1e-5)


# Strides: a Gaussian with a spectrum, as images have one; the walk in float64, by its rows.

SPREAD = np.geomspace(2.0, 0.03, 12)  # standard deviations along the principal axes


def rows_of(sampler, short):
    if sampler == "dpmpp_2m":
        return solvers._dpmpp_2m_rows(short)
    if sampler == "heun":
        return solvers._heun_rows(short, solvers._exponential)
    keep, new = solvers._first_order(short)
    t = np.arange(len(short))[::-1]
    return solvers._Rows(t, keep[t], new[t], 0 * keep)


def rms_error(rows, short, start):
    """Of x_0 against the exact flow for z_T ~ N(0, 1), over the axes; `start`: log SNR of z_T."""
    z, last = np.ones(len(SPREAD)), np.zeros(len(SPREAD))
    for t, keep, new, of_last in zip(*rows):
        a, s2 = np.sqrt(short.alpha_bar[t]), 1 - short.alpha_bar[t]
        x0 = a * SPREAD**2 / (a**2 * SPREAD**2 + s2) * z
        z, last = keep * z + new * x0 + of_last * last, x0
    a2 = 1 / (1 + np.exp(-start))
    return np.sqrt(np.mean((z - SPREAD / np.sqrt(a2 * SPREAD**2 + 1 - a2)) ** 2))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_dpmpp_2m_does_not_extrapolate_over_the_leap_of_even_timesteps_to_0(name, steps):
    full = schedule.make(name, 1000)
    short = schedule.respace(full, steps)
    rows = rows_of("dpmpp_2m", short)
    row = list(rows.t).index(1)  # the step to t = 0
    assert rows.last[row] == 0 and rows.last[row - 1] != 0
    h = solvers._step_lengths(short)
    assert h[0] > 2 * h[1]
    new, last = rows.new.copy(), rows.last.copy()
    ahead = h[0] / (2 * h[1])
    new[row], last[row] = new[row] * (1 + ahead), -new[row] * ahead
    leap = rms_error(rows._replace(new=new, last=last), short, full.ends[0])
    assert rms_error(rows, short, full.ends[0]) < 0.75 * leap
    even = schedule.respace(full, steps, stride="logsnr")
    assert (rows_of("dpmpp_2m", even).last[1:-1] != 0).all()  # no leap: second order to the end


@pytest.mark.parametrize("name", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "ddim"])
def test_auto_is_the_best_stride_of_a_sampler(sampler, name):
    """From 20 evaluations (`heun`: 50); ddim's is kept where another is better by less than .4."""
    full = {"edm": continuous.Edm, "flow": continuous.Flow}.get(name)
    full = full() if full else schedule.make(name, 1000)
    best = solvers.stride_for(sampler, "auto")
    for steps in (50,) if sampler == "heun" else (20, 50):
        error = {}
        for stride in ("even", "logsnr", "tapered"):
            short = full.walk(steps // 2 if sampler == "heun" else steps, stride=stride, side=8)
            error[stride] = rms_error(rows_of(sampler, short), short, full.ends[0])
        kept = sampler == "ddim" and name in ("linear", "edm")
        assert error[best] <= min(error.values()) * (1.4 if kept else 1.0)


def test_strides_that_are_named_mean_themselves():
    for sampler in solvers.SAMPLERS:
        assert solvers.stride_for(sampler, "auto") in schedule.STRIDES
        for stride in schedule.STRIDES:
            assert solvers.stride_for(sampler, stride) == stride
    assert solvers.stride_for("ddim", "auto") == "even"  # what it meant before there was "auto"


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_agree_with_a_long_ddim_on_two_modes(name):
    draw_mixture = functools.partial(draw, total=1000, count=200, x0_hat=mixture)
    long = np.asarray(draw_mixture(solvers.ddim))
    short = np.asarray(draw_mixture(solvers.SAMPLERS[name], steps=40, stride="logsnr"))
    ddim = np.asarray(draw_mixture(solvers.ddim, steps=40, stride="logsnr"))
    mode = long.mean((1, 2, 3)) > 0
    assert 70 < mode.sum() < 130
    error = np.abs(short - long).max((1, 2, 3))
    assert np.mean(error < 0.02) >= 0.98  # a sample between the modes may fall to the other side
    assert np.median(error) < np.median(np.abs(ddim - long).max((1, 2, 3))) / 2
    np.testing.assert_allclose(short[mode].mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(short[~mode].std(), 0.1, atol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_parameterisations_of_the_same_denoiser_give_the_same_samples(name):
    for clip_x0 in (False, True):
        eps, x0, v = (
            draw(
                solvers.SAMPLERS[name],
                steps=12,
                count=8,
                parameterisation=parameterisation,
                x0_hat=gaussian(0.3, 0.6),
                clip_x0=clip_x0,
            )
            for parameterisation in ("eps", "x0", "v")
        )
        # In float32, x0_hat from eps is only good to about 1e-7 / alpha: 4e-4 in the first step.
        np.testing.assert_allclose(eps, x0, atol=1e-3)
        np.testing.assert_allclose(v, x0, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_learned_variance_is_ignored(name):
    full = schedule.make("cosine", 50)
    plain = network(full, gaussian())

    def learned(z, t):
        return jnp.concatenate([plain(z, t), jnp.full_like(z, jnp.nan)], axis=-1)

    keys, options = solvers.sample_keys(0, jnp.arange(3)), {"schedule": full, "shape": SHAPE}
    one = solvers.SAMPLERS[name](plain, keys, **options)
    two = solvers.SAMPLERS[name](learned, keys, **options, variance="learned_range")
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "evaluations"), [("ddim", 7), ("dpmpp_2m", 7), ("heun", 2 * 7 - 1)]
)
def test_one_scan_and_so_many_network_evaluations(name, evaluations):
    full = schedule.make("cosine", 100)
    short, plain, asked = schedule.respace(full, 7), network(full, gaussian()), []

    def predict(z, t):
        jax.debug.callback(lambda t: asked.append(int(t)), t[0], ordered=True)
        return plain(z, t)

    def run(keys):
        return solvers.SAMPLERS[name](predict, keys, schedule=short, shape=SHAPE)

    keys = solvers.sample_keys(0, jnp.arange(2))
    assert str(jax.make_jaxpr(run)(keys)).count(" scan[") == 1
    assert not asked
    jax.block_until_ready(jax.jit(run)(keys))
    jax.effects_barrier()
    assert len(asked) == evaluations
    assert asked == sorted(asked, reverse=True)
    assert sorted(set(asked)) == list(short.timesteps)


@pytest.mark.parametrize("stride", ["even", "logsnr"])
@pytest.mark.parametrize("name", SOLVERS)
def test_no_step_throws_z_out_of_the_range_of_noise(name, stride):
    """Even where x0_hat jumps from -1 to 1 at every timestep; seen, since the end is clipped."""
    full, seen = schedule.make("cosine", 1000), []
    short = schedule.respace(full, 6, stride=stride)
    sign = jnp.zeros(1000).at[short.timesteps].set(jnp.array([1, -1, 1, -1, 1, -1]))

    def predict(z, t):
        jax.debug.callback(lambda a: seen.append(float(a)), jnp.abs(z).max())
        return jnp.broadcast_to(sign[t][:, None, None, None], z.shape)

    keys = solvers.sample_keys(0, jnp.arange(16))
    options = {"schedule": short, "shape": SHAPE, "parameterisation": "x0"}
    x = solvers.SAMPLERS[name](predict, keys, **options)
    jax.effects_barrier()
    np.testing.assert_array_equal(x, 1)
    assert len(seen) >= 6
    assert max(seen) < 10


@pytest.mark.parametrize(
    ("name", "options"), [("ddpm", {"variance": "fixed_large"}), *((n, {}) for n in DETERMINISTIC)]
)
def test_a_sample_depends_on_its_own_key_only(name, options):
    many = draw(solvers.SAMPLERS[name], count=12, steps=30, **options)
    few = draw(solvers.SAMPLERS[name], count=5, steps=30, **options)
    np.testing.assert_allclose(few, many[:5], atol=1e-6)
    assert len(np.unique(np.asarray(many).round(4), axis=0)) == 12


def test_keys_of_samples_do_not_depend_on_where_a_batch_begins():
    np.testing.assert_array_equal(
        jax.random.key_data(solvers.sample_keys(3, jnp.arange(7, 9))),
        jax.random.key_data(solvers.sample_keys(3, jnp.arange(9)))[7:],
    )


def test_samplers_start_from_the_same_noise_whatever_their_steps():
    """So that grids by different samplers show the same pictures, where they agree."""
    long, short = draw(solvers.ddim, count=8), draw(solvers.ddim, steps=50, count=8)
    assert np.corrcoef(np.ravel(long), np.ravel(short))[0, 1] > 0.99


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_clipping_keeps_x0_in_range_at_the_last_step(name):
    """Of an untrained network too, whose x0_hat at T-1 is of the order of 1 / alpha."""
    keys, full = solvers.sample_keys(0, jnp.arange(20)), schedule.make("cosine", 1000)
    assert 1 / float(full.alpha(999)) > 1e4
    for steps in (2, 3, 20):
        short = schedule.respace(full, steps)
        x = solvers.SAMPLERS[name](lambda z, t: -9 * z, keys, schedule=short, shape=SHAPE)
        assert float(jnp.abs(x).max()) <= 1
