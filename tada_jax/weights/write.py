"""Weights for others: a pipeline folder of diffusers, or one file with guided-diffusion's names."""

import pathlib

import numpy as np
from safetensors.numpy import save_file

from tada_jax.model import schedule as schedules
from tada_jax.model import unet
from tada_jax.system.paths import replacing, to_json, write_whole
from tada_jax.weights import names

MODEL = "diffusion_pytorch_model.safetensors"
# Of a .safetensors file's metadata: what guided-diffusion's tensors do not tell, by section.
TOLD = "tada_jax"
TOLD_FIELDS = {
    "model": ("norm_groups", "head_channels", "num_heads", "attention_order"),
    "schedule": ("name", "total_timesteps", "rescale_timesteps"),
    "diffusion": ("parameterisation", "variance"),
}
SCHEDULERS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler"}
PIPELINES = {"ddim": "DDIMPipeline", "ddpm": "DDPMPipeline"}
_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_VERSION = "0.38.0"  # of diffusers, whose format this is


def without_condition(network: unet.UNet, params: dict) -> tuple[unet.UNet, dict]:
    """The same network without the vector that it is told besides, as if that were zeros."""
    return network.clone(condition_size=0), unet.with_condition(params, None)


def of_one_class(network: unet.UNet, params: dict, label: int) -> tuple[unet.UNet, dict]:
    """The network of one class: what it is told of it is added to a bias."""
    own = {name: value for name, value in params["params"].items() if name != "Embed_0"}
    told = np.asarray(params["params"]["Embed_0"]["embedding"])[label]
    own["time_out"] = {**own["time_out"], "bias": np.asarray(own["time_out"]["bias"]) + told}
    return network.clone(num_classes=0), {**params, "params": own}


def without_variance(network: unet.UNet, params: dict, channels: int) -> tuple[unet.UNet, dict]:
    """The network without the outputs of a learned variance."""
    own = dict(params["params"])
    cut = {name: np.asarray(value)[..., :channels] for name, value in own["conv_out"].items()}
    own["conv_out"] = cut
    return network.clone(out_channels=channels), {**params, "params": own}


def attends(network: unet.UNet, side: int) -> tuple[bool, ...]:
    """For each level, whether it has attention in images whose longer side is `side` pixels."""
    levels = range(len(network.channel_mult))
    return tuple(side // 2**level in network.attention_resolutions for level in levels)


def adm_tensors(network: unet.UNet, params: dict, side: int) -> dict[str, np.ndarray]:
    """Tensors by guided-diffusion's names.

    Args:
      network, params: the network.
      side: the longer side of images, pixels.

    Raises:
      ValueError: if no network of guided-diffusion is the same.
    """
    plain = unet.UNet(network.out_channels)
    for field in ("downsample_padding", "norm_epsilon", "time_embedding", "time_shift"):
        if getattr(network, field) != getattr(plain, field):
            raise ValueError(f"guided-diffusion has no {field}={getattr(network, field)!r}")
    return names.to_theirs(names.of_adm(network, attends(network, side)), params)


def told(config) -> dict[str, str]:
    """The metadata of a run's tensors by guided-diffusion's names; `read.read` knows them."""
    sections = {
        section: {name: config[section][name] for name in fields}
        for section, fields in TOLD_FIELDS.items()
    }
    return {TOLD: to_json(sections)}


def unet_config(network: unet.UNet, image_shape) -> dict:
    """The config.json of diffusers' UNet2DModel that is the same network.

    Args:
      network: the network, without condition.
      image_shape: (H, W, C).

    Raises:
      ValueError: if there is none.
    """
    h, w, c = image_shape
    has = attends(network, max(h, w))
    updown, levels = network.resblock_updown, range(len(network.channel_mult))
    if network.channel_mult[0] != 1:
        raise ValueError("diffusers tells t by as many numbers as the first level has channels")
    if not updown and not network.conv_resample:
        raise ValueError("diffusers has no model.conv_resample=False")
    if updown and network.downsample_padding != "both":
        raise ValueError("model.downsample_padding is of plain convolutions")
    plain = {"down": "DownBlock2D", "up": "UpBlock2D"}
    if updown:
        plain = {"down": "ResnetDownsampleBlock2D", "up": "ResnetUpsampleBlock2D"}
    down = [f"Attn{'Down'}Block2D" if has[level] else plain["down"] for level in levels]
    up = [f"Attn{'Up'}Block2D" if has[level] else plain["up"] for level in reversed(levels)]
    widths = [network.width(level) for level in levels]
    how = "resnet" if updown else "conv"
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "sample_size": h if h == w else [h, w],
        "in_channels": c,
        "out_channels": network.out_channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": network.time_shift,
        "flip_sin_to_cos": network.time_embedding == "cos_sin",
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": network.num_res_blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": 1 if network.downsample_padding == "both" else 0,
        "downsample_type": how,
        "upsample_type": how,
        "dropout": network.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_width(network, has, widths),
        "norm_num_groups": network.norm_groups,
        "attn_norm_num_groups": network.norm_groups,
        "norm_eps": network.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if network.scale_shift else "default",
        "class_embed_type": None,
        "num_class_embeds": network.num_classes or None,
        "add_attention": True,
    }


