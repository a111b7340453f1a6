"""Shared by the tests of scoring: what lies in an output folder, and inputs that end the process that reads them."""

import json
import os
import signal

DEADLY = """
import ctypes, os
found = os.stat
def stat(path, *arguments, **options):
    if str(path).endswith("deadly.png"):
        ctypes.string_at(0)  # not os.kill: Ray's own handler takes its time, and this thread would go on
    return found(path, *arguments, **options)
os.stat = stat
"""
"""A sitecustomize.py: a decoder that crashes over some files."""


def rows(folder):
    """All rows of a job, in the order of its parts; no part may be missing."""
    import pyarrow.parquet

    manifest = json.loads((folder / "_manifest.json").read_text())
    parts = sorted(folder.glob("part-*.parquet"))
    assert [f"part-{i:06}.parquet" for i in range(manifest["n_parts"])] == [part.name for part in parts]
    return [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]


def files(folder):
    """The parts' names and bytes; nothing that is half done may lie beside them."""
    assert {"_manifest.json", "_inputs.parquet"} >= {
        path.name for path in folder.iterdir() if not path.name.startswith("part-")
    }
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


def children(pid):
    """The processes that ``pid`` has started, and those that they have."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat") as stream:
                    found.setdefault(int(stream.read().rpartition(")")[2].split()[1]), []).append(int(entry.name))
            except OSError:
                continue
    return [one for child in found.get(pid, []) for one in (child, *children(child))]


def hang(path):
    """In a worker: an endless try over input 5."""
    from edgelstm.runtime import parts

    parts._tries = parts._Tries(path)
    parts._tries.at(5, 1)
    signal.pause()
