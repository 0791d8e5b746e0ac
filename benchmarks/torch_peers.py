"""The same work in PyTorch, for `--against`; PyTorch is needed only there.

`Network` is our U-Net written in PyTorch as its users write it: parameters carry over by name, and
`check` makes sure that both compute the same. `of_diffusers` is the network of the diffusers
package that comes nearest.
"""

import math

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

PEERS = ("torch", "diffusers")


def conv(inputs, outputs, size):
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class ResBlock(nn.Module):
    """As `unet.ResBlock`."""

    def __init__(self, inputs, outputs, embedding, options, resample=None):
        super().__init__()
        groups = options["norm_groups"]
        self.resample = resample
        self.norm_in = nn.GroupNorm(groups, inputs)
        self.conv_in = conv(inputs, outputs, 3)
        self.emb = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(options["dropout"])
        self.conv_out = conv(outputs, outputs, 3)
        if inputs != outputs:
            self.skip = conv(inputs, outputs, 1)

    def _resized(self, x):
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2) if self.resample == "up" else x

    def forward(self, x, emb):
        """[B,C,H,W], [B,E] -> [B,D,H',W']."""
        h = self.conv_in(self._resized(functional.silu(self.norm_in(x))))
        x = self._resized(x)
        scale, shift = self.emb(functional.silu(emb))[:, :, None, None].chunk(2, 1)
        h = functional.silu(self.norm_out(h) * (1 + scale) + shift)
        h = self.conv_out(self.dropout(h))
        return h + (self.skip(x) if hasattr(self, "skip") else x)


