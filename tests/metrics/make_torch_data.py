"""Writes tests/files/: what PyTorch saves, and the features of pytorch-fid's Inception.

    python -m tests.make_torch_data

Needs torch and pytorch-fid, which the tests themselves do not. The weights of the Inception are
random, from a seed; the tests draw the same ones.
"""

import collections
from unittest import mock

import numpy as np

from tests import tiny


def random_weights(shapes, seed=0):
    """{name: float32 array} for {name: shape}, drawn in the order of the names.

    Scaled so that activations keep their size from layer to layer; the statistics of the batch
    normalisation are random too, so that a wrong one shows.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 4:
            values *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        elif name.endswith("running_var"):
            values = np.exp(0.3 * values)
        elif name.endswith("bn.weight"):
            values = 1.0 + 0.2 * values
        else:
            values = 0.2 * values
        weights[name] = values.astype(np.float32)
    return weights


def pictures():
    """[(name, uint8 [1,H,W,C])]: noise, structure, grey, and no square."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :80] / 48.0
    waves = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(20 * x * y)], -1) * 127 + 128
    return [
        ("noise", rng.integers(0, 256, (1, 32, 32, 3), np.uint8)),
        ("waves", waves.astype(np.uint8)[None]),
        ("grey", rng.integers(0, 256, (1, 8, 8, 1), np.uint8)),
        ("large", waves.repeat(8, 0).repeat(8, 1).astype(np.uint8)[None]),
    ]


def main():
    import torch
    from PIL import Image
    from pytorch_fid import inception

    # The architecture without the download: the weights are ours.
    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        network = inception.fid_inception_v3()

    def needed(name):
        return "num_batches" not in name and not name.startswith("fc.")

    shapes = {n: tuple(v.shape) for n, v in network.state_dict().items() if needed(n)}
    weights = random_weights(shapes)
    network.load_state_dict({n: torch.tensor(v) for n, v in weights.items()}, strict=False)
    with mock.patch.object(inception, "fid_inception_v3", lambda: network):
        fid = inception.InceptionV3([3], use_fid_inception=True).eval()

    saved = {}
    for name, image in pictures():
        rgb = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
        with torch.no_grad():
            scaled = torch.tensor(rgb).permute(0, 3, 1, 2).float() / 255
            saved[f"pytorch-fid {name}"] = fid(scaled)[0][:, :, 0, 0].numpy()
            channels = [
                Image.fromarray(rgb[0, :, :, c].astype(np.float32)).resize((299, 299), 3)
                for c in range(3)
            ]
            clean = np.clip(np.stack([np.asarray(c) for c in channels]), 0, 255)
            fid.resize_input = fid.normalize_input = False
            prepared = (torch.tensor(clean)[None] - 128) / 128
            saved[f"clean-fid {name}"] = fid(prepared)[0][:, :, 0, 0].numpy()
            fid.resize_input = fid.normalize_input = True
    tiny.FILES.mkdir(exist_ok=True)
    np.savez_compressed(tiny.FILES / "inception_features.npz", **saved)

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = collections.OrderedDict(
        whole=base,
        transposed=base.t(),
        part=base[1:3, ::2],
        parameter=torch.nn.Parameter(base[0]),
        half=torch.tensor([1.5, -2.0]).half(),
        brain=torch.tensor([1.5, -2.0, 3e38]).bfloat16(),
        double=torch.tensor([1 / 3], dtype=torch.float64),
        count=torch.tensor(7),
        signs=torch.tensor([[True, False]]),
        empty=torch.zeros(0, 3),
        repeated=base[0, 1:3].expand(4, 2),
    )
    tensors._metadata = {"": {"version": 1}}  # as in Module.state_dict()
    for name, new in (("zip.pth", True), ("older.pth", False)):
        torch.save(tensors, tiny.FILES / name, _use_new_zipfile_serialization=new)


if __name__ == "__main__":
    main()
