"""Every field of a run, with its unit and its default. Other configs override only what differs.

A section's names are the keyword names of what it configures, so a field that nothing reads cannot
exist. The defaults are those of ADM at 64 pixels and of the paper where it states them.
"""

import abc

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import FieldReference, placeholder


class Label(abc.ABC):  # noqa: B024 (only what is registered below counts)
    """A name or a number; on the command line text as it stands, since "1_0" is a name too."""


Label.register(str)
Label.register(int)
config_flags.register_flag_parser_for_type(Label, flags.ArgumentParser())


class Steps(abc.ABC):  # noqa: B024
    """A number of steps, or "auto"."""


class _StepsParser(flags.ArgumentParser):
    def parse(self, argument):
        """A whole number, or the word.

        Raises:
          ValueError: if it is neither.
        """
        try:
            return argument if argument == "auto" else int(argument)
        except ValueError as e:
            raise ValueError(f"{argument!r} is neither a whole number nor auto") from e


Steps.register(str)
Steps.register(int)
config_flags.register_flag_parser_for_type(Steps, _StepsParser())

METHODS = {
    method: method
    for method in (
        "tada",
        "constant",
        "hflip",
        "none",
        "ar",
        "ar+tada",
        "scoreaug",
        "scoreaug+tada",
        "sda",
        "sda+tada",
        "ambient",
        "undertrain",
        "undertrain_draw",
    )
}

# Noise levels, what the network predicts, and how samples are drawn.
FORMULATIONS = {
    "iddpm": {},  # as below: timesteps, eps, a learned variance
    "edm": {
        "schedule.name": "edm",
        "diffusion.parameterisation": "edm",
        "diffusion.variance": "fixed_small",
        "sample.sampler": "edm_heun",
        "sample.steps": 18,  # EDM's 40 at 64 pixels and more
        "sample.clip_x0": False,
    },
    "flow": {
        "schedule.name": "flow",
        "diffusion.parameterisation": "flow",
        "diffusion.variance": "fixed_small",
        "sample.sampler": "ddim",  # Euler's method
        "sample.steps": 50,
        "sample.clip_x0": False,
    },
}


def choose(variant, *menus):
    """Reads a variant such as "5k-68m-hflip": at most one word of each menu, in any order.

    Args:
      variant: words joined by "-"; what is left out takes the first entry of its menu.
      *menus: {word: value} each.

    Returns:
      The chosen values, one a menu.

    Raises:
      ValueError: for a word that is in no menu, or two of the same.
    """
    chosen = [next(iter(menu.values())) for menu in menus]
    left = list(enumerate(menus))
    for word in filter(None, variant.split("-")):
        match = next((item for item in left if word in item[1]), None)
        if match is None:
            twice = next((", ".join(menu) for menu in menus if word in menu), None)
            if twice:
                raise ValueError(f"{word!r} in the variant {variant!r} is one too many of: {twice}")
            known = "; ".join(", ".join(menu) for _, menu in left)
            raise ValueError(f"{word!r} in the variant {variant!r} is unknown, choose of: {known}")
        chosen[match[0]] = match[1][word]
        left.remove(match)
    return chosen


def formulate(c, formulation, *, edm_steps=18):
    """Sets the fields of an entry of `FORMULATIONS`; in EDM so many sampling steps."""
    if formulation.get("schedule.name") == "edm":
        formulation = formulation | {"sample.steps": edm_steps}
    for field, value in formulation.items():
        section, _, name = field.partition(".")
        c[section][name] = value
    return c


def get_config(method="tada"):
    """The base configuration; `method` is what happens to a training image, see below."""
    c = ConfigDict()
    c.seed = 0  # of everything random but samples: data split, initialisation, training
    # What happens to a training image. "tada": strength by the noise level. "constant": the same
    # operations at one strength. "hflip": only flips. "none": nothing. "ar": constant, and the
    # network is told how. "scoreaug": the noisy image and the target are transformed. "sda":
    # augmented images under shifted noise. "ar+tada" and so on: these, with TADA's strength.
    # Without augmentation: "ambient": in and above the band images are noisy copies. "undertrain",
    # "undertrain_draw": the band's loss counts less, or its levels are drawn rarely.
    c.method = method
    c.constant_strength = 1.0  # w where it is constant, 0 .. 1

    c.data = _data()
    c.schedule = _schedule()
    c.tada = _tada()
    c.sensitivity = _sensitivity()
    c.augment = _augment()
    c.scoreaug = _scoreaug()
    c.sda = _sda()
    c.ambient = _ambient()
    c.undertrain = _undertrain()
    c.diffusion = _diffusion()
    c.model = _model()
    c.init = _init()
    c.optimizer = _optimizer()
    c.train = _train()
    c.ema = _ema()
    c.log = _log()
    c.sample = _sample()
    c.evaluate = _evaluate()
    c.analyze = _analyze()
    c.export = _export()
    c.compare = _compare()
    c.lock()  # so that a mistyped field is an error, and not a new one
    for named_by_the_user in (c.compare.variants, c.compare.curves):
        named_by_the_user.unlock()
    return c


