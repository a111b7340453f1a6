"""Tests of edgelstm.runtime.runner: which file is meant, whose contract is kept, where the LSTM really runs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgelstm.contract import ModelContract
from edgelstm.errors import MissingDependencyError, ModelError, ProviderError
from edgelstm.runtime import runner as runtime
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner, SessionSettings

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TIMEOUT_S = 60


@contextlib.contextmanager
def changed(content):
    """The model in ``content`` to change, and a function that gives the changed bytes."""
    model = onnx.load_model_from_string(content)
    yield model, lambda: model.SerializeToString(deterministic=True)


def with_metadata(content, **values):
    """The same model with some of its contract's JSON texts replaced; None removes one."""
    with changed(content) as (model, result):
        props = {entry.key: entry.value for entry in model.metadata_props}
        for key, text in values.items():
            props.pop(f"edgelstm.{key}", None)
            if text is not None:
                props[f"edgelstm.{key}"] = text
        helper.set_model_props(model, props)
        return result()


def with_external_weights(content, location):
    """The same model with W moved out into a file; returns model bytes and W's bytes."""
    with changed(content) as (model, result):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "lstm_0.W")
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
        return result(), raw


def stranger():
    """A sound ONNX model that has nothing to do with us."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def fake_ort(providers=(CUDA, CPU), preload=lambda: None):
    return SimpleNamespace(get_available_providers=lambda: list(providers), preload_dlls=preload, __version__="1.99.0")


def fake_session(*assigned):
    """What a session says of its nodes: (provider, operator, name) of each."""
    subgraphs = [
        SimpleNamespace(ep_name=place, get_nodes=lambda node=SimpleNamespace(op_type=kind, name=name): [node])
        for place, kind, name in assigned
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: subgraphs)


@pytest.fixture
def cuda_seems_there(monkeypatch):
    """A machine whose driver is found and whose sessions are made, but, in truth, on the CPU."""
    real = OrtRunner._session_on
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(OrtRunner, "_session_on", lambda self, provider, content: real(self, "cpu", content))


@pytest.fixture
def placed(monkeypatch, cuda_seems_there):
    """Say where a CUDA session has placed its LSTM nodes."""
    return lambda **nodes: monkeypatch.setattr(runtime, "lstm_placement", lambda session: nodes)


def dynamic_loader(**missing):
    """ctypes.CDLL on a machine where the libraries with these words in their name do not load."""

    def load(name):
        for word, text in missing.items():
            if word in str(name):
                raise OSError(text)
        return object()

    return SimpleNamespace(CDLL=load)


# What it computes


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_logits_are_those_of_the_numpy_reference(tiny_model_bytes, sample, batch):
    found = OrtRunner(tiny_model_bytes, provider="cpu").logits(sample.images[:batch])
    expected = NumpyRunner(tiny_model_bytes).logits(sample.images[:batch])
    assert (np.dtype(np.float32), (batch, 10)) == (found.dtype, found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_picture_is_read_alike_alone_and_in_a_batch(tiny_model_bytes, sample):
    runner = OrtRunner(tiny_model_bytes, provider="cpu")
    alone = np.concatenate([runner.logits(sample.images[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(runner.logits(sample.images[:5]), alone)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.zeros((1, 28, 28), np.float32), "float32 (1, 28, 28)"),
        (np.zeros((28, 28), np.uint8), "uint8 (28, 28)"),
        (np.zeros((1, 28, 27), np.uint8), "uint8 (1, 28, 27)"),
        (np.zeros((1, 1, 28, 28), np.uint8), "uint8 (1, 1, 28, 28)"),
        ([[0] * 28] * 28, "list"),
    ],
)
def test_pixels_of_another_dtype_or_shape_are_refused_with_what_was_found(tiny_model_bytes, pixels, found):
    runner = OrtRunner(tiny_model_bytes, provider="cpu")
    with pytest.raises(ValueError, match="pixels: found") as raised:
        runner.logits(pixels)
    assert found in str(raised.value)
    assert "uint8 (batch, 28, 28)" in str(raised.value)


def test_the_contract_read_back_is_the_one_that_was_written(tiny_model_bytes, tiny_config):
    contract = OrtRunner(tiny_model_bytes, provider="cpu").contract
    assert (tiny_config, "tiny", "fp32") == (contract.config, contract.name, contract.precision)


def test_the_runner_says_its_size_and_its_name(tiny_model_bytes):
    runner = OrtRunner(tiny_model_bytes, provider="cpu")
    assert (len(tiny_model_bytes), "onnxruntime CPU") == (runner.n_bytes, runner.name)
    assert OrtRunner(tiny_model_bytes, provider="cpu", name="mine").name == "mine"


def test_the_nodes_are_the_graphs_own_and_all_on_the_cpu(tiny_model_bytes):
    nodes = OrtRunner(tiny_model_bytes, provider="cpu").nodes()
    assert [operator for operator, _ in nodes].count("LSTM") == 1
    assert {CPU} == {provider for _, provider in nodes}


def test_all_exception_classes_of_onnxruntime_are_known():
    state = onnxruntime.capi.onnxruntime_pybind11_state
    assert {state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NoSuchFile} <= set(
        runtime.onnxruntime_errors(onnxruntime)
    )


# How the session is set up


@pytest.fixture
def asked(monkeypatch):
    """Every (options, providers) that a session is made with; the sessions themselves are real, on the CPU."""
    seen, real = [], onnxruntime.InferenceSession

    def session(content, options, providers, **others):
        seen.append((options, providers))
        return real(content, options, providers=[CPU], **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return seen


def test_the_default_session_has_one_thread_that_does_not_spin(tiny_model_bytes, asked):
    OrtRunner(tiny_model_bytes, provider="cpu")
    [(options, providers)] = asked
    spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert (options.intra_op_num_threads, options.inter_op_num_threads, spinning, providers) == (1, 1, "0", [CPU])


def test_threads_and_spinning_can_be_set(tiny_model_bytes, asked):
    OrtRunner(tiny_model_bytes, provider="cpu", settings=SessionSettings(threads=2, spinning=True))
    [(options, _)] = asked
    spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert (options.intra_op_num_threads, spinning) == (2, "1")


def test_cuda_is_asked_for_first_and_without_tf32(tiny_model_bytes, asked, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(runtime, "lstm_placement", lambda session: {"lstm_0": CUDA})
    OrtRunner(tiny_model_bytes, provider="cuda")
    _, providers = asked[-1]
    assert providers == [(CUDA, {"use_tf32": "0"}), CPU]


# Telemetry and the missing package


def import_in_a_subprocess(tmp_path, **environment):
    """What a stand-in for onnxruntime sees of the telemetry variable while it is being imported."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'))\nset_default_logger_severity = int\n"
    )
    package = str(Path(runtime.__file__).parents[1])
    inherited = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    path = os.pathsep.join([str(tmp_path), package])
    done = subprocess.run(
        [sys.executable, "-c", "from edgelstm.runtime.runner import import_onnxruntime; import_onnxruntime()"],
        env={**inherited, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path):
    assert import_in_a_subprocess(tmp_path) == "1"


def test_a_user_who_has_set_the_telemetry_variable_is_obeyed(tmp_path):
    assert import_in_a_subprocess(tmp_path, ORT_DISABLE_TELEMETRY="0") == "0"


def test_without_onnxruntime_the_error_names_the_two_commands_to_choose_from(monkeypatch, tiny_model_bytes):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"edgelstm\[cpu\].* or .*edgelstm\[gpu\]"):
        OrtRunner(tiny_model_bytes)


