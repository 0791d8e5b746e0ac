"""Weights of others: read, refused, adapted, and what is said of it."""

import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

import tada_jax
from configs import finetune
from tada_jax.model import unet
from tada_jax.setup import build
from tada_jax.system.errors import UserError
from tada_jax.training.step import state_shapes
from tada_jax.weights import adapt, load, names, read, write
from tests import tiny
from tests.weights.test_names import assert_same, network

pytestmark = pytest.mark.usefixtures("whole_networks")

SMALL = {
    "model__channels": 8,
    "model__channel_mult": (1, 2, 2),
    "model__head_channels": 4,
    "model__norm_groups": 4,
    "model__attention_resolutions": (8,),
    "schedule__name": "linear",
    "schedule__total_timesteps": 1000,
}


def adm_file(path, title="classes and variance", change=lambda tensors: tensors):
    """A .safetensors of guided-diffusion's names, of an entry of `NETWORKS`."""
    made, shape, params = network(title)
    tensors = names.to_theirs(names.of_adm(made, write.attends(made, shape[0])), params)
    save_file(change(tensors), path)
    return path


def diffusers_folder(path, title="ADM", **scheduler):
    made, shape, params = network(title)
    tensors = names.to_theirs(names.of_diffusers(made, write.attends(made, shape[0])), params)
    (path / "scheduler").mkdir(parents=True)
    (path / "unet").mkdir()
    (path / "unet" / "config.json").write_text(json.dumps(write.unet_config(made, shape)))
    scheduler = {"beta_schedule": "linear", "num_train_timesteps": 1000} | scheduler
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file(tensors, path / "unet" / write.MODEL)
    return path


def loaded(path, image_shape=(16, 16, 3), num_classes=5, **fields):
    """`load.load` for a run of these fields, as a training calls it."""
    options = SMALL | {"init__weights": str(path), "model__class_conditional": num_classes > 0}
    config = tiny.config(**options | fields)
    parts = build.parts(config, image_shape, num_classes)
    shapes = state_shapes(parts, config).params
    found = load.load(config, parts.network, image_shape, shapes)
    here = {k: v.shape for k, v in flat(shapes).items()}
    assert {k: v.shape for k, v in flat(found.params).items()} == here
    return found, parts


def flat(tree, prefix=""):
    made = {}
    for name, value in tree.items():
        inside = f"{prefix}/{name}"
        made |= flat(value, inside) if isinstance(value, dict) else {inside: value}
    return made


