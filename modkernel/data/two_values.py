"""Whether 1 is white, in pictures of 0 and 1 that are no bytes: by what a network was trained on.

A set of such pictures is read as 0 and 255, and one of bytes 0 and 1 as it is; beside other bytes,
both are possible.
"""

from __future__ import annotations

import numpy as np

from modkernel.errors import DataError
from modkernel.spec import Preprocessing

ROUNDED = 1e-6
"""Of a standard deviation, what rounding changes a stored mean and deviation by, at most."""


def factor_of(array: np.ndarray, takes: Preprocessing, what: str) -> int | None:
    """What pictures are multiplied by to be the bytes that a network was trained on.

    Args:
        array: one picture or several, of any type.
        takes: of the network.
        what: their name, for messages.

    Returns:
        255 or 1; None where the array alone says it: bytes, values above 1, and what is no picture.

    Raises:
        DataError: 0 and 1 alone, which may be black and white or the two darkest levels.
    """
    if takes.dtype != "uint8" or array.dtype == np.uint8 or array.dtype.kind not in "iufb":
        return None
    if not array.size or not (array.min() >= 0 and array.max() <= 1):
        return None
    if not np.isin(array, (0, 1)).all():
        return 255
    white = white_of(takes)
    if white is not None:
        return white
    if array.dtype.kind == "b" or not array.any():
        return 255
    raise DataError(
        f"{what} holds 0 and 1 alone, as {array.dtype}, which may be black and white or the two "
        "darkest of 256 levels, and this network was trained on others too: give an image file, or "
        "uint8: (x * 255).astype('uint8') where 1 is white, else x.astype('uint8')."
    )


def white_of(takes: Preprocessing) -> int | None:
    """255 or 1 where the training pictures held 0 and that alone, which mean and deviation tell.

    Of values from 0 to w the variance is m (w − m), with m their mean, only where each is 0 or w;
    and of whole numbers there is nothing between 0 and 1.
    """
    known = list(zip(takes.mean, takes.std, strict=True))
    if all(pair == (0.5, 0.5) for pair in known):  # What networks from elsewhere often have.
        return None
    for white in (255, 1):
        w = white / 255
        # The deviation of a constant channel is stored as 1.
        varied = [(mean, std) for mean, std in known if not (std == 1 and mean in (0, w))]
        if varied and all(
            abs(std * std - mean * (w - mean)) <= ROUNDED * std * (w + std) for mean, std in varied
        ):
            return white
    return None