# Where the LSTM runs


def test_a_provider_that_was_named_needs_no_note(tiny_model_bytes):
    runner = OrtRunner(tiny_model_bytes, provider="cpu")
    assert (runner.provider_requested, runner.provider_used, runner.provider_note) == ("cpu", "cpu", None)


@pytest.mark.usefixtures("cuda_seems_there")
def test_cuda_fails_when_the_session_has_put_the_lstm_on_the_cpu(tiny_model_bytes):
    with pytest.raises(ProviderError, match="lstm_0 on CPUExecutionProvider"):
        OrtRunner(tiny_model_bytes, provider="cuda")


@pytest.mark.usefixtures("cuda_seems_there")
def test_auto_falls_back_when_the_session_has_put_the_lstm_on_the_cpu_and_says_so(tiny_model_bytes):
    runner = OrtRunner(tiny_model_bytes, provider="auto")
    assert (runner.provider_requested, runner.provider_used, runner.name) == ("auto", "cpu", "onnxruntime CPU")
    assert "placed lstm_0 on CPUExecutionProvider" in runner.provider_note


def test_cuda_is_believed_when_every_lstm_is_placed_there(tiny_model_bytes, placed):
    placed(lstm_0=CUDA, lstm_1=CUDA)
    runner = OrtRunner(tiny_model_bytes, provider="cuda")
    assert (runner.provider_used, runner.provider_note, runner.name) == ("cuda", None, "onnxruntime CUDA")


