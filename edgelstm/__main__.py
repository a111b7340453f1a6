"""The command `edgelstm`, also as python -m edgelstm."""

import gc

from edgelstm.cli import main

IMPORT_OBJECTS = 200_000
"""More than importing makes. Imports make no garbage, and looking for it again and again, and once more at the end,
is a twelfth of the time of `edgelstm infer digit.png`."""


def run() -> None:
    """Run the command line and end the process."""
    gc.set_threshold(IMPORT_OBJECTS)
    try:
        main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    run()
