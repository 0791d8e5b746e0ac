"""`--mode=export`: a run for diffusers and guided-diffusion, and a card that says what it is."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import tada_jax
from tada_jax.model import continuous, schedule
from tada_jax.setup import build
from tada_jax.setup.plan import plan
from tada_jax.study import export
from tada_jax.system.errors import UserError
from tada_jax.training import resume
from tada_jax.weights import load, read, write
from tests import tiny
from tests.weights.test_names import network

pytestmark = pytest.mark.usefixtures("whole_networks")


@pytest.fixture(scope="module")
def exported(finished_unet, whole_networks, tmp_path_factory):
    """(config, workdir, {scheduler or "adm": folder of the export}) of a copy of a run."""
    config, workdir, _ = finished_unet
    copy = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(workdir, copy)
    config = config.copy_and_resolve_references()
    folders = {}
    for kind in ("ddim", "ddpm", "adm"):
        config.export.format = "adm" if kind == "adm" else "diffusers"
        config.export.scheduler = "ddim" if kind == "adm" else kind
        config.export.license = "cc-by-4.0" if kind == "ddpm" else None
        folders[kind] = tada_jax.export(config, copy)
    return config, copy, folders


def test_what_is_written_is_read_again_bit_for_bit(exported):
    _, workdir, folders = exported
    run = tada_jax.load_run(workdir)
    for path in (folders["ddpm"], folders["adm"] / "model.safetensors"):
        side = None if path.is_dir() else 8
        again = tada_jax.load_weights(path, side, attention_order="legacy")
        tiny.assert_trees_equal(again.params, run.ema_params)
    of_ddim = tada_jax.load_weights(folders["ddim"], attention_order="legacy").params["params"]
    for name, value in of_ddim.pop("conv_out").items():  # without its variance
        np.testing.assert_array_equal(value, run.ema_params["params"]["conv_out"][name][..., :1])
    own = {k: v for k, v in run.ema_params["params"].items() if k != "conv_out"}
    tiny.assert_trees_equal(of_ddim, own)


def test_a_file_of_ours_says_what_its_tensors_do_not(exported, tmp_path):
    config, _, folders = exported
    found = read.read(folders["adm"] / "model.safetensors")
    assert found.diffusion == {"parameterisation": "eps", "variance": "learned_range"}
    assert found.inferred.told and found.inferred.assumed["norm_groups"] == 4
    assert found.inferred.schedule["name"] == config.schedule.name
    assert found.inferred.schedule["total_timesteps"] == config.schedule.total_timesteps

    tensors = {name: found.tensors[name] for name in found.tensors}
    other = config.copy_and_resolve_references()
    other.diffusion.parameterisation = "v"
    write.write_tensors(tmp_path / "v.safetensors", tensors, write.told(other))
    assert read.read(tmp_path / "v.safetensors").diffusion["parameterisation"] == "v"
    for change, message in (
        (lambda told: told | {"model": {}}, "without model"),
        (lambda told: [], "without model"),
        (
            lambda told: told | {"diffusion": told["diffusion"] | {"variance": "?"}},
            r"variance='\?'",
        ),
        (lambda told: told | {"model": told["model"] | {"num_heads": "4"}}, "num_heads='4'"),
        (lambda told: told | {"model": told["model"] | {"norm_groups": 0}}, "norm_groups='0'"),
        (
            lambda told: told | {"schedule": told["schedule"] | {"total_timesteps": 10**13}},
            "total_timesteps=",
        ),
        (lambda told: told | {"schedule": told["schedule"] | {"name": []}}, r"name='\[\]'"),
        (
            lambda told: told | {"schedule": told["schedule"] | {"rescale_timesteps": 1}},
            "rescale_timesteps='1'",
        ),
        (
            lambda told: told | {"diffusion": told["diffusion"] | {"variance": "fixed_large"}},
            "other outputs",
        ),
    ):
        told = change(json.loads(write.told(config)[write.TOLD]))
        write.write_tensors(tmp_path / "a.safetensors", tensors, {write.TOLD: json.dumps(told)})
        with pytest.raises(UserError, match=message) as error:
            read.read(tmp_path / "a.safetensors")
        assert "\n" not in str(error.value) and "init.weights=" in str(error.value)


def test_a_file_of_ours_is_begun_with_as_it_was_made(exported):
    """Heads may be written in either way; what was trained with another schedule says so."""
    config, workdir, folders = exported

    def loaded(**fields):
        mine = tiny.config(init__weights=str(folders["adm"] / "model.safetensors"), **fields)
        parts = build.parts(mine, (8, 8, 1))
        like = jax.eval_shape(parts.init_params, jax.random.key(0))
        return load.load(mine, parts.network, (8, 8, 1), like)

    params = tada_jax.load_run(workdir).ema_params
    for fields in ({}, {"model__num_heads": 1, "model__head_channels": 3}):
        found = loaded(**fields)
        tiny.assert_trees_equal(found.params, params)
        assert len(found.lines) == 1
    (line,) = loaded(schedule__name="linear", schedule__total_timesteps=50).lines[1:]
    assert "trained otherwise" in line and "schedule.name='linear' ('cosine')" in line
    for fields, message in (
        ({"model__head_channels": 4}, "--config.model.head_channels=8"),
        ({"model__norm_groups": 2}, "--config.model.norm_groups=4"),
        ({"model__attention_order": "new"}, "--config.model.attention_order='?legacy"),
    ):
        with pytest.raises(UserError, match=message):
            loaded(**fields)


def test_the_files_of_a_pipeline(exported):
    config, _, folders = exported
    assert folders["ddim"].name == "diffusers-ddim_ema_step0000006"
    index = json.loads((folders["ddim"] / "model_index.json").read_text())
    assert index["_class_name"] == "DDIMPipeline" and index["unet"] == ["diffusers", "UNet2DModel"]
    unet = json.loads((folders["ddim"] / "unet" / "config.json").read_text())
    assert unet["sample_size"] == 8 and unet["in_channels"] == unet["out_channels"] == 1
    assert unet["attn_norm_num_groups"] == 4
    saved = json.loads((folders["ddpm"] / "scheduler" / "scheduler_config.json").read_text())
    betas = schedule.cosine(config.schedule.total_timesteps).betas
    np.testing.assert_allclose(saved["trained_betas"], betas, rtol=1e-12)
    assert saved["variance_type"] == "learned_range" and saved["clip_sample"]
    assert read.read(folders["ddpm"]).inferred.schedule["name"] == "cosine"


def test_the_card_says_what_it_is(exported):
    _, workdir, folders = exported
    card = (folders["ddpm"] / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "DDPMPipeline.from_pretrained" in card
    assert "8x8 pixels and 1 channels" in card and "EMA of decay" in card and "step 6" in card
    assert "training +" in card and '"method": "tada"' in card  # its data and configuration
    assert "It was not evaluated" in card
    assert "DPMSolverMultistepScheduler would take them for more channels" in card
    assert "DPMSolver" not in (folders["ddim"] / "README.md").read_text()
    other = (folders["adm"] / "README.md").read_text()
    assert "has stated no licence" in other
    assert "4 groups of normalisation, heads of 8 channels, qkv in legacy order" in other
    run = tada_jax.load_run(workdir)
    of_three = dataclasses.replace(run, parts=dataclasses.replace(run.parts, label=3))
    assert "1 channels, of class 3: " in export.card(of_three, run.parts.network)
    of_three = dataclasses.replace(of_three, class_names=("a", "b", "c", "d/e"))
    assert export.folder_name(of_three).endswith("_class-d%2fe")  # as of its samples


@pytest.mark.parametrize("classes", [0, 10])
def test_the_card_of_a_network_with_classes_calls_it_with_classes(classes, exported):
    _, workdir, _ = exported
    run = tada_jax.load_run(workdir)
    card = export.card(run, dataclasses.replace(run.parts.network, num_classes=classes))
    assert ("unconditional-image-generation" in card) == (not classes)
    assert ("class_labels=labels" in card) == bool(classes)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_training_begins_with_exported_weights(exported, tmp_path):
    """As with those of anybody else, also of a network without the variance that is trained."""
    _, workdir, folders = exported
    run = tada_jax.load_run(workdir)
    for kind, line in (
        ("ddpm", "diffusers: "),
        ("ddim", "a learned variance, which starts at zero"),
    ):
        config = tiny.config(init__weights=str(folders[kind]))
        said = []
        planned = plan(config)
        state = resume.init(planned, resume.given_params(planned, said.append))
        assert any(line in each for each in said)
        tiny.assert_trees_equal(
            state.params["params"]["conv_in"], run.ema_params["params"]["conv_in"]
        )
        out = state.params["params"]["conv_out"]["kernel"]
        wanted = np.array(run.ema_params["params"]["conv_out"]["kernel"])
        wanted[..., 1:] *= kind == "ddpm"
        np.testing.assert_array_equal(out, wanted)
        tiny.assert_trees_equal(state.params, state.ema_params)


def test_a_dry_run_says_what_the_weights_are(exported):
    _, _, folders = exported
    text = "\n".join(tada_jax.describe(tiny.config(init__weights=str(folders["ddpm"]))))
    assert "diffusers-ddpm_ema_step0000006, diffusers: " in text
    assert "    --config.model.channels=8\n" in text and "    --config.schedule.name=cosine" in text
    with pytest.raises(
        tada_jax.UserError, match="of another network.*: pass --config.model.channel"
    ):
        tada_jax.describe(tiny.config(init__weights=str(folders["ddpm"]), model__channels=16))


def test_what_a_format_has_not_is_refused_by_name(exported):
    config, workdir, _ = exported
    for noise, options, message in (
        (continuous.Edm(), {}, "know timesteps alone"),
        (schedule.make("cosine", 100, rescaled=True), {}, "rescale_timesteps=False"),
        (schedule.linear(), {"parameterisation": "edm"}, "no prediction_type for 'edm'"),
    ):
        options = {"scheduler": "ddim", "parameterisation": "eps", "variance": ""} | options
        with pytest.raises(ValueError, match=message):
            write.scheduler_config(noise, clip=True, **options)
    made, shape, params = network("ADM")
    everywhere = {"num_heads": 2, "attention_resolutions": (16, 8)}
    for fields, message in (
        ({"resblock_updown": False, "conv_resample": False}, "conv_resample=False"),
        (everywhere, "makes them 4, 8 channels wide"),
        ({"channel_mult": (2, 2)}, "as many numbers as the first level has channels"),
    ):
        with pytest.raises(ValueError, match=message):
            write.unet_config(made.clone(**fields), shape)
    made, _, params = network("DDPM")
    with pytest.raises(ValueError, match="guided-diffusion has no downsample_padding='end'"):
        write.adm_tensors(made, params, 16)
    other = config.copy_and_resolve_references()
    other.export.format = "onnx"
    with pytest.raises(tada_jax.UserError, match="config.export.format='onnx' is unknown"):
        tada_jax.export(other, workdir)
    with pytest.raises(tada_jax.UserError, match="no run"):
        tada_jax.export(config, workdir / "nowhere")


def test_a_class_becomes_part_of_the_network():
    made, shape, params = network("one level, classes")
    z = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    t = np.array([7])
    wanted = np.asarray(tiny.at_once(made.apply, params, z, t, np.array([3])))
    alone, own = write.of_one_class(made, params, 3)
    assert not alone.num_classes
    got = np.asarray(tiny.at_once(alone.apply, own, z, t))
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_shown_values_are_flags():
    assert load.shown((1, 2)) == "'(1,2)'" and load.shown((16,)) == "'(16,)'"
    assert load.shown(1e-6) == "1e-06" and load.shown(True) == "True"
