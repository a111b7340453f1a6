"""Tests of edgelstm.measure.doctor: clashing wheels, old versions, and an LSTM that really runs."""

from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from edgelstm.errors import ProviderError
from edgelstm.measure import doctor
from edgelstm.runtime import session
from edgelstm.runtime.runner import OrtRunner


@pytest.fixture
def installed(monkeypatch):
    """Pretend that pip has installed these packages and no others: installed(onnx="1.22.0")."""

    def pretend(**versions):
        known = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name):
            if name not in known:
                raise metadata.PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(metadata, "version", version)

    return pretend


@pytest.fixture(autouse=True)
def _no_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path))


def finding(what):
    found = [one for one in doctor.examine() if one.what == what]
    assert len(found) == 1, f"{what}: {found}"
    return found[0]


def test_two_runtime_wheels_are_found_installed_together_with_the_way_out(installed):
    installed(onnxruntime="1.31.0", onnxruntime_gpu="1.31.1")
    assert doctor.installed_runtimes() == ["onnxruntime", "onnxruntime-gpu"]
    wheels = finding("onnxruntime wheels")
    assert (wheels.passed, "overwrite each other" in wheels.found) == (False, True)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in wheels.advice


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime_gpu"])
def test_one_runtime_wheel_is_in_order(installed, name):
    installed(**{name: "1.31.0"})
    wheels = finding("onnxruntime wheels")
    assert (True, name.replace("_", "-"), None) == (wheels.passed, wheels.found, wheels.advice)


def test_no_runtime_wheel_is_a_fault_with_the_commands_to_choose_from(installed):
    installed()
    wheels = finding("onnxruntime wheels")
    assert (wheels.passed, wheels.found) == (False, "none")
    assert 'pip install "edgelstm[cpu]"' in wheels.advice


@pytest.mark.parametrize(
    ("name", "version"),
    [("onnx", "1.20.9"), ("torch", "2.9.1+cpu"), ("onnxruntime", "1.28.0"), ("pillow", "12.2.9"), ("torch", "1.99.0")],
)
def test_a_version_with_known_holes_is_a_fault_with_the_upgrade(installed, name, version):
    installed(**{name: version})
    package = finding(name)
    assert (package.passed, package.found.startswith(version)) == (False, True)
    assert f'pip install "{name}>=' in package.advice


@pytest.mark.parametrize(
    ("name", "version"),
    [("onnx", "1.21.0"), ("torch", "2.10.0a0+git1"), ("onnxruntime", "2.0"), ("pillow", "13.0.0"), ("numpy", "1.0")],
)
def test_a_version_without_known_holes_is_only_told(installed, name, version):
    installed(**{name: version})
    package = finding(name)
    assert (None, version, None) == (package.passed, package.found, package.advice)


def test_a_version_of_an_unusual_form_is_no_traceback(installed):
    installed(onnx="1.22rc1")
    assert finding("onnx").passed is None


def test_what_is_not_installed_is_not_listed(installed):
    installed()
    assert {"onnx", "torch", "numpy"}.isdisjoint(one.what for one in doctor.examine())


def test_an_lstm_really_runs_on_the_cpu(monkeypatch):
    ran = []
    real = OrtRunner.logits

    def logits(self, pixels):
        ran.append((self.provider_used, pixels.shape))
        return real(self, pixels)

    monkeypatch.setattr(OrtRunner, "logits", logits)
    on_cpu = finding("LSTM on cpu")
    assert (on_cpu.passed, on_cpu.found) == (True, "runs, (2, 10) logits")
    assert ("cpu", (2, 28, 28)) in ran


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_in_the_current_folder_stands_in_for_the_shipped_model(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "base"
    if kind == "folder":
        here.mkdir()
        here /= "model.onnx"
    here.write_text("no model")
    assert (finding("LSTM on cpu").passed, finding("LSTM on cpu").found) == (True, "runs, (2, 10) logits")


@pytest.mark.parametrize(("value", "told"), [(None, True), ("0", True), ("1", False)])
def test_telemetry_is_told_unless_the_environment_switches_it_off_for_every_program(monkeypatch, value, told):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if value is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    found = {one.what: one for one in doctor.examine()}
    assert ("onnxruntime telemetry" in found) is told
    if told:
        one = found["onnxruntime telemetry"]
        assert (one.passed, one.advice) == (None, "export ORT_DISABLE_TELEMETRY=1")


def test_telemetry_is_no_matter_without_onnxruntime(installed, monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    installed()
    assert "onnxruntime telemetry" not in {one.what for one in doctor.examine()}


def test_an_lstm_that_gives_no_numbers_is_a_fault(monkeypatch):
    monkeypatch.setattr(OrtRunner, "logits", lambda self, pixels: np.full((2, 10), np.nan, np.float32))
    assert finding("LSTM on cpu").passed is False


def test_a_machine_without_a_gpu_is_in_order_and_told_why(monkeypatch):
    monkeypatch.setattr(session, "cuda_problem", lambda ort: "no NVIDIA driver; install it")
    on_cuda = finding("LSTM on cuda")
    assert (on_cuda.passed, "no NVIDIA driver; install it" in on_cuda.found) == (None, True)


def test_a_cpu_that_cannot_run_the_lstm_is_a_fault(monkeypatch):
    def fail(*arguments, provider, **options):
        raise ProviderError(f"provider {provider} is broken")

    monkeypatch.setattr(doctor, "open_runner", fail)
    found = {one.what: one for one in doctor.examine()}
    assert [found[f"LSTM on {name}"].passed for name in ("cpu", "cuda", "c")] == [False, None, None]
    assert found["LSTM on cpu"].found == "provider cpu is broken"


def test_missing_shipped_models_are_a_fault_and_no_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "shipped_dir", lambda: tmp_path / "nowhere")
    found = {one.what: one for one in doctor.examine()}
    assert (found["shipped models"].passed, found["LSTM on cpu"].passed) == (False, False)
    assert "reinstall edgelstm" in found["shipped models"].advice


def test_the_shipped_models_are_listed():
    models = finding("shipped models")
    assert (models.passed, "base.onnx" in models.found) == (True, True)


def test_mnist_that_is_not_there_is_no_fault_and_told_how_to_get(tmp_path):
    mnist = finding("MNIST")
    assert mnist.passed is None
    assert f"not in {tmp_path}; `edgelstm train` fetches it" == mnist.found


def test_cuda_libraries_and_wheels_are_told_either_way(monkeypatch):
    monkeypatch.setattr(
        doctor.ctypes.util, "find_library", lambda name: "libcuda.so.1" if name == "cuda" else None
    )  # fmt: skip
    wheels = [SimpleNamespace(name="nvidia-cudnn-cu13", version="9.1"), SimpleNamespace(name="click", version="8")]
    monkeypatch.setattr(metadata, "distributions", lambda: wheels)
    found = {one.what: one.found for one in doctor.examine()}
    assert (found["NVIDIA driver"], found["cuDNN"]) == ("libcuda.so.1", "not in the system's library path")
    assert found["NVIDIA wheels"] == "nvidia-cudnn-cu13 9.1"


def test_everything_that_must_be_mended_comes_with_advice_or_its_reason():
    for one in doctor.examine():
        assert one.passed is not False or one.advice or one.what.startswith("LSTM"), one
