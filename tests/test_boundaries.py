"""Tests of the borders inside edgelstm: who may import whom, and what works without torch and onnx."""

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

import edgelstm

PACKAGE = Path(edgelstm.__file__).parent
TIMEOUT_S = 120
BLOCKED = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "tensorboard", "matplotlib")

# A folder imports only folders of lower levels; what stands at the top of the package is level 0.
LEVELS = {
    "data": 1, "native": 2, "runtime": 3, "measure": 4, "show": 5, "web": 5, "training": 5, "exporting": 6, "cli": 7
}  # fmt: skip
# Which packages besides the standard library a folder may import. *: inside functions only.
PACKAGES = {
    "": {"numpy"},
    "data": {"numpy", "PIL", "*torchvision"},
    "native": {"numpy"},
    "runtime": {"numpy", "PIL", "*onnxruntime", "*pyarrow", "*ray"},
    "measure": {"numpy"},
    "show": {"numpy", "PIL", "*matplotlib"},
    "web": {"numpy"},
    "training": {"numpy", "torch", "safetensors"},
    "exporting": {"numpy", "torch", "onnx"},
    "cli": {"click", "*torch", "*numpy"},
}


class Import(NamedTuple):
    """One imported module, and whether importing its file is enough to have it imported."""

    name: str
    at_top: bool
    line: int


def modules():
    return sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))


def tree(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imports(module) -> Iterator[Import]:
    """Every import but those for type checkers only."""

    def walk(node, at_top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, at_top, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno} imports relatively"
                names = [alias.name for alias in child.names]
                # `from edgelstm.training import run` imports a module, `from edgelstm import __version__` a name
                nested = [f"{child.module}.{name}" for name in names if exists(f"{child.module}.{name}")]
                yield from (Import(name, at_top, child.lineno) for name in nested or [child.module])
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_top and not inside)

    return walk(tree(module), True)


def exists(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def packages(module):
    """Names of other packages, with * if they are imported inside functions only."""
    found = {}
    for one in imports(module):
        name = one.name.split(".")[0]
        if name != "edgelstm" and name not in sys.stdlib_module_names:
            found[name] = found.get(name, False) or one.at_top
    return {name if at_top else f"*{name}" for name, at_top in found.items()}


def ours(module):
    """The parts of edgelstm that a module imports: their names below the package, '' for the package itself."""
    return {
        (one.name.removeprefix("edgelstm").removeprefix("."), one.at_top)
        for one in imports(module)
        if one.name.split(".")[0] == "edgelstm"
    }


def folder_of(module):
    """The folder at the top of the package that a module lies in; "" for the modules beside the folders."""
    return module.split("/")[0] if "/" in module else ""


def test_every_folder_has_its_level():
    assert {folder_of(module) for module in modules()} - {""} <= set(LEVELS)


@pytest.mark.parametrize("module", [module for module in modules() if module not in ("__init__", "__main__")])
def test_a_module_imports_its_own_folder_and_those_of_lower_levels(module):
    folder = folder_of(module)
    found = {name.split(".")[0] for name, _ in ours(module)}
    above = {name for name in found & set(LEVELS) if name != folder and LEVELS[name] >= LEVELS.get(folder, 0)}
    assert above == set(), f"{module} imports {sorted(above)}"


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_no_package_but_its_folders_own(module):
    allowed = PACKAGES[folder_of(module)]
    allowed = allowed | {f"*{name}" for name in allowed}
    assert packages(module) <= allowed, f"{module} imports {sorted(packages(module) - allowed)}"


def test_importing_the_package_imports_nothing_else():
    assert set() == packages("__init__")
    assert set() == {name for name, at_top in ours("__init__") if at_top}


@pytest.mark.parametrize("module", [module for module in modules() if module.startswith("cli/")])
def test_the_command_line_imports_only_click_and_level_0_at_its_top(module):
    found = {name for name, at_top in ours(module) if at_top and not name.startswith("cli")}
    assert {name.split(".")[0] for name in found} & set(LEVELS) == set(), f"{module} imports {sorted(found)}"


@pytest.mark.parametrize("module", [module for module in modules() if not module.startswith("cli/")])
def test_library_code_does_not_print_or_write_to_the_terminal(module):
    spoken = [
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write", "click.echo", "pprint.pprint"}
    ]
    assert spoken == []


@pytest.mark.parametrize("module", modules())
def test_no_module_configures_logging(module):
    configured = [
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1]
        in {"basicConfig", "addHandler", "setLevel", "dictConfig", "fileConfig", "captureWarnings"}
        and "_SILENCE" not in ast.unparse(node)  # a handler that does nothing, on Pillow's logger
    ]
    assert configured == []


# Without torch and onnx

RUN = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from edgelstm.cli import main
main(sys.argv[2:], prog_name="edgelstm")
"""


OFFLINE = {"PATH": "", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
"""No npm and no network, should a command ever look for MNIST before it finds that it cannot train."""


def run_without(blocked, *arguments, folder, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, ",".join(blocked), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "EDGELSTM_DATA": str(folder), **OFFLINE},
        cwd=folder, capture_output=True, timeout=TIMEOUT_S, **options,
    )  # fmt: skip


@pytest.fixture
def picture(sample):
    stream = io.BytesIO()
    Image.fromarray(sample.sequences[0]).save(stream, "PNG")
    return stream.getvalue()


def test_infer_reads_a_digit_without_torch_and_onnx(tmp_path, picture, sample):
    (tmp_path / "digit.png").write_bytes(picture)
    done = run_without(BLOCKED, "infer", "digit.png", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(sample.labels[0]) == json.loads(done.stdout)["index"]


def test_explain_shows_the_rows_without_torch_and_onnx_and_says_what_drawing_needs(tmp_path, picture, sample):
    (tmp_path / "digit.png").write_bytes(picture)
    done = run_without(BLOCKED, "explain", "digit.png", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (int(sample.labels[0]), 28) == (json.loads(done.stdout)["index"], len(json.loads(done.stdout)["rows"]))
    done = run_without(BLOCKED, "explain", "digit.png", "-o", "why.png", folder=tmp_path)
    assert (done.returncode, done.stdout, (tmp_path / "why.png").exists()) == (1, b"", False)
    assert b"drawing a plot needs the package matplotlib" in done.stderr


def test_bench_measures_without_torch_and_onnx(tmp_path):
    done = run_without(
        BLOCKED, "bench", "--provider", "cpu", "--seconds", 0.1, "--batch-size", 1, "--json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["results"]
    assert (result["provider_used"], result["accuracy"]["n"]) == ("cpu", 1000)
    assert result["accuracy"]["n_right"] > 900


@pytest.mark.parametrize("command", ["inspect", "doctor"])
def test_inspect_and_doctor_work_without_torch_and_onnx(tmp_path, command):
    done = run_without(BLOCKED, command, folder=tmp_path)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "blocked"),
    [
        *(
            (command, name)
            for command in ("export", "verify", "train")
            for name in (BLOCKED, ["torch"], ["safetensors"])
        ),
        *((command, ["onnx"]) for command in ("export", "verify")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0] if len(value) == 1 else "all",
)
def test_export_verify_and_train_say_what_to_install(tmp_path, command, blocked):
    done = run_without(blocked, command, folder=tmp_path)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    assert 'pip install "edgelstm[train]"' in lines[-1]
    assert [line for line in lines if "Traceback" in line] == []


def test_importing_every_public_name_prints_nothing(tmp_path):
    code = "import edgelstm; assert dir(edgelstm) == edgelstm.__all__; [getattr(edgelstm, n) for n in dir(edgelstm)]"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