class Attention(nn.Module):
    """As `unet.Attention`, order "legacy", by PyTorch's own fused attention."""

    def __init__(self, channels, options):
        super().__init__()
        self.heads = channels // options["head_channels"]
        self.norm = nn.GroupNorm(options["norm_groups"], channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x, emb):
        """[B,C,H,W] -> [B,C,H,W]."""
        del emb
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(b, h * w, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        y = self.proj(y.transpose(1, 2).reshape(b, h * w, c))
        return x + y.transpose(1, 2).reshape(b, c, h, w)


class Network(nn.Module):
    """`unet.UNet` with residual resampling and without classes; submodules have its names."""

    def __init__(self, inputs, outputs, side, options):
        super().__init__()
        width, mults = options["channels"], options["channel_mult"]
        embedding = 4 * width
        self.width, self.blocks = width, options["num_res_blocks"]
        self.levels = len(mults)
        self.time_in, self.time_out = (nn.Linear(n, embedding) for n in (width, embedding))
        stem = int(mults[0] * width)
        self.conv_in = conv(inputs, stem, 3)
        here, skips, at = stem, [stem], options["attention_resolutions"]

        def res(name, outputs, *more, extra=0):
            self.add_module(name, ResBlock(here + extra, outputs, embedding, options, *more))
            return outputs

        def attend(name):
            if side in at or name == "mid_attn":
                self.add_module(name, Attention(here, options))

        for level, mult in enumerate(mults):
            for i in range(self.blocks):
                here = res(f"down{level}_res{i}", int(mult * width))
                attend(f"down{level}_attn{i}")
                skips.append(here)
            if level + 1 < self.levels:
                here, side = res(f"down{level}_down", here, "down"), side // 2
                skips.append(here)
        here = res("mid_res0", here)
        attend("mid_attn")
        here = res("mid_res1", here)
        for level, mult in reversed(list(enumerate(mults))):
            for i in range(self.blocks + 1):
                here = res(f"up{level}_res{i}", int(mult * width), extra=skips.pop())
                attend(f"up{level}_attn{i}")
            if level:
                here, side = res(f"up{level}_up", here, "up"), side * 2
        self.norm_out = nn.GroupNorm(options["norm_groups"], here)
        self.conv_out = conv(here, outputs, 3)

    def _run(self, name, h, emb):
        return getattr(self, name)(h, emb) if hasattr(self, name) else h

    def forward(self, z, t):
        """z_t [B,C,H,W], t [B] -> the network's output [B,D,H,W]."""
        half = self.width // 2
        steps = torch.arange(half, device=z.device)
        angles = t[:, None].float() * torch.exp(-math.log(1e4) / half * steps)
        emb = torch.cat([angles.cos(), angles.sin()], -1)
        emb = self.time_out(functional.silu(self.time_in(emb)))
        h = self.conv_in(z)
        skips = [h]
        for level in range(self.levels):
            for i in range(self.blocks):
                h = self._run(f"down{level}_res{i}", h, emb)
                h = self._run(f"down{level}_attn{i}", h, emb)
                skips.append(h)
            if level + 1 < self.levels:
                h = self._run(f"down{level}_down", h, emb)
                skips.append(h)
        for name in ("mid_res0", "mid_attn", "mid_res1"):
            h = self._run(name, h, emb)
        for level in reversed(range(self.levels)):
            for i in range(self.blocks + 1):
                h = self._run(f"up{level}_res{i}", torch.cat([h, skips.pop()], 1), emb)
                h = self._run(f"up{level}_attn{i}", h, emb)
            h = self._run(f"up{level}_up", h, emb)
        return self.conv_out(functional.silu(self.norm_out(h)))

    @torch.no_grad()
    def load(self, params):
        """Takes over the parameters of a `unet.UNet`."""
        for path, value in jax.tree_util.tree_leaves_with_path(params["params"]):
            names = [entry.key for entry in path]
            module = self.get_submodule(".".join(names[:-1]))
            value = np.asarray(value)
            if names[-1] == "kernel":
                value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            target = module.bias if names[-1] == "bias" else module.weight
            assert target.shape == value.shape, names
            target.copy_(torch.from_numpy(value.copy()))


def check(network, parts, params):
    """Makes sure that a `Network` computes what ours does, on random input.

    Raises:
      AssertionError: if not.
    """
    h, w, c = parts.image_shape
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(  # some layers start at zero, which would hide much
        lambda a: np.asarray(a) + 0.02 * rng.normal(size=a.shape).astype(np.float32), params
    )
    network.load(shaken)
    z = rng.normal(size=(2, h, w, c)).astype(np.float32)
    t = np.array([3, 700], np.int32)
    ours = np.asarray(parts.network.apply(shaken, z, t))
    device = next(network.parameters()).device
    with torch.no_grad():
        theirs = network.eval()(
            torch.from_numpy(z.transpose(0, 3, 1, 2)).to(device), torch.from_numpy(t).to(device)
        )
    np.testing.assert_allclose(
        theirs.float().cpu().numpy().transpose(0, 2, 3, 1), ours, atol=2e-3 * np.abs(ours).max()
    )
    network.train()


def of_diffusers(inputs, outputs, side, options):
    """diffusers' UNet2DModel of the same widths, blocks and attention.

    It differs: attention in all blocks of its level as here, but always between two more residual
    blocks in the middle, and other embeddings of the time.
    """
    import diffusers

    sides = [side // 2**level for level in range(len(options["channel_mult"]))]
    attends = [s in options["attention_resolutions"] for s in sides]
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=inputs,
        out_channels=outputs,
        layers_per_block=options["num_res_blocks"],
        block_out_channels=[int(m * options["channels"]) for m in options["channel_mult"]],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=options["head_channels"],
        norm_num_groups=options["norm_groups"],
        dropout=options["dropout"],
    )


def make(peer, parts, config, device):
    """(network, predict(z, t)) of a peer, channels last."""
    h, _, c = parts.image_shape
    outputs = parts.network.out_channels
    if peer == "torch":
        network = Network(c, outputs, h, dict(config.model))
        predict = network
    else:
        network = of_diffusers(c, outputs, h, dict(config.model))

        def predict(z, t):
            return network(z, t).sample

    network.to(device, memory_format=torch.channels_last)
    return network, predict


def train_step(peer, parts, config, images, *, device="cpu", compile_=False):
    """`step()` of a peer's training: noise, network, loss, gradient, clipping, AdamW, EMA.

    Images are on the device already and are not augmented. The number of parameters is returned
    too.
    """
    network, predict = make(peer, parts, config, device)
    predict = torch.compile(predict) if compile_ else predict
    parameters = list(network.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    bf16 = config.model.dtype == "bfloat16"
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    table = torch.from_numpy(np.asarray(parts.schedule.alpha_bar, np.float32)).to(device)
    c = x.shape[1]

    def step():
        x0 = x.float() / 127.5 - 1.0
        x0 = x0.to(memory_format=torch.channels_last)
        t = torch.randint(len(table), (len(x0),), device=device)
        alpha_bar = table[t][:, None, None, None]
        eps = torch.randn_like(x0)
        z = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            output = predict(z, t)
        loss = (output[:, :c].float() - eps).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1e-4)
        if device != "cpu":
            torch.cuda.synchronize()
        return loss

    return step, sum(p.numel() for p in parameters)


def sampler(peer, parts, config, *, steps, count, device="cpu"):
    """(`draw()`, parameters): deterministic DDIM in a loop, in the peer's network; [n,C,H,W]."""
    network, predict = make(peer, parts, config, device)
    network.eval()
    h, w, c = parts.image_shape
    alpha_bar = torch.from_numpy(np.asarray(parts.schedule.alpha_bar, np.float32)).to(device)
    visited = torch.linspace(len(alpha_bar) - 1, 0, steps, device=device).round().long()

    @torch.inference_mode()
    def draw():
        z = torch.randn(count, c, h, w, device=device).to(memory_format=torch.channels_last)
        for i, t in enumerate(visited):
            a = alpha_bar[t]
            after = alpha_bar[visited[i + 1]] if i + 1 < len(visited) else torch.ones_like(a)
            eps = predict(z, t.expand(count))[:, :c].float()
            x0 = ((z - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            eps = (z - a.sqrt() * x0) / (1 - a).sqrt()
            z = after.sqrt() * x0 + (1 - after).sqrt() * eps
        if device != "cpu":
            torch.cuda.synchronize()
        return z

    return draw, sum(p.numel() for p in network.parameters())
