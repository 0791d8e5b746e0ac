"""Weights of others from a file or a folder, with the network that they are of."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tada_jax.data.names import parse_json
from tada_jax.model import schedule as schedules
from tada_jax.model.diffusion import PARAMETERISATIONS, VARIANCES
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded
from tada_jax.weights import torch_file
from tada_jax.weights.inference import Inferred, infer
from tada_jax.weights.write import TOLD, TOLD_FIELDS

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_MODEL = "diffusion_pytorch_model"  # of diffusers, .safetensors or .bin
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
_MOST_TIMESTEPS = 100_000
# Of diffusers, those of networks that predict at timesteps of one of our schedules.
_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
_TYPES = ("float16", "float32", "float64", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Tensors of somebody's network.

    Attributes:
      path: where they lie.
      tensors: by name, read when looked at.
      inferred: the network.
      diffusion: fields of the section `diffusion` that the file tells or its family has.
      said: lines about what is not as usual.
    """

    path: pathlib.Path
    tensors: Mapping[str, np.ndarray]
    inferred: Inferred
    diffusion: dict[str, Any]
    said: tuple[str, ...] = ()


def read(path) -> Weights:
    """Reads weights: their names and shapes now, their numbers when they are used.

    Args:
      path: of a .pt or .pth of guided-diffusion's kind, of .safetensors with the same names, or of
        a folder of diffusers, that of the pipeline or of its `unet`.

    Raises:
      UserError: if it cannot be read, or is of a network that is not known.
    """
    path = expanded(path)
    config, scheduler = None, None
    try:
        file = path
        if path.is_dir():
            file, config, scheduler = _of_folder(path)
        tensors = _tensors(file)
        _check_types(tensors)
        inferred = infer({name: tuple(tensors.shape(name)) for name in tensors}, config)
        schedule, more, said = _of_scheduler(scheduler) if scheduler else ({}, {}, [])
        if told := _told(tensors) if config is None else {}:
            inferred = dataclasses.replace(inferred, assumed=told["model"], told=True)
            schedule, more = told["schedule"], told["diffusion"]
            if (more["variance"] == "learned_range") != inferred.learned_variance:
                raise ValueError(f"has other outputs than its metadata `{TOLD}` says")
    except OSError as error:
        raise UserError(
            f"init.weights={path} cannot be read ({error.strerror or error})"
        ) from error
    except ValueError as error:
        raise UserError(f"init.weights={path} {error}") from error
    diffusion = {"parameterisation": "eps"}
    diffusion["variance"] = "learned_range" if inferred.learned_variance else "fixed_large"
    inferred = dataclasses.replace(inferred, schedule=inferred.schedule | schedule)
    diffusion |= more
    return Weights(path, tensors, inferred, diffusion, tuple(said))