def refusal(*args, **fields):
    with pytest.raises(UserError) as caught:
        loaded(*args, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_network_has_the_same_parameters(tmp_path):
    found, _ = loaded(adm_file(tmp_path / "a.safetensors"))
    _, _, params = network("classes and variance")
    assert_same(found.params, params)
    assert len(found.lines) == 2  # nothing was changed
    told = "model.norm_groups=4 (32), model.head_channels=4 (64)"
    assert found.lines[1].endswith(f"(usual in guided-diffusion): {told}")
    assert found.lines[0].startswith("a.safetensors, guided-diffusion: ")
    assert "5 classes, a learned variance" in found.lines[0]


def apply(parts, params, shape, **options):
    rng = np.random.default_rng(0)
    z = options.pop("z", None)
    z = rng.normal(size=(2, *shape)).astype(np.float32) if z is None else z
    return np.asarray(parts.network.apply(params, z, np.array([3, 700], np.int32), **options))


ONE = {"model__channel_mult": (1,), "model__attention_resolutions": ()}  # level


def test_other_classes_begin_as_if_none_was_told(tmp_path):
    path = adm_file(tmp_path / "a.safetensors", "one level, classes")
    none, without = loaded(path, num_classes=0, **ONE)
    assert any("no classes in place of 5" in line for line in none.lines)
    nine, with_nine = loaded(path, num_classes=9, **ONE)
    assert any("9 classes in place of 5: their embedding starts at zero" in x for x in nine.lines)
    expected = apply(without, none.params, (16, 16, 3))
    got = apply(with_nine, nine.params, (16, 16, 3), labels=np.array([0, 8]))
    np.testing.assert_array_equal(got, expected)


def test_a_network_that_was_never_told_of_augmentation_says_so(tmp_path):
    path = adm_file(tmp_path / "a.safetensors", "one level, classes")
    told, parts = loaded(path, num_classes=5, method="ar", **ONE)
    assert any("config.method='ar' will" in line for line in told.lines)
    plain, without = loaded(path, num_classes=5, **ONE)
    assert not any("never told" in line for line in plain.lines)
    labels = np.array([0, 3])
    size = parts.network.condition_size
    got = apply(parts, told.params, (16, 16, 3), labels=labels, condition=np.ones((2, size)))
    np.testing.assert_array_equal(got, apply(without, plain.params, (16, 16, 3), labels=labels))


def test_grey_from_colours_and_back(tmp_path):
    """A grey image is three equal channels; what is said of them is averaged."""
    options = {"num_classes": 0, "diffusion__variance": "fixed_small", **ONE}
    path = adm_file(tmp_path / "a.safetensors", "one level")
    grey, parts = loaded(path, (16, 16, 1), **options)
    assert any("images of 1 channels in place of 3" in line for line in grey.lines)
    z = np.random.default_rng(1).normal(size=(2, 16, 16, 1)).astype(np.float32)
    whole, of_colours = loaded(path, (16, 16, 3), **options)
    wanted = apply(of_colours, whole.params, None, z=z.repeat(3, -1)).mean(-1, keepdims=True)
    scale = np.abs(wanted).max()
    got = apply(parts, grey.params, None, z=z)
    np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-5)
    # A network of grey images says of each colour what it says of their mean.
    made, _ = adapt.channels(grey.params, 1, 3, 1)
    back = apply(of_colours, made, None, z=z.repeat(3, -1))
    np.testing.assert_allclose(back / scale, got.repeat(3, -1) / scale, atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
def test_a_variance_is_added_as_zeros_or_left_out(learned, tmp_path):
    count = 0 if learned else 5
    path = adm_file(tmp_path / "a.safetensors", "one level" if learned else "one level, classes")
    same = "fixed_small" if learned else "learned_range"
    other = "learned_range" if learned else "fixed_small"
    before, of_before = loaded(path, num_classes=count, diffusion__variance=same, **ONE)
    after, of_after = loaded(path, num_classes=count, diffusion__variance=other, **ONE)
    word = "a learned variance, which starts at zero" if learned else "no learned variance"
    assert word in after.lines
    labels = np.array([1, 2]) if count else None
    a = apply(of_before, before.params, (16, 16, 3), labels=labels)
    b = apply(of_after, after.params, (16, 16, 3), labels=labels)
    np.testing.assert_array_equal(a[..., :3], b[..., :3])
    if learned:
        assert not b[..., 3:].any()


def test_another_network_is_refused_with_the_flags_that_make_it(tmp_path):
    path = adm_file(tmp_path / "a.safetensors")
    message = refusal(path, model__channels=16, model__attention_resolutions=())
    assert "--config.model.channels=8" in message
    assert "--config.model.attention_resolutions='(8,)'" in message
    message = refusal(path, model__num_res_blocks=2, model__resblock_updown=False)
    assert message.endswith("--config.model.num_res_blocks=1 --config.model.resblock_updown=True")


def test_another_resolution_is_said_and_attention_stays_at_its_levels(tmp_path):
    path = diffusers_folder(tmp_path / "a")
    options = {"num_classes": 0, "model__attention_resolutions": (16,)}
    made = {"diffusion__variance": "fixed_small", "model__attention_order": "new"}
    found, _ = loaded(path, (32, 32, 3), **options, **made)
    assert any("made for 16 pixels, and images have 32" in line for line in found.lines)


def test_what_the_weights_do_not_tell_is_said_where_it_is_unusual(tmp_path):
    path = adm_file(tmp_path / "a.safetensors", "plain")
    options = {"num_classes": 0, "model__resblock_updown": False}
    found, _ = loaded(path, **options, diffusion__variance="fixed_small")
    (line,) = [line for line in found.lines if "not told by the weights" in line]
    assert "usual in improved-diffusion" in line and "model.num_heads=0 (4)" in line
    assert "schedule.total_timesteps=1000 (4000)" in line


def test_schedule_and_prediction_of_a_scheduler(tmp_path):
    betas = [float(b) for b in np.linspace(0.1, 0.2, 1000)]
    cosine = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    weights = read.read(diffusers_folder(tmp_path / "a", **cosine))
    assert weights.inferred.schedule["name"] == "cosine"
    assert weights.diffusion["parameterisation"] == "v"
    assert read.read(diffusers_folder(tmp_path / "b", trained_betas=betas)).said
    made = {"num_classes": 0, "diffusion__variance": "fixed_small"}
    message = refusal(tmp_path / "a", **made)
    assert message.endswith("pass --config.diffusion.parameterisation=v")


def test_half_precision_is_read_as_what_it_means(tmp_path):
    halves = {}

    def half(tensors):
        halves.update({name: array.astype(np.float16) for name, array in tensors.items()})
        return halves

    found, _ = loaded(adm_file(tmp_path / "a.safetensors", change=half))
    kernel = found.params["params"]["conv_in"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), halves["input_blocks.0.0.weight"])


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def with_nan(tensors):
    return tensors | {"out.2.bias": np.full(6, np.nan, np.float32)}


