"""Parameters of another network of the same blocks: other classes, channels, or variance.

Each change is one function (params, ...) -> (params, line for the report).
"""

import numpy as np


def classes(params: dict, like: dict) -> tuple[dict, str]:
    """With the embedding of classes that a network is to have: a fresh one if it differs.

    Args:
      params: of the network that is there.
      like: parameters of the network that is wanted, or their shapes.
    """
    there, wanted = (some["params"].get("Embed_0") for some in (params, like))
    sizes = [0 if some is None else some["embedding"].shape[0] for some in (there, wanted)]
    if sizes[0] == sizes[1]:
        return params, ""
    own = {name: value for name, value in params["params"].items() if name != "Embed_0"}
    if wanted is not None:
        # As small as if nothing were told, so that the network starts as it was.
        own["Embed_0"] = {"embedding": np.zeros(wanted["embedding"].shape, np.float32)}
    count = "no" if not sizes[1] else f"{sizes[1]:,}"
    line = f"{count} classes in place of {sizes[0] or 'none'}"
    return {**params, "params": own}, line + (": their embedding starts at zero" if wanted else "")


def channels(params: dict, before: int, now: int, parts: int) -> tuple[dict, str]:
    """For images of `now` channels in place of `before`, 1 or 3 each.

    A grey network from one of colours sees the image as three equal channels, and its output is
    their mean; one of colours sees their mean, and repeats what it says of it.

    Args:
      params: of the network that is there.
      before, now: channels of images.
      parts: of the output, 1, or 2 with a learned variance; each has as many channels as images.
    """
    if before == now:
        return params, ""
    own = dict(params["params"])
    kernel = np.asarray(own["conv_in"]["kernel"])
    of_out = {name: np.asarray(value) for name, value in own["conv_out"].items()}

    def out(array):
        split = array.reshape(*array.shape[:-1], parts, before)
        made = split.mean(-1, keepdims=True).repeat(now, -1)
        return made.reshape(*array.shape[:-1], parts * now)

    # The noise of three channels is weaker in their mean by sqrt(3), and of one in three is not:
    # fine-tuning has to learn that either way.
    made = kernel.sum(2, keepdims=True).repeat(now, 2) / now
    own["conv_in"] = {**own["conv_in"], "kernel": made}
    own["conv_out"] = {name: out(value) for name, value in of_out.items()}
    return {**params, "params": own}, f"images of {now} channels in place of {before}"


def variance(params: dict, image_channels: int, *, learned: bool) -> tuple[dict, str]:
    """With the outputs of a learned variance, which start at zero, or without.

    Args:
      params: of the network that is there.
      image_channels: C.
      learned: whether the network that is wanted has 2C outputs, or C.
    """
    there = np.asarray(params["params"]["conv_out"]["bias"]).shape[0]
    wanted = image_channels * (2 if learned else 1)
    if there == wanted:
        return params, ""

    def out(array):
        array = np.asarray(array)
        if wanted < there:
            return array[..., :wanted]
        zeros = np.zeros((*array.shape[:-1], wanted - there), array.dtype)
        return np.concatenate([array, zeros], -1)

    own = dict(params["params"])
    own["conv_out"] = {name: out(value) for name, value in own["conv_out"].items()}
    line = "a learned variance, which starts at zero" if learned else "no learned variance"
    return {**params, "params": own}, line