def test_auto_says_when_it_chose_cuda(tiny_model_bytes, placed):
    placed(lstm_0=CUDA)
    runner = OrtRunner(tiny_model_bytes, provider="auto")
    assert (runner.provider_used, "cuda" in runner.provider_note) == ("cuda", True)


def test_one_lstm_of_two_on_the_cpu_is_not_cuda(tiny_model_bytes, placed):
    placed(lstm_0=CUDA, lstm_1=CPU)
    with pytest.raises(ProviderError, match="lstm_1 on CPUExecutionProvider"):
        OrtRunner(tiny_model_bytes, provider="cuda")


def test_a_graph_without_an_lstm_node_is_not_proven_to_run_on_cuda(tiny_model_bytes, placed):
    placed()
    with pytest.raises(ProviderError, match="no LSTM node"):
        OrtRunner(tiny_model_bytes, provider="cuda")


def test_other_nodes_on_cuda_prove_nothing():
    session = fake_session((CUDA, "Cast", "cast"), (CPU, "LSTM", "lstm_0"), (CUDA, "Gemm", "head"))
    assert runtime.lstm_placement(session) == {"lstm_0": CPU}


def test_the_quantized_lstm_counts_as_an_lstm():
    session = fake_session((CPU, "DynamicQuantizeLSTM", ""), (CUDA, "Gemm", "head"))
    assert runtime.lstm_placement(session) == {"DynamicQuantizeLSTM": CPU}


def test_a_real_session_tells_where_its_lstm_is(tiny_model_bytes):
    assert runtime.lstm_placement(OrtRunner(tiny_model_bytes, provider="cpu")._session) == {"lstm_0": CPU}


# Why CUDA cannot be had, and what to do


def test_a_build_without_cuda_is_named_with_the_wheel_to_install():
    problem = runtime.cuda_problem(fake_ort(providers=[CPU]))
    assert "onnxruntime 1.99.0 is a build without CUDA" in problem
    assert 'pip install "edgelstm[gpu]"' in problem


def test_a_machine_without_a_driver_is_told_to_install_one(monkeypatch):
    monkeypatch.setattr(runtime, "ctypes", dynamic_loader(cuda="no such file"))
    problem = runtime.cuda_problem(fake_ort())
    assert "no NVIDIA driver" in problem
    assert "install the driver" in problem


def test_with_a_driver_the_cuda_libraries_of_the_wheels_are_loaded_first(monkeypatch):
    monkeypatch.setattr(runtime, "ctypes", dynamic_loader())
    loaded = []
    assert runtime.cuda_problem(fake_ort(preload=lambda: loaded.append("yes"))) is None
    assert loaded == ["yes"]


@pytest.mark.usefixtures("cuda_seems_there")
def test_a_cuda_library_that_does_not_load_is_named_with_the_wheels_to_install(monkeypatch, tiny_model_bytes):
    missing = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(runtime, "ctypes", dynamic_loader(onnxruntime_providers_cuda=missing))
    with pytest.raises(ProviderError, match=r"libcudnn\.so\.9") as raised:
        OrtRunner(tiny_model_bytes, provider="cuda")
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]"' in str(raised.value)