def _data():
    """The image set."""
    c = ConfigDict()
    # "digits", "cifar10", "tfds:NAME", or "images": whatever lies at `path` (docs/data.md)
    c.name = "digits"
    c.path = placeholder(str)  # archive, folder or file, for data sets that are read from one
    c.train_size = placeholder(int)  # train on a random subset of so many images; None: all
    c.test_fraction = 0.1  # share held out, for data sets without a test split of their own
    c.resolution = placeholder(int)  # shorter side, pixels; None: that of the data
    c.channels = placeholder(int)  # 1 (grey) or 3 (RGB); None: those of the data
    c.fit = "crop"  # to a square: "crop" the centre or "pad"; or "keep" the common aspect
    c.background = (255, 255, 255)  # RGB behind transparent pixels and around padded images
    # Values that become black and white: "auto", by those of the whole set (12 bits in 16, masks
    # of 0 and 1, floats); "full", all that their type can hold; or "LOW:HIGH"
    c.range = "auto"
    # "stored": the numbers in the files; "srgb": by their colour profiles turned into sRGB
    c.color = "stored"
    # Of files with several pages or frames: the "first", "all", each as an image, or three as the
    # "channels" of one
    c.pages = "first"
    # Classes of images in folders and zips: by "folders", "prefix" (of names, up to the first _), a
    # "file" (dataset.json, metadata.csv), or "none"; "auto": the file, else folders, if no chunks
    c.labels = "auto"
    c.unreadable = "refuse"  # images that cannot be read: "refuse" the data set, or "skip"
    c.order = "shuffled"  # of an epoch: "shuffled", or "balanced": every class equally often
    c.device_gib = 4.0  # larger training sets stay on disk and are fed batch by batch, GiB
    return c


def _schedule():
    """Noise levels."""
    c = ConfigDict()
    # "linear" or "cosine" timesteps; or continuous: "edm" (log-normal noise) or "flow" (rectified)
    c.name = "cosine"
    c.total_timesteps = 1000  # T of "linear" and "cosine"
    # Tell the network t as if T were 1,000, as improved-diffusion does of its T = 4,000
    c.rescale_timesteps = False
    c.edm = ConfigDict()  # arguments of continuous.Edm
    c.edm.p_mean = -1.2  # of ln sigma in training, normal
    c.edm.p_std = 1.2
    c.edm.sigma_min = 0.002  # between which samplers walk, pixels being in [-1, 1]
    c.edm.sigma_max = 80.0
    c.edm.rho = 7.0  # evenly in sigma^(1/rho)
    c.flow = ConfigDict()  # arguments of continuous.Flow
    c.flow.times = "uniform"  # of training: "uniform" or "logit_normal"
    c.flow.logit_mean = 0.0  # of ln(t / (1 - t)) in the latter
    c.flow.logit_std = 1.0
    c.flow.t_min = 0.001  # uniform times and those of samplers end here, and at 1 - t_min
    return c


def _tada():
    """The strength."""
    c = ConfigDict()
    # w against log SNR: "paper", the parabola below; "fitted", the same with the band of the
    # profile; "freeform", the largest w whose risk stays within the budget; "weighted", whose risk
    # per strength does, times what augmentation gives there; "per_operation", "freeform" for each
    # of them apart; "constant", constant_strength; "table"
    c.schedule = "paper"
    c.band = "given"  # of "paper": "given" by the next two, or "auto" by the profile
    c.r_rough = -3.0  # lower threshold of the sensitive band, log SNR
    c.r_fine = 0.0  # upper threshold, log SNR
    c.delta = 0.1  # w at both thresholds
    c.kappa = "auto"  # curvature of the parabola: "auto" (it touches 0) or a number as "0.05"
    c.calibration = "resolution"  # thresholds hold for 64 px; "none": as they stand; "inverse"
    c.resolution = placeholder(int)  # pixels, for the calibration; None: that of the data
    c.budget = 1.0  # of "freeform", "weighted", "per_operation": risk, 1 at the thresholds
    c.table = ()  # ((r, w), ...), r in native log SNR, ascending; w a number or one per op
    return c


