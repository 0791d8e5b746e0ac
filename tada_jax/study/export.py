"""`--mode=export`: a run's network for others, with a card that says what it is."""

import pathlib

from tada_jax.model import schedule, unet
from tada_jax.study.evaluation import read_result
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training.run import load_run
from tada_jax.weights import names, write


def export(config, workdir) -> pathlib.Path:
    """Writes the network of a run in the format of `config.export`, with a model card.

    The parameters are those that `config.sample` names: averaged ones, raw ones, or a post-hoc
    average; of the latest checkpoint, the best, or a step. A class of `config.sample.label` becomes
    part of the network.

    Args:
      config: that of the run.
      workdir: the run's folder.

    Returns:
      The folder `<workdir>/export/<format>_<parameters>_step<step>`.

    Raises:
      UserError: if there is nothing to export, the format has no such network, or the files cannot
        be written.
    """
    run = load_run(workdir, checkpoint=config.sample.checkpoint, config=config)
    c, shape = config.export, run.parts.image_shape
    network, params = write.without_condition(run.parts.network, run.sampled_params)
    if network.num_classes and run.parts.label is not None:
        network, params = write.of_one_class(network, params, run.parts.label)
    folder = run.workdir / "export" / folder_name(run)
    try:
        if c.format == "adm":
            if run.config.schedule.name not in schedule.SCHEDULES:
                raise ValueError("guided-diffusion tells its network timesteps")
            tensors = write.adm_tensors(network, params, max(shape[:2]))
            files = tensors, write.told(run.config)
        else:
            files = _pipeline(run, network, params)
    except ValueError as error:
        raise UserError(f"config.export.format={c.format!r}: {error}") from error
    if backend.is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, c.format, files)
            write_whole(folder / "README.md", card(run, network))
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): free some space"
            ) from error
        if run.parts.guidance != 1:
            logs.say(
                f"warning: config.sample.guidance={run.parts.guidance:g} is no part of the "
                "network: what draws from it has to guide it"
            )
        if network.num_classes and c.format == "diffusers":
            logs.say(
                "warning: pipelines of diffusers give their network no class: name one by "
                "config.sample.label, or call the network yourself with class_labels"
            )
    return folder


def _pipeline(run, network, params):
    """What `write.write_pipeline` writes."""
    c, diffusion = run.config, run.config.diffusion
    channels = run.parts.image_shape[-1]
    if c.export.scheduler == "ddim" and diffusion.variance == "learned_range":
        network, params = write.without_variance(network, params, channels)
    scheduler = write.scheduler_config(
        run.parts.schedule,
        scheduler=c.export.scheduler,
        parameterisation=diffusion.parameterisation,
        variance=diffusion.variance,
        clip=c.sample.clip_x0,
    )
    entries = names.of_diffusers(network, write.attends(network, max(run.parts.image_shape[:2])))
    config = write.unet_config(network, run.parts.image_shape)
    return config, scheduler, names.to_theirs(entries, params)


def _write(folder, kind, files):
    if kind == "adm":
        write.write_tensors(folder / "model.safetensors", *files)
    else:
        write.write_pipeline(folder, *files)


def folder_name(run):
    """What the folder of an exported network is called; its class as the folder of its samples."""
    c = run.config.export
    kind = c.format if c.format == "adm" else f"diffusers-{c.scheduler}"
    name = f"{kind}_{run.weights_name}_step{run.sampled_step:07d}"
    return name + (f"_class-{run.one_class.slug}" if run.parts.label is not None else "")


