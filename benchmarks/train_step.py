"""Training steps: images/s, arithmetic, share of the machine's peak, memory; and peers beside them.

python -m benchmarks.train_step --config=configs/digits_tada.py
python -m benchmarks.train_step --config=benchmarks/unet32.py --against=torch,diffusers
python -m benchmarks.train_step --config=configs/ffhq64_tada.py --side=64 \\
    --config.model.dtype=bfloat16 --against=torch,diffusers --compile

Ours is the whole step of a run: batches from the set on the device, augmentation, noise, network,
gradient, clipping, AdamW, averages. A peer's step begins with the batch on its device and does not
augment. All are repeated by turns in one process, with the same memory settings.
"""

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks import timing
from tada_jax import backend, build, training, unet
from tada_jax.data import order

CONFIG = config_flags.DEFINE_config_file("config", "benchmarks/unet32.py")
SIDE = flags.DEFINE_integer("side", None, "Of the images, pixels; None: by the configuration.")
CHANNELS = flags.DEFINE_integer("channels", None, "Of the images; None: by the configuration.")
IMAGES = flags.DEFINE_integer("images", 1024, "In the set, random ones.")
REPETITIONS = flags.DEFINE_integer("repetitions", 9, "Of each contestant.")
CALLS = flags.DEFINE_integer("calls", 1, "Of the step in one repetition.")
AGAINST = flags.DEFINE_list("against", [], "torch (our network in PyTorch), diffusers.")
COMPILE = flags.DEFINE_bool("compile", False, "Peers by torch.compile.")


def make(config, shape, count):
    """Our steps: (act() for one call, compiled program, images a call, parts, params)."""
    mesh = backend.data_mesh(config.train.batch_size)
    parts = build.parts(config, shape)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES.value, *shape), np.uint8)
    everywhere = backend.replicated(mesh)
    images = backend.put_whole(images, mesh)
    fetch = training.resident_batches(config, order.shuffled(len(images)), backend.over_batch(mesh))
    seed = np.uint32(config.seed)
    init = lambda s: training.init_state(parts, s, widths=config.ema.widths)  # noqa: E731
    state = jax.jit(init, out_shardings=everywhere)(seed)
    tally = jax.jit(lambda: training.empty_tally(parts), out_shardings=everywhere)()
    params = jax.device_get(state.params)
    steps = training.make_steps(parts, config, mesh, fetch)
    compiled = steps.lower(state, tally, seed, images, None, count).compile()
    carry = [state, tally]

    def act():
        carry[:] = compiled(*carry, seed, images, None)
        jax.block_until_ready(carry)

    return act, compiled, parts, params


def main(_):
    """Times the steps and prints."""
    config = CONFIG.value
    backend.enable_compilation_cache()
    shape = timing.image_shape(config, SIDE.value, CHANNELS.value)
    batch = config.train.batch_size
    backend.use_cpu_well(batch, pixels=shape[0] * shape[1], channels=config.model.channels)
    on_cpu = jax.default_backend() == "cpu"
    count = config.train.steps_per_call or (1 if on_cpu else 10)
    act, compiled, parts, params = make(config, shape, count)
    actions = {"tada_jax": lambda: [act() for _ in range(CALLS.value)]}
    sizes = {"tada_jax": unet.count_parameters(params)}
    if AGAINST.value:
        import torch

        from benchmarks import torch_peers

        device = "cpu" if on_cpu else "cuda"
        some = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
        for name in AGAINST.value:
            if name == "torch":
                network, _ = torch_peers.make("torch", parts, config, device)
                torch_peers.check(network, parts, params)
                del network
            step, sizes[name] = torch_peers.train_step(
                name, parts, config, some, device=device, compile_=COMPILE.value
            )
            actions[name] = lambda step=step: [step() for _ in range(CALLS.value * count)]
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    seconds = timing.interleaved(actions, REPETITIONS.value, warm_up=2)
    steps = CALLS.value * count
    seconds = {name: [s / steps for s in of] for name, of in seconds.items()}
    work = timing.flops(compiled) / batch  # a loop's body is counted once
    peak = timing.matmul_peak(dtype=config.model.dtype)
    machine = timing.machine()
    print(machine)
    for name, of in seconds.items():
        found = timing.summary(of)
        figures = {
            "benchmark": "train_step",
            "name": name,
            "shape": shape,
            "batch": batch,
            "dtype": config.model.dtype,
            "parameters": sizes[name],
            **found,
            "images_per_s": batch / found["median_s"],
            "process_GiB": timing.process_memory(),
            "machine": machine,
        }
        text = (
            f"{name}: {found['median_s'] * 1e3:,.1f} ms a step of {batch} images "
            f"({found['quartiles_s'][0] * 1e3:,.1f} to {found['quartiles_s'][1] * 1e3:,.1f}), "
            f"{figures['images_per_s']:,.1f} images/s, {sizes[name]:,} parameters"
        )
        if name == "tada_jax":
            share = work * figures["images_per_s"] / peak
            memory = timing.program_memory(compiled)
            figures |= {"flop_per_image": work, "matmul_peak": peak, "share_of_peak": share}
            figures |= {"device_GiB": memory}
            text += (
                f", {work / 1e9:.3g} GFLOP an image, {share:.0%} of the {peak / 1e9:,.0f} GFLOP/s "
                f"of matrix products, {memory:.2f} GiB a device"
            )
        else:
            figures["times_ours"] = timing.ratio(seconds, "tada_jax", name)
            text += f", {figures['times_ours']:.2f} times our time"
        timing.show(text, **figures)


if __name__ == "__main__":
    app.run(main)