def _sensitivity():
    """The profile, for schedules that follow it and `--mode=analyze`."""
    c = ConfigDict()
    # denoiser: "exact", "held_out", "local", "wiener"; "auto": local below 32 pixels, else wiener
    c.proxy = "auto"
    c.thresholds = (0.02, 0.004)  # K in nats, V as a share: above both is sensitive
    c.queries = 256  # images that are noised and denoised
    c.copies = 4  # augmented copies of each image
    c.seed = 0
    return c


def _augment():
    """Arguments of `augment.Policy`."""
    c = ConfigDict()
    c.ops = (
        "scale",
        "rotate_frac",
        "aniso",
        "translate_frac",
        "brightness",
        "contrast",
        "hue",
        "saturation",
    )
    c.p = 0.8  # probability that an image is augmented
    c.max_ops = 2  # M: n ~ U{1..M} different operations; 0: each fires alone with p (EDM)
    c.xflip_p = 0.5  # probability of a horizontal flip, never scaled by w
    c.truncate = 3.0  # normal draws are truncated here, standard deviations
    c.mapping = "magnitude"  # w scales "magnitude" (A) or "probability" (B)
    c.magnitude = ConfigDict(  # factor on the draws of an operation
        dict(
            translate_int=1.0,
            scale=1.0,
            rotate_frac=1.0,
            aniso=1.0,
            translate_frac=1.0,
            brightness=1.0,
            contrast=1.0,
            hue=1.0,
            saturation=1.0,
        )
    )
    return c


def _scoreaug():
    """Arguments of methods/linear.py; bounds at strength 1, uncertain."""
    c = ConfigDict()
    c.ops = ("brightness", "translation", "cutout", "rotation")  # one or none an image
    c.brightness = 2.0  # B: multiplied by a factor in [1/B, B]
    c.translation = 0.1  # largest shift, share of the side
    c.cutout_min = 0.1  # side of the square that is cut out, share of the image's
    c.cutout_max = 0.3
    return c


def _sda():
    """Arguments of methods/sda.py, not known from the publication."""
    c = ConfigDict()
    c.mu = 0.5  # mean of the noise of augmented images, in units of its standard deviation
    c.weight = 1.0  # lambda of their loss; examples are augmented with lambda / (1 + lambda)
    return c


def _ambient():
    """Of methods/ambient.py."""
    c = ConfigDict()
    # s_n, standard deviation of the copies' noise, as "0.3", pixels being in [-1, 1]; "band": that
    # of the cleaner end of TADA's band
    c.noise = "band"
    return c


def _undertrain():
    """Arguments of methods/undertrain.py."""
    c = ConfigDict()
    c.floor = 0.1  # share of its training that a level with w = 0 keeps
    return c


def _diffusion():
    """Arguments of `diffusion.training_losses`."""
    c = ConfigDict()
    c.parameterisation = "eps"  # "eps", "x0", "v", "flow" (eps - x0) or "edm" (its F)
    c.sigma_data = 0.5  # of "edm": standard deviation of the pixels, in [-1, 1]
    c.variance = "learned_range"  # "fixed_small", "fixed_large" or "learned_range"
    c.vlb_weight = 0.001  # of L_vlb in the hybrid loss, with a learned variance
    c.weighting = "none"  # "none", "p2" or "min_snr"
    c.p2_gamma = 1.0  # exponent of P2
    c.p2_k = 1.0  # offset of P2
    c.min_snr_gamma = 5.0  # SNR at which min-SNR clips
    return c