def card(run, network) -> str:
    """A model card, Markdown: what it is, how to use it, its data, measures and configuration."""
    c = run.config
    h, w, channels = run.parts.image_shape
    head = ["---", f"license: {c.export.license or 'unknown'}", "tags:", "- diffusion"]
    if c.export.format == "diffusers":
        head += [] if network.num_classes else ["- unconditional-image-generation"]
        head += ["library_name: diffusers"]
    told = f", conditional on {network.num_classes:,} classes" if network.num_classes else ""
    if run.parts.label is not None:
        told = f", of {run.one_class.title}"
    lines = [
        *head,
        "---",
        "",
        f"# {run.workdir.name}",
        "",
        f"A diffusion model of images of {h}x{w} pixels and {channels} channels{told}: "
        f"{unet.count_parameters(run.sampled_params):,} parameters, {run.weights_title}, step "
        f"{run.sampled_step:,} of a training by TADA-JAX with `config.method={c.method}`.",
        "",
    ]
    if c.export.license is None:
        lines += ["Whoever trained it has stated no licence (`config.export.license`).", ""]
    lines += _usage(c, run.parts.image_shape, network.num_classes)
    data = run.workdir / "data.txt"
    if data.is_file():
        lines += ["## Data", "", "```", data.read_text().rstrip(), "```", ""]
    lines += _measures(run)
    saved = to_json(c.to_dict(), indent=2)
    return "\n".join([*lines, "## Configuration", "", "```json", saved, "```", ""])


def _usage(c, image_shape, num_classes):
    """How to draw from what was exported, or what its tensors do not tell."""
    total, scheduler = c.schedule.total_timesteps, c.export.scheduler
    if c.export.format == "adm":
        own = c.model
        heads = (
            f"{own.num_heads} heads" if own.num_heads else f"heads of {own.head_channels} channels"
        )
        return [
            "`model.safetensors` has the names of guided-diffusion's state dicts. What they do not "
            f"tell, its metadata (`{write.TOLD}`) do: {own.norm_groups} groups of normalisation, "
            f"{heads}, qkv in {own.attention_order} order, the {c.schedule.name} schedule of "
            f"{total:,} timesteps, prediction of {c.diffusion.parameterisation}.",
            "",
        ]
    kind, (h, w, channels) = write.PIPELINES[scheduler], image_shape
    # Without it diffusers clips x0_hat and keeps an eps_hat that does not belong to it.
    options = ", use_clipped_model_output=True" if scheduler == "ddim" else ""
    steps = min(50, total) if scheduler == "ddim" else total
    learned = scheduler == "ddpm" and c.diffusion.variance == "learned_range"
    others = []
    # See findings/diffusers_solver_of_grey_learned_variance.sh.
    if learned and (channels != 3 or c.diffusion.parameterisation == "v"):
        others = [
            "The outputs of its learned variance are told from the prediction by DDPMScheduler; "
            "DPMSolverMultistepScheduler would take them for more channels. For other samplers "
            "export with `--config.export.scheduler=ddim`.",
            "",
        ]
    if num_classes:
        return [
            "Pipelines of diffusers give their network no class, so it is called without one:",
            "",
            "```python",
            "import torch",
            f"from diffusers import {kind}",
            "",
            f'pipeline = {kind}.from_pretrained("FOLDER")',
            "unet, scheduler = pipeline.unet, pipeline.scheduler",
            f"labels = torch.arange(4) % {num_classes}  # the classes' numbers",
            f"scheduler.set_timesteps({steps})",
            f"x = torch.randn(len(labels), {channels}, {h}, {w})",
            "with torch.no_grad():",
            "    for t in scheduler.timesteps:",
            "        output = unet(x, t, class_labels=labels).sample",
            f"        x = scheduler.step(output, t, x{options}).prev_sample",
            "images = (x / 2 + 0.5).clamp(0, 1)",
            "```",
            "",
            *others,
        ]
    return [
        "```python",
        f"from diffusers import {kind}",
        "",
        f'pipeline = {kind}.from_pretrained("FOLDER")',
        f"images = pipeline(batch_size=4, num_inference_steps={steps}{options}).images",
        "```",
        "",
        *others,
    ]


def _measures(run):
    """Sections of the evaluations of a run that there are, newest last."""
    folders = (run.workdir / "evaluation").glob("*")
    found = [(folder.name, read_result(folder)) for folder in sorted(folders) if folder.is_dir()]
    lines = []
    for name, result in found:
        if result is not None:
            lines += [f"## Measures: {name}", "", "```", result.table().rstrip(), "```", ""]
    return lines or ["It was not evaluated (`--mode=evaluate` measures copies and leak too).", ""]