def misshapen(tensors):
    return tensors | {"out.0.weight": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("out.0.bias"), "lacks out.0.bias: fetch it again"),
        (lambda t: t | {"more.weight": np.ones(2, np.float32)}, "has more.weight besides"),
        (with_nan, "has numbers in out.2.bias that are not finite"),
        (lambda t: {k: v.astype(np.int8) for k, v in t.items()}, "of I8 numbers, and float16"),
        (lambda t: t | {"out.2.weight": np.float32([1])}, "has out.2.weight of the shape [1]"),
        (lambda t: {f"model.{k}": v for k, v in t.items()}, "its names begin with model."),
        (misshapen, r"has out.0.weight of the shape [3], which does not fit"),
        (without("output_blocks.5.0.in_layers.0.weight"), "lacks output_blocks.5.0"),
        (lambda t: {f"module.{k}": v for k, v in t.items()}, "saved in parallel"),
        (lambda t: {"a": np.ones(2, np.float32)}, "is of no network that is known (it has a)"),
        (lambda t: {"map_noise.freqs": np.ones(2, np.float32)}, "is of EDM"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    assert message in refusal(adm_file(tmp_path / "a.safetensors", change=change))


def test_files_that_are_none_are_refused(tmp_path):
    cut = adm_file(tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-100])
    assert "is damaged or cut short" in refusal(cut)
    assert "cannot be read" in refusal(tmp_path / "nowhere.safetensors")
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x04.")
    assert "holds source code and cannot be read without running it" in refusal(
        tmp_path / "edm.pkl"
    )
    (tmp_path / "a.txt").write_text("no weights")
    assert "is no file of weights: .pt" in refusal(tmp_path / "a.txt")
    (tmp_path / "folder").mkdir()
    assert "set init.workdir" in refusal(tmp_path / "folder")
    alone = adm_file(
        tmp_path / "b.safetensors",
        change=lambda t: {
            "time_embedding.linear_1.weight": t["out.2.bias"],
            "conv_in.weight": t["out.2.bias"],
        },
    )
    assert "name the folder that has both" in refusal(alone)


def test_a_file_of_pytorch():
    """Written by torch.save of PyTorch 2.13.0."""
    found, _ = loaded(
        tiny.FILES / "adm.pt", num_classes=0, diffusion__variance="fixed_small", **ONE
    )
    assert_same(found.params, network("one level")[2])


