"""Any picture file -> (28, 28) uint8 pixels as MNIST would have them: decode, find the digit, draw it anew."""

import os

from edgelstm.data.picture.decode import SUFFIXES, UNREADABLE_SUFFIXES, decode, pixels_of, read_pixels
from edgelstm.data.picture.find import DigitPicture, digit_from_array
from edgelstm.data.picture.limits import MAX_FILE_BYTES

__all__ = [
    "MAX_FILE_BYTES",
    "SUFFIXES",
    "UNREADABLE_SUFFIXES",
    "DigitPicture",
    "decode",
    "digit_from_array",
    "pixels_of",
    "read_picture",
    "read_pixels",
]


def read_picture(source: str | os.PathLike[str] | bytes, rows: int = 28, cols: int = 28) -> DigitPicture:
    """Read a picture file, or its encoded bytes, and find the digit: (rows, cols) uint8, 255 = ink.

    Raises PictureError, in one line, if it is no picture that can be read. What goes wrong with one picture, a bug
    of ours included, so ends with that picture.
    """
    return digit_from_array(read_pixels(source), rows, cols)