def _model():
    """Arguments of `unet.UNet`."""
    c = ConfigDict()
    c.channels = 128  # width of the first level
    c.channel_mult = (1, 2, 3, 4)  # width of each level, in units of channels
    c.num_res_blocks = 1  # residual blocks a level
    c.attention_resolutions = (16,)  # sides in pixels of the levels with attention
    c.head_channels = 64  # channels of an attention head
    c.num_heads = 0  # instead: so many heads at every width; 0: by head_channels
    c.resblock_updown = True  # resample inside residual blocks
    c.conv_resample = True  # else by a convolution, or without
    c.downsample_padding = "both"  # of that convolution: "both" sides (ADM), "end" (DDPM)
    c.scale_shift = True  # by the noise level: scale and shift (ADM), or add (DDPM)
    c.attention_order = "legacy"  # channel order of qkv, "legacy" or "new"
    c.norm_groups = 32  # groups of GroupNorm
    c.norm_epsilon = 1e-5  # added to variances; DDPM: 1e-6
    c.time_embedding = "cos_sin"  # order of its halves: "cos_sin" (ADM), "sin_cos" (DDPM)
    c.time_shift = 0  # of its frequencies: 0 (ADM), 1 (DDPM)
    c.dropout = 0.0  # rate
    c.class_conditional = False  # condition on the data set's labels
    c.dtype = "float32"  # of the computation: "float32" or "bfloat16"
    c.remat = False  # recompute activations in the backward pass, to save memory
    return c


def _init():
    """Fine-tuning: parameters to begin with; the optimiser starts fresh."""
    c = ConfigDict()
    c.workdir = placeholder(str)  # folder of another run with a network of the same shapes
    # Instead: weights of others, a .pt of guided-diffusion's kind, .safetensors, or a folder of
    # diffusers; configs/finetune.py finds out which network they are of
    c.weights = placeholder(str)
    c.checkpoint = "latest"  # of that run: "latest", "best", or a step as "5000"
    c.use_ema = True  # its averaged parameters; False: the raw ones
    return c


def _optimizer():
    """Adam."""
    c = ConfigDict()
    c.learning_rate = 1e-4  # after the warm-up, constant
    c.warmup_steps = 1000  # steps of linear warm-up from 0
    c.b1 = 0.9  # of Adam
    c.b2 = 0.999  # of Adam
    c.weight_decay = 0.0  # 0: Adam; above: AdamW, decoupled
    c.clip_norm = 1.0  # global norm of the gradient; 0: no clipping
    return c


def _train():
    """Steps."""
    c = ConfigDict()
    c.batch_size = 128  # images a step, over all devices
    # Images that go through the network at once, over all devices: fewer take less memory and more
    # time, for the same gradient. 0: the whole batch
    c.microbatch = 0
    # Steps. "auto": until it begins to copy, at looks as often as that needs; see setup/length.py
    c.total_steps = FieldReference(200_000, field_type=Steps)
    # When a run ends: after total "steps", or, if it is earlier, when it has left the "window",
    # that is, begun to copy: seen at two looks in a row (log.metrics_every)
    c.stop = "steps"
    c.steps_per_call = 0  # steps in one compiled call; 0: 1 on CPU, 10 elsewhere
    # Parameters, averages and optimiser on each device: "replicated", all of them; "fsdp", a part
    c.sharding = "replicated"
    c.ema_decay = 0.9999  # of the parameters that are sampled, a step
    c.class_dropout = 0.0  # how often the class is concealed from a conditional network
    c.nonfinite = "stop"  # at a loss that is not finite: "stop", or "skip" that step's update
    # Only GPU kernels that add in a fixed order, for the same bits in every run; slower, the price
    # is not measured. CPUs need no flag. By main.py; in Python: backend.be_deterministic().
    c.deterministic = False
    c.ema_warmup = True  # shorter averages early on: decay at most (1 + step) / (10 + step)
    return c


def _ema():
    """Averages from which others follow after training, see ema.py."""
    c = ConfigDict()
    c.widths = ()  # tracked relative widths, as (0.05, 0.1); (): none
    c.snapshot_every = 10_000  # steps between those that are kept, all of them; 20 are enough
    return c


def _log():
    """What is written, and when."""
    c = ConfigDict()
    c.every = 100  # steps between lines of metrics.jsonl
    c.eval_every = 5000  # steps between losses on held-out images
    c.sample_every = 5000  # steps between grids of samples
    c.checkpoint_every = 5000  # steps between checkpoints
    c.keep_checkpoints = 2  # latest checkpoints that are kept
    # The best checkpoint is kept too, by "test_mse", "train_mse", "fd", "leak", "copies" (each the
    # smaller the better) or "copy_margin" (the larger), or "window": by "fd", of those that do not
    # yet copy; "": none is. Only what is saved anyway (checkpoint_every) can be best
    c.best_metric = "test_mse"  # why: docs/measuring.md
    c.metrics_every = 0  # steps between quick metrics of samples; 0: never
    c.metrics_count = 256  # samples that they are taken of
    return c