@pytest.mark.usefixtures("cuda_seems_there")
def test_where_all_libraries_load_and_the_lstm_is_still_on_the_cpu_doctor_is_recommended(monkeypatch, tiny_model_bytes):
    monkeypatch.setattr(runtime, "ctypes", dynamic_loader())
    with pytest.raises(ProviderError, match="edgelstm doctor"):
        OrtRunner(tiny_model_bytes, provider="cuda")


def test_auto_gives_the_reason_but_not_the_repair_in_its_note(monkeypatch, tiny_model_bytes):
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: "there is no GPU; buy one")
    runner = OrtRunner(tiny_model_bytes)
    assert (
        runner.provider_used,
        runner.provider_note,
    ) == ("cpu", "provider cpu: CUDA cannot be used (there is no GPU)")


def test_a_cuda_session_that_fails_prints_nothing(monkeypatch, tiny_model_bytes, capfd):
    kind = onnxruntime.InferenceSession
    real = kind._create_inference_session

    def create(self, providers, *rest):
        if providers and providers[0] != CPU:
            raise RuntimeError("CUDA failure 35: driver too old")
        real(self, providers, *rest)

    monkeypatch.setattr(kind, "_create_inference_session", create)
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: None)
    with contextlib.suppress(ProviderError):
        OrtRunner(tiny_model_bytes, provider="cuda")
    assert capfd.readouterr().out == ""


# Which file is meant


def test_a_file_is_itself(tiny_model_path):
    assert tiny_model_path == runtime.find_model(tiny_model_path)


def test_a_run_folder_means_the_model_in_it(tmp_path, tiny_model_bytes):
    (tmp_path / "model.onnx").write_bytes(tiny_model_bytes)
    assert tmp_path / "model.onnx" == runtime.find_model(str(tmp_path))


def test_the_name_of_a_shipped_model_means_that_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert runtime.shipped_dir() / "base.onnx" == runtime.find_model("base")


def test_a_file_here_comes_before_a_shipped_model_of_that_name(monkeypatch, tmp_path, tiny_model_bytes):
    monkeypatch.chdir(tmp_path)
    Path("base").write_bytes(tiny_model_bytes)
    assert Path("base") == runtime.find_model("base")


def test_a_folder_without_a_model_does_not_hide_a_shipped_model_of_that_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    assert runtime.shipped_dir() / "base.onnx" == runtime.find_model("base")


@pytest.mark.parametrize("name", ["nope", "nope.onnx", "../models/base", "nope/"])
def test_what_is_no_model_is_refused_with_the_names_that_are(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"found no such file, expected .* a shipped model \(.*base"):
        runtime.find_model(name)


def test_a_folder_without_a_model_is_called_that(tmp_path):
    with pytest.raises(ModelError, match=r"found a folder without model\.onnx"):
        runtime.find_model(tmp_path)


def test_the_default_model_is_the_run_of_this_folder_or_else_the_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert runtime.default_model() == "base"
    Path("runs/base").mkdir(parents=True)
    Path("runs/base/model.onnx").touch()
    assert Path("runs/base/model.onnx") == Path(runtime.default_model())


# What is refused


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(ModelError, match=r"empty\.onnx is not a model: found 0 bytes"):
        OrtRunner(path, provider="cpu")


def test_a_file_over_the_limit_is_refused_unread(monkeypatch, tiny_model_path):
    monkeypatch.setattr(runtime, "MAX_MODEL_BYTES", 1000)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(ModelError, match="expected 1 to 1,000"):
        OrtRunner(tiny_model_path, provider="cpu")


def test_a_file_of_exactly_the_limit_is_taken(monkeypatch, tiny_model_path):
    monkeypatch.setattr(runtime, "MAX_MODEL_BYTES", tiny_model_path.stat().st_size)
    assert OrtRunner(tiny_model_path, provider="cpu").provider_used == "cpu"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    code = "import sys; from edgelstm.runtime.runner import read_model; read_model(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pipe.onnx")],
        env={**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[1])},
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert "pipe.onnx is not a model: found not a regular file" in done.stderr


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(monkeypatch, tiny_model_path):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=r"cannot read .*tiny\.onnx: found Permission denied"):
        OrtRunner(tiny_model_path, provider="cpu")


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "text": lambda content: b"this is no model\n" * 10,
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + content,
    "one byte": lambda content: b"\x00",
    "no bytes": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_model_error_in_one_line(tiny_model_bytes, damage):
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model") as raised:
        OrtRunner(DAMAGES[damage](tiny_model_bytes), provider="cpu")
    assert len(str(raised.value).splitlines()) == 1


