"""Weights of others from a file or a folder, with the network that they are of."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tada_jax.model import schedule as schedules
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded
from tada_jax.weights import torch_file
from tada_jax.weights.inference import Inferred, infer

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_MODEL = "diffusion_pytorch_model"  # of diffusers, .safetensors or .bin
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = ("fixed_small", "fixed_large", "learned_range")


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
        inferred = infer({name: tuple(tensors.shape(name)) for name in tensors}, config)
    except OSError as error:
        raise UserError(
            f"init.weights={path} cannot be read ({error.strerror or error})"
        ) from error
    except ValueError as error:
        raise UserError(f"init.weights={path} {error}") from error
    said = []
    diffusion = {"parameterisation": "eps"}
    diffusion["variance"] = "learned_range" if inferred.learned_variance else "fixed_large"
    if scheduler is not None:
        schedule, more, said = _of_scheduler(scheduler)
        inferred = dataclasses.replace(inferred, schedule=inferred.schedule | schedule)
        diffusion |= more
    return Weights(path, tensors, inferred, diffusion, tuple(said))


def _of_folder(path: pathlib.Path) -> tuple[pathlib.Path, dict, dict | None]:
    """(file of tensors, its config, that of the scheduler if there is one) of diffusers."""
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
        found = json.loads(file.read_text())
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


class _Safetensors(Mapping):
    """The tensors of a .safetensors file."""

    def __init__(self, file):
        import safetensors

        try:
            self._file = safetensors.safe_open(str(file), framework="np")
        except safetensors.SafetensorError as error:
            raise ValueError(f"is damaged or cut short ({error}): fetch it again") from error
        self._names = list(self._file.keys())

    def __getitem__(self, name):
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def shape(self, name):
        return self._file.get_slice(name).get_shape()


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


def _of_scheduler(config: dict) -> tuple[dict, dict, list[str]]:
    """(fields of `schedule`, fields of `diffusion`, lines) of diffusers' scheduler."""
    total = int(config.get("num_train_timesteps", 1000))
    schedule, diffusion, said = {"total_timesteps": total}, {}, []
    name = _known_schedule(config, total)
    if name is None:
        said.append("its noise schedule is none of linear and cosine: the configuration's is taken")
    else:
        schedule["name"] = name
    prediction = config.get("prediction_type", "epsilon")
    if prediction in _PREDICTIONS:
        diffusion["parameterisation"] = _PREDICTIONS[prediction]
    variance = config.get("variance_type", "fixed_small")
    if variance in _VARIANCES:
        diffusion["variance"] = variance
    return schedule, diffusion, said


def _known_schedule(config: dict, total: int) -> str | None:
    """The name of the schedule with these betas; None if there is none."""
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float64)
    elif config.get("beta_schedule", "linear") == "linear":
        betas = np.linspace(start, end, total)
    elif config["beta_schedule"] == "squaredcos_cap_v2":
        return "cosine"
    else:
        return None
    for name in schedules.SCHEDULES:
        try:
            ours = schedules.make(name, total).betas
        except ValueError:
            continue
        if betas.shape == ours.shape and np.allclose(betas, ours, rtol=1e-4, atol=1e-7):
            return name
    return None