def _sample():
    """How images are drawn."""
    c = ConfigDict()
    c.sampler = "ddim"  # "ddpm" (ancestral), "ddim", "dpmpp_2m", "heun" or "edm_heun"
    c.steps = 100  # noise levels that are visited
    # Which: "auto", the sampler's best; "even" in t, "logsnr": even in log SNR, "tapered":
    # likewise, with wider steps at both ends, or "ddim": DDIM's
    c.stride = "auto"
    c.guidance = 1.0  # by the class: 1 none, 0 without a class, above 1 stronger
    # Class of all samples, by its name (of a folder, or an npz's own label: "2" is what is called 2
    # there); where no class is called by a number, a number counts from 0 in the order of the data
    # report and of classes.json. None: all classes in turn
    c.label = placeholder(Label)
    c.eta = 0.0  # fresh noise of ddim: 0 deterministic, 1 ancestral
    c.clip_x0 = True  # clip x0_hat to [-1, 1]
    c.count = 64  # images in a grid while training; images of --mode=sample
    c.batch_size = 64  # images sampled at once
    c.seed = 0  # image i depends on (seed, i) only
    c.use_ema = True  # sample the averaged parameters
    c.ema_width = placeholder(float)  # instead: a post-hoc EMA of this relative width,
    c.ema_step = placeholder(int)  # as of this step; None: that of the checkpoint
    c.checkpoint = "latest"  # of --mode=sample: "latest", "best", or a step as "5000"
    return c


def _evaluate():
    """Of `--mode=evaluate`, and of the quick metrics while training."""
    c = ConfigDict()
    c.count = 1000  # samples
    # Of features: "classifier" (a small network fitted to the data set), "pixels", "inception", or
    # a function uint8 [N,H,W,C] -> [N,D] as "my_features.py:extract"; its features are kept only if
    # the file states a `version`, to be raised when anything that it reads changes
    c.extractor = "classifier"
    c.weights = placeholder(str)  # of "inception": pt_inception-2015-12-05-6726825d.pth
    c.fit_steps = 1000  # of the small networks that are fitted to the data set
    c.convention = "clean-fid"  # of its input: "clean-fid" or "pytorch-fid"
    return c


def _analyze():
    """Of `--mode=analyze`."""
    c = ConfigDict()
    c.proxies = ("exact", "held_out", "local", "wiener")  # of which profiles are computed
    c.base = placeholder(str)  # folders of two runs, trained without augmentation and
    c.augmented = placeholder(str)  # with constant strength, to compare; None: no networks
    c.train_steps = 0  # instead: train both for so many steps; 0: do not
    c.images = 256  # that the two denoise
    c.count = 512  # samples for each interval in which the two are exchanged
    c.window = 2.0  # length of an interval that is moved over all noise levels, nats
    c.sweep = 1.0  # by so much each time, nats; 0: only below, inside and above the band
    # Distances of denoised images besides "pixel": "features" (evaluate.extractor), "lpips"
    c.distances = ()
    # Of lpips: torchvision's alexnet-owt-7be5be79.pth, and alex.pth of the lpips package's v0.1
    c.lpips_weights = ()
    return c


def _export():
    """Of `--mode=export`: the parameters that section `sample` names."""
    c = ConfigDict()
    # "diffusers": a folder for its DDIMPipeline or DDPMPipeline; "adm": one .safetensors with
    # guided-diffusion's names
    c.format = "diffusers"
    # "ddim", whose network has no learned variance and draws as well, or "ddpm", which keeps it
    c.scheduler = "ddim"
    c.license = placeholder(str)  # of the weights, as "cc-by-4.0", for the model card
    return c


def _compare():
    """Of `--mode=compare`: every combination is a run of its own."""
    c = ConfigDict()
    # "constant:0.3" is that strength; other names are those of `variants`
    c.methods = ("none", "constant", "tada")
    c.variants = ConfigDict()  # name: the fields in which it differs from this config
    c.curves = ConfigDict()  # name: methods that figures join by a line, as budgets of one
    c.train_sizes = ()  # numbers of training images; (): data.train_size alone
    c.seeds = (0, 1, 2)
    return c