def test_a_damaged_file_is_named_in_the_error(tiny_model_path):
    tiny_model_path.write_bytes(tiny_model_path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"tiny\.onnx cannot be loaded"):
        OrtRunner(tiny_model_path, provider="cpu")


def test_another_kind_of_model_is_refused_for_its_missing_contract():
    with pytest.raises(ModelError, match="is not an edgelstm model: found no edgelstm contract"):
        OrtRunner(stranger(), provider="cpu")


def test_a_model_of_ours_that_lost_its_metadata_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        del model.metadata_props[:]
    with pytest.raises(ModelError, match="found no edgelstm contract"):
        OrtRunner(result(), provider="cpu")


@pytest.mark.parametrize("version", ["2", "0", "null", "[]", '"1"'])
def test_another_version_of_the_contract_is_refused(tiny_model_bytes, version):
    with pytest.raises(ModelError, match=r"another version of the model contract: .*expected 1"):
        OrtRunner(with_metadata(tiny_model_bytes, version=version), provider="cpu")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("config", None),
        ("config", "null"),
        ("config", "{}"),
        ("config", "{not json"),
        ("version", "{not json"),
        ("test", '{"n_right": 1}'),
        ("colour", '"blue"'),
        ("versions", "[" * 100_000),
        ("seed", "9" * 5_000),
    ],
)
def test_metadata_that_makes_no_sense_is_a_damaged_contract(tiny_model_bytes, key, text):
    with pytest.raises(ModelError, match="damaged model contract"):
        OrtRunner(with_metadata(tiny_model_bytes, **{key: text}), provider="cpu")


@pytest.mark.parametrize(
    ("key", "text"),
    [("versions", "[]"), ("test", '{"n_right": 0, "n": 0}'), ("test", '{"n_right": "a", "n": "b"}')],
)
def test_metadata_values_of_the_wrong_kind_are_a_damaged_contract(tiny_model_bytes, key, text):
    with pytest.raises(ModelError, match="damaged model contract"):
        OrtRunner(with_metadata(tiny_model_bytes, **{key: text}), provider="cpu")


def lying_config(content, **values):
    with changed(content) as (model, _):
        props = {entry.key: entry.value for entry in model.metadata_props}
    contract = ModelContract.from_metadata(props)
    lie = type(contract.config)(**{**vars(contract.config), **values})
    return with_metadata(content, config=ModelContract(config=lie).to_metadata()["edgelstm.config"])


@pytest.mark.parametrize(
    ("lie", "what"),
    [({"rows": 14}, "input"), ({"cols": 14}, "input"), ({"class_names": ("a", "b")}, "output")],
)
def test_a_config_that_is_not_the_graphs_is_refused(tiny_model_bytes, lie, what):
    with pytest.raises(ModelError, match=f"breaks the model contract in its {what}: found"):
        OrtRunner(lying_config(tiny_model_bytes, **lie), provider="cpu")


def test_an_input_of_another_dtype_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ModelError, match=r"in its input: found .*tensor\(float\).*expected .*tensor\(uint8\)"):
        OrtRunner(result(), provider="cpu")


def test_an_input_of_another_name_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    with pytest.raises(ModelError, match=r"in its input: found .*'image'"):
        OrtRunner(result(), provider="cpu")


def test_a_second_output_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        model.graph.output.append(helper.make_tensor_value_info("floats", TensorProto.FLOAT, ["batch", 28, 28]))
    with pytest.raises(ModelError, match=r"in its output: found .*'floats'"):
        OrtRunner(result(), provider="cpu")


def test_a_batch_of_fixed_size_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelError, match=r"found .*\[1, 28, 28\].*expected .*'batch'"):
        OrtRunner(result(), provider="cpu")