def _of_folder(path: pathlib.Path) -> tuple[pathlib.Path, dict, dict | None]:
    """(file of tensors, its config, that of the scheduler if there is one) of diffusers."""
    index = path / "model_index.json"
    if index.is_file():
        pipeline = _json(index)
        kind = pipeline.get("_class_name")
        if kind not in _PIPELINES or any(part in pipeline for part in ("vae", "vqvae")):
            raise ValueError(
                f"is a {str(kind)[:40]} of diffusers: {' and '.join(_PIPELINES)}, of pixels, are "
                "read"
            )
    model = path / "unet" if (path / "unet" / "config.json").is_file() else path
    if not (model / "config.json").is_file():
        raise ValueError(
            "is a folder without the config.json of diffusers' UNet2DModel: name a file, or, for a "
            "run of this tool, set init.workdir"
        )
    files = [model / f"{_MODEL}{ending}" for ending in (".safetensors", ".bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(f"has no {files[0].name} or {files[1].name} beside its config.json")
    schedulers = (path, path / "scheduler", model.parent / "scheduler")
    beside = [folder / "scheduler_config.json" for folder in schedulers]
    scheduler = next((each for each in beside if each.is_file()), None)
    return file, _json(model / "config.json"), scheduler and _json(scheduler)


def _json(file: pathlib.Path) -> dict:
    try:
        found = parse_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"has a {file.name} that is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"has a {file.name} that is no JSON object")
    return found


class _Torch(Mapping):
    """The tensors of a file of PyTorch."""

    def __init__(self, file):
        self._tensors = torch_file.read_state_dict(file)

    def __getitem__(self, name):
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    def shape(self, name):
        return self._tensors[name].shape

    def type(self, name):
        return self._tensors[name].dtype.name

    def release(self, array):
        self._tensors.release(array)


class _Safetensors(Mapping):
    """The tensors of a .safetensors file."""

    def __init__(self, file):
        import safetensors

        try:
            self._file = safetensors.safe_open(str(file), framework="np")
        except safetensors.SafetensorError as error:
            raise ValueError(f"is damaged or cut short ({error}): fetch it again") from error
        self._names = list(self._file.keys())
        self.metadata = self._file.metadata() or {}

    def __getitem__(self, name):
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def shape(self, name):
        return self._file.get_slice(name).get_shape()

    def type(self, name):
        kind = self._file.get_slice(name).get_dtype()
        known = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
        return known.get(kind, kind)

    def release(self, array):
        """Nothing: each tensor is a copy."""


def _tensors(file: pathlib.Path):
    ending = file.suffix.lower()
    if ending == ".pkl":
        raise ValueError(
            "is a pickle, as EDM's and StyleGAN's, which holds source code and cannot be read "
            "without running it: save the state dict of its network by torch.save"
        )
    if ending == ".safetensors":
        with file.open("rb"):  # for an error that names the reason
            return _Safetensors(file)
    if ending in _TORCH:
        return _Torch(file)
    raise ValueError(f"is no file of weights: {', '.join(_TORCH)}, .safetensors, or a folder")


def _told(tensors) -> dict[str, dict[str, Any]]:
    """What our own exports say of a network besides its tensors, by section; {} of other files.

    Raises:
      ValueError: if it is not as we write it.
    """
    text = getattr(tensors, "metadata", {}).get(TOLD)
    if text is None:
        return {}
    known = {
        "norm_groups": range(1, _MOST_TIMESTEPS),
        "head_channels": range(1, _MOST_TIMESTEPS),
        "num_heads": range(_MOST_TIMESTEPS),
        "total_timesteps": range(2, _MOST_TIMESTEPS + 1),
        "attention_order": ("legacy", "new"),
        "name": tuple(schedules.SCHEDULES),
        "rescale_timesteps": (True, False),
        "parameterisation": PARAMETERISATIONS,
        "variance": VARIANCES,
    }

    def fits(name, value):
        return type(value) is type(known[name][0]) and value in known[name]

    try:
        found = parse_json(text)
    except ValueError:
        found = None
    for section, names in TOLD_FIELDS.items():
        fields = found.get(section) if isinstance(found, dict) else None
        if not isinstance(fields, dict) or set(fields) != set(names):
            raise ValueError(f"has metadata `{TOLD}` without {section}: export it again")
        for name, value in fields.items():
            if not fits(name, value):
                raise ValueError(f"has {section}.{name}={str(value)[:40]!r} in its metadata")
    return found


def _of_scheduler(config: dict) -> tuple[dict, dict, list[str]]:
    """(fields of `schedule`, fields of `diffusion`, lines) of diffusers' scheduler.

    Raises:
      ValueError: for one of networks that mean something else.
    """
    kind = config.get("_class_name", _SCHEDULERS[0])
    if kind not in _SCHEDULERS:
        raise ValueError(f"has the scheduler {str(kind)[:40]}, whose network means something else")
    total = config.get("num_train_timesteps", 1000)
    if type(total) is not int or not 2 <= total <= _MOST_TIMESTEPS:
        raise ValueError(
            f"has num_train_timesteps={total!r}, no number from 2 to {_MOST_TIMESTEPS:,}"
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("has rescale_betas_zero_snr, a noise schedule that ends in noise alone")
    prediction = config.get("prediction_type") or "epsilon"
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ValueError(
            f"has prediction_type={str(prediction)[:40]!r}, and {', '.join(_PREDICTIONS)} are known"
        )
    schedule, said = {"total_timesteps": total}, []
    name = _known_schedule(config, total)
    if name is None:
        said.append("its noise schedule is none of linear and cosine: the configuration's is taken")
    else:
        schedule["name"] = name
    diffusion = {"parameterisation": _PREDICTIONS[prediction]}
    variance = config.get("variance_type")
    if isinstance(variance, str) and variance in _VARIANCES:
        diffusion["variance"] = _VARIANCES[variance]
    return schedule, diffusion, said


def _known_schedule(config: dict, total: int) -> str | None:
    """The name of the schedule with these betas; None if there is none."""
    betas = config.get("trained_betas")
    kind = config.get("beta_schedule", "linear")
    if betas is None and kind == "squaredcos_cap_v2":
        return "cosine"
    if betas is None and kind == "linear":
        ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
        if not all(type(end) in (int, float) for end in ends):
            raise ValueError(f"has a linear schedule from {ends[0]!r} to {ends[1]!r}")
        betas = np.linspace(*ends, total)
    try:
        betas = np.asarray(betas, np.float64)
    except (TypeError, ValueError):
        raise ValueError("has trained_betas that are no numbers") from None
    for name in schedules.SCHEDULES:
        try:
            ours = schedules.make(name, total).betas
        except ValueError:
            continue
        if betas.shape == ours.shape and np.allclose(betas, ours, rtol=1e-4, atol=1e-7):
            return name
    return None


def _check_types(tensors) -> None:
    """Refuses tensors of other numbers, as those of a quantised network."""
    for name in tensors:
        kind = tensors.type(name)
        if kind not in _TYPES:
            raise ValueError(f"has {name} of {kind} numbers, and {', '.join(_TYPES)} are read")