def _head_width(network, has, widths) -> int | None:
    """diffusers' attention_head_dim: one for all attentions, or None for one head."""
    if network.num_heads == 1:
        return None
    used = [width for width, attention in zip(widths, has) if attention] + widths[-1:]
    heads = {network.head_width(width) for width in used}
    if len(heads) > 1:
        raise ValueError(
            f"diffusers has heads of one width, and model.num_heads={network.num_heads} makes them "
            f"{', '.join(map(str, sorted(heads)))} channels wide"
        )
    return heads.pop()


def scheduler_config(
    schedule: schedules.Schedule,
    *,
    scheduler: str,
    parameterisation: str,
    variance: str,
    clip: bool,
) -> dict:
    """The scheduler_config.json of diffusers for the same noise levels.

    Args:
      schedule: the full schedule.
      scheduler: of `SCHEDULERS`.
      parameterisation, variance: of the section `diffusion`.
      clip: whether x0_hat is clipped to [-1, 1].

    Raises:
      ValueError: if diffusers has none.
    """
    if not isinstance(schedule, schedules.Schedule):
        raise ValueError("diffusers' DDPM and DDIM pipelines know timesteps alone")
    if schedule.rescaled and schedule.total_timesteps != 1000:
        raise ValueError("diffusers tells its network t as it is, schedule.rescale_timesteps=False")
    if parameterisation not in _PREDICTIONS:
        raise ValueError(f"diffusers has no prediction_type for {parameterisation!r}")
    made = {
        "_class_name": SCHEDULERS[scheduler],
        "_diffusers_version": _VERSION,
        "num_train_timesteps": schedule.total_timesteps,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": [float(beta) for beta in schedule.betas],
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "prediction_type": _PREDICTIONS[parameterisation],
        "timestep_spacing": "leading",
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "steps_offset": 0,
    }
    if scheduler == "ddim":
        return made | {"set_alpha_to_one": True}
    return made | {"variance_type": variance}


def write_pipeline(
    folder: pathlib.Path, unet_json: dict, scheduler_json: dict, tensors: dict[str, np.ndarray]
) -> None:
    """Writes a pipeline of diffusers into a folder: its index, network and scheduler.

    Raises:
      OSError: if it cannot be written.
    """
    kind = next(k for k, name in SCHEDULERS.items() if name == scheduler_json["_class_name"])
    index = {
        "_class_name": PIPELINES[kind],
        "_diffusers_version": _VERSION,
        "scheduler": ["diffusers", scheduler_json["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for name, content in (
        ("model_index.json", index),
        ("unet/config.json", unet_json),
        ("scheduler/scheduler_config.json", scheduler_json),
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, to_json(content, indent=2) + "\n")
    write_tensors(folder / "unet" / MODEL, tensors)


def write_tensors(
    file: pathlib.Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors as .safetensors, whole or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    with replacing(file) as partial:
        save_file(tensors, partial, metadata={"format": "pt", **(metadata or {})})
