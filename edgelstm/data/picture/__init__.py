"""Any picture file -> (28, 28) uint8 pixels as MNIST would have them."""

from edgelstm.data.picture.decoding import (
    MAX_FILE_BYTES,
    SUFFIXES,
    decode,
    pixels_of,
    printable,
    read_picture,
    read_pixels,
)
from edgelstm.data.picture.digit import DigitPicture, digit_from_array

__all__ = [
    "MAX_FILE_BYTES",
    "SUFFIXES",
    "DigitPicture",
    "decode",
    "digit_from_array",
    "pixels_of",
    "printable",
    "read_picture",
    "read_pixels",
]