@pytest.mark.parametrize(
    ("name", "shape"), [("lstm_0.W", (1, 32, 27)), ("lstm_0.R", (1, 8, 8)), ("lstm_0.B", (1, 32)), ("head.bias", (9,))]
)
def test_a_weight_of_another_shape_is_refused(tiny_model_bytes, name, shape):
    with changed(tiny_model_bytes) as (model, result):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    with pytest.raises(ModelError):
        OrtRunner(result(), provider="cpu").logits(np.zeros((1, 28, 28), np.uint8))


def test_a_missing_weight_is_refused(tiny_model_bytes):
    with changed(tiny_model_bytes) as (model, result):
        kept = [tensor for tensor in model.graph.initializer if tensor.name != "lstm_0.R"]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    with pytest.raises(ModelError, match=r"cannot be loaded.*lstm_0\.R"):
        OrtRunner(result(), provider="cpu")


# Weights outside the file


@pytest.mark.parametrize("where", ["absolute", "above"])
def test_weights_in_a_file_elsewhere_are_not_followed(monkeypatch, tmp_path, tiny_model_bytes, where):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    location = str(there / "W.bin") if where == "absolute" else "../there/W.bin"
    content, raw = with_external_weights(tiny_model_bytes, location)
    (there / "W.bin").write_bytes(raw)
    monkeypatch.chdir(here)
    with pytest.raises(ModelError, match=r"keeps weights in another file: found lstm_0\.W"):
        OrtRunner(content, provider="cpu")


def test_weights_in_a_file_beside_the_model_are_not_followed(monkeypatch, tmp_path, tiny_model_bytes):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    content, raw = with_external_weights(tiny_model_bytes, "W.bin")
    (there / "W.bin").write_bytes(raw)
    (there / "model.onnx").write_bytes(content)
    monkeypatch.chdir(here)
    with pytest.raises(ModelError, match=r"keeps weights in another file: found lstm_0\.W"):
        OrtRunner(there / "model.onnx", provider="cpu")


def test_weights_in_a_file_of_the_current_folder_are_not_followed(monkeypatch, tmp_path, tiny_model_bytes):
    content, raw = with_external_weights(tiny_model_bytes, "W.bin")
    (tmp_path / "W.bin").write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"keeps weights in another file: found lstm_0\.W"):
        OrtRunner(content, provider="cpu")


def test_the_value_of_a_constant_node_in_another_file_is_not_followed(monkeypatch, tmp_path, tiny_model_bytes):
    content, raw = with_external_weights(tiny_model_bytes, "W.bin")
    with changed(content) as (model, result):
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "lstm_0.W"]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["lstm_0.W"], value=tensor))
        model.graph.initializer.remove(tensor)
    (tmp_path / "W.bin").write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        OrtRunner(result(), provider="cpu")


def test_a_batch_of_no_pictures_does_not_end_the_process(tiny_model_path):
    code = (
        "import sys, numpy as np; from edgelstm import OrtRunner\n"
        "try: OrtRunner(sys.argv[1], provider='cpu').logits(np.zeros((0, 28, 28), np.uint8))\n"
        "except ValueError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_path)],
        env={**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[1])},
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base.onnx", "base"),
        ("base.int8.onnx", "base"),
        ("base.stream.onnx", "base"),
        ("base.stream.int8.onnx", "base"),
    ],
)
def test_a_models_checkpoint_is_expected_beside_it(name, expected):
    assert Path("a") / f"{expected}.safetensors" == runtime.checkpoint_beside(Path("a") / name)


def test_a_run_folder_holds_a_file_of_each_kind(tmp_path, tiny_model_bytes):
    for name in ("model.onnx", "model.stream.onnx"):
        (tmp_path / name).write_bytes(tiny_model_bytes)
    assert [tmp_path / "model.onnx", tmp_path / "model.stream.onnx"] == [
        runtime.find_model(tmp_path), runtime.find_model(tmp_path, "model.stream.onnx")
    ]  # fmt: skip
    (tmp_path / "model.stream.onnx").unlink()
    with pytest.raises(ModelError, match=r"found a folder without model\.stream\.onnx"):
        runtime.find_model(tmp_path, "model.stream.onnx")