def test_a_file_of_pytorch_that_was_cut_is_refused(tmp_path):
    content = (tiny.FILES / "adm.pt").read_bytes()
    for size in (len(content) - 100, len(content) // 2, 100, 0):
        (tmp_path / "cut.pt").write_bytes(content[:size])
        assert "cut.pt is no file of PyTorch tensors" in refusal(tmp_path / "cut.pt", num_classes=0)


def torch_file(path, content):
    """A .pt as PyTorch lays it out, of a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
    return path


def test_nothing_in_a_file_is_run(tmp_path):
    class Harmless:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "touched",)

    path = torch_file(tmp_path / "a.pt", pickle.dumps({"x": Harmless()}, 2))
    assert "refused as unsafe" in refusal(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ["SkipDownBlock2D"] * 3}, "is of a network of SkipDownBlock2D"),
        ({"down_block_types": ["DownBlock2D"]}, "has 3 block_out_channels, 1 down_block_types"),
        ({"block_out_channels": [0, 8, 8]}, "block_out_channels=[0, 8, 8], no list of whole"),
        ({"block_out_channels": "abc"}, "block_out_channels='abc', no list"),
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000, no number from 1 to"),
        ({"attention_head_dim": [8]}, "attention_head_dim=[8], no number"),
        ({"norm_eps": "small"}, "norm_eps='small', no number"),
        ({"in_channels": "3"}, "in_channels='3', no number"),
        ({"attn_norm_num_groups": None}, "leaves the normalisation before its middle attention"),
        ({"act_fn": "gelu"}, "has act_fn='gelu', and activations are SiLU here"),
        ({"downsample_type": "conv"}, "inside residual blocks in some of its levels alone"),
        ({"out_channels": 4}, "from 3 channels to 4"),
    ],
)
def test_other_networks_of_diffusers_are_refused(change, message, tmp_path):
    folder = diffusers_folder(tmp_path / "a")
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message in refusal(folder, num_classes=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "whose network means something else"),
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction', and epsilon"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr, a noise schedule that ends"),
        ({"num_train_timesteps": "x"}, "num_train_timesteps='x', no number"),
        ({"beta_start": "a"}, "has a linear schedule from 'a'"),
        ({"trained_betas": ["a"]}, "trained_betas that are no numbers"),
    ],
)
def test_schedulers_of_other_networks_are_refused(change, message, tmp_path):
    assert message in refusal(diffusers_folder(tmp_path / "a", **change), num_classes=0)


def test_pipelines_of_other_networks_are_refused(tmp_path):
    folder = diffusers_folder(tmp_path / "a")
    for index in ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, {}):
        (folder / "model_index.json").write_text(json.dumps(index))
        assert "DDPMPipeline and DDIMPipeline, of pixels, are read" in refusal(
            folder, num_classes=0
        )


def test_a_size_of_two_sides(tmp_path):
    folder = diffusers_folder(tmp_path / "a")
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": [8, 16]}))
    assert read.read(folder).inferred.resolution == 16


def test_from_python(tmp_path):
    path = diffusers_folder(tmp_path / "a", "DDPM")
    pretrained = tada_jax.load_weights(path, attention_order="legacy")
    assert pretrained.network.num_heads == 1 and pretrained.weights.inferred.family == "diffusers"
    assert_same(pretrained.params, network("DDPM")[2])
    file = adm_file(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="does not tell for which images"):
        tada_jax.load_weights(file)
    again = tada_jax.load_weights(file, 16, head_channels=4, norm_groups=4)
    assert isinstance(again.network, unet.UNet) and again.network.num_classes == 5


def test_a_configuration_for_the_weights(tmp_path):
    path = adm_file(tmp_path / "a.safetensors", "plain")
    config = finetune.get_config(f"{path}@16")
    assert config.init.weights == str(path) and config.data.resolution == 16
    assert config.model.channels == 8 and not config.model.resblock_updown
    assert config.schedule.name == "cosine" and config.schedule.total_timesteps == 4000
    assert config.schedule.rescale_timesteps and config.diffusion.variance == "fixed_large"
    with pytest.raises(UserError, match="does not tell its resolution"):
        finetune.get_config(str(path))
    with pytest.raises(UserError, match="name the weights"):
        finetune.get_config()
