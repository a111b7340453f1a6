"""Tests of edgelstm.runtime.session: settings, where the LSTM really runs, buffers bound once and safe for threads."""

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import edgelstm
from edgelstm.contract import OUTPUT_NAME, PIXELS_NAME
from edgelstm.errors import MissingDependencyError, ModelError, ProviderError
from edgelstm.runtime import session as session_module
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import (
    MAX_BOUND_SHAPES,
    BoundSession,
    SessionSettings,
    cuda_problem,
    has_nvidia_driver,
    lstm_placement,
    onnxruntime_errors,
    open_session,
    short_text,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TIMEOUT_S = 60


def opened(content, provider="cpu", **settings):
    return BoundSession(content, provider, SessionSettings(**settings), "m.onnx")


def logits(session, pixels):
    return session.run({PIXELS_NAME: pixels}, {OUTPUT_NAME: (len(pixels), 10)})[OUTPUT_NAME]


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
    real = BoundSession._session_on
    monkeypatch.setattr(session_module, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(session_module, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(BoundSession, "_session_on", lambda self, provider, content: real(self, "cpu", content))


@pytest.fixture
def placed(monkeypatch, cuda_seems_there):
    """Say where a CUDA session has placed its LSTM nodes."""
    return lambda **nodes: monkeypatch.setattr(session_module, "lstm_placement", lambda session: nodes)


def dynamic_loader(**missing):
    """ctypes.CDLL on a machine where the libraries with these words in their name do not load."""

    def load(name):
        for word, text in missing.items():
            if word in str(name):
                raise OSError(text)
        return object()

    return SimpleNamespace(CDLL=load)


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


@pytest.mark.parametrize(("settings", "expected"), [({}, (1, 1, "0")), ({"threads": 2, "spinning": True}, (2, 1, "1"))])
def test_a_session_has_one_thread_that_does_not_spin_unless_it_is_told(tiny_model_bytes, asked, settings, expected):
    opened(tiny_model_bytes, **settings)
    [(options, providers)] = asked
    spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert (*expected, [CPU]) == (
        options.intra_op_num_threads, options.inter_op_num_threads, spinning, providers
    )  # fmt: skip


def test_cuda_is_asked_for_first_and_without_tf32(tiny_model_bytes, asked, monkeypatch):
    monkeypatch.setattr(session_module, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(session_module, "lstm_placement", lambda session: {"lstm_0": CUDA})
    opened(tiny_model_bytes, "cuda")
    assert asked[-1][1] == [(CUDA, {"use_tf32": "0"}), CPU]


def import_in_a_subprocess(tmp_path, **environment):
    """What a stand-in for onnxruntime sees of the telemetry variable while it is being imported."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'))\nset_default_logger_severity = int\n"
    )
    package = str(Path(edgelstm.__file__).parents[1])
    inherited = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    path = os.pathsep.join([str(tmp_path), package])
    done = subprocess.run(
        [sys.executable, "-c", "from edgelstm.runtime.session import import_onnxruntime; import_onnxruntime()"],
        env={**inherited, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(("environment", "seen"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_before_onnxruntime_is_imported_unless_the_user_has_set_it(tmp_path, environment, seen):
    assert seen == import_in_a_subprocess(tmp_path, **environment)


def test_without_onnxruntime_the_error_names_the_two_commands_to_choose_from(monkeypatch, tiny_model_bytes):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"edgelstm\[cpu\].* or .*edgelstm\[gpu\]"):
        opened(tiny_model_bytes)


def test_all_exception_classes_of_onnxruntime_are_known():
    state = onnxruntime.capi.onnxruntime_pybind11_state
    assert {state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NoSuchFile} <= set(
        onnxruntime_errors(onnxruntime)
    )


def test_what_onnxruntime_says_is_one_short_line_without_its_codes():
    assert short_text(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : it\n failed : badly")) == "it failed : badly"
    assert len(short_text(RuntimeError("x" * 1000))) == 300


# What does not load or run. These bytes have passed no check of ours: OrtRunner and Stream open the model first


def test_a_file_that_onnxruntime_cannot_load_is_a_model_error_in_one_line(tiny_model_bytes):
    with pytest.raises(ModelError, match=r"m\.onnx cannot be loaded as an ONNX model: found .*; export it again"):
        opened(tiny_model_bytes[:500])


@pytest.mark.parametrize("provider", ["cuda", "auto"])
@pytest.mark.usefixtures("cuda_seems_there")
def test_a_damaged_file_is_the_files_fault_not_cudas(tiny_model_bytes, provider):
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        opened(tiny_model_bytes[:500], provider)


@pytest.mark.parametrize("busy", [False, True], ids=["bound", "unbound"])
def test_what_cannot_be_run_is_a_model_error_on_both_ways(tiny_model_bytes, busy):
    session = opened(tiny_model_bytes)
    with session._lock if busy else contextlib.nullcontext(), pytest.raises(ModelError, match=r"m\.onnx cannot be run"):
        logits(session, np.zeros((1, 28, 27), np.uint8))
    assert logits(session, np.zeros((1, 28, 28), np.uint8)).shape == (1, 10), "and the lock is free again"


@pytest.mark.parametrize("where", ["here", "above", "absolute"])
def test_weights_in_another_file_are_not_followed(where, monkeypatch, tmp_path, tiny_model_bytes):
    """The second line of defence: `open_model` refuses such a file before."""
    import onnx

    (tmp_path / "here").mkdir()
    location = {"here": "W.bin", "above": "../W.bin", "absolute": str(tmp_path / "W.bin")}[where]
    model = onnx.load_model_from_string(tiny_model_bytes)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "lstm_0.W")
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "W.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match="cannot be loaded"):
        opened(model.SerializeToString())
    constant = helper.make_node("Constant", [], ["lstm_0.W"], value=tensor)
    model.graph.node.insert(0, constant)
    model.graph.initializer.remove(tensor)
    with pytest.raises(ModelError, match="cannot be loaded"):
        opened(model.SerializeToString())


# Where the LSTM runs


@pytest.mark.parametrize("provider", ["gpu", "CPU", "", None])
def test_an_unknown_provider_is_refused_by_name(tiny_model_bytes, provider):
    with pytest.raises(ValueError, match=f"provider: found {provider!r}, expected one of auto, cpu, cuda"):
        opened(tiny_model_bytes, provider)


def test_a_provider_that_was_named_needs_no_note(tiny_model_bytes):
    session = opened(tiny_model_bytes)
    assert (session.provider_used, session.provider_note) == ("cpu", None)


@pytest.mark.parametrize("problem", [None, "a build without CUDA; install another"])
def test_on_a_machine_without_an_nvidia_driver_the_cpu_is_no_news(monkeypatch, tiny_model_bytes, problem):
    monkeypatch.setattr(session_module, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(session_module, "cuda_problem", lambda ort: problem or "no NVIDIA driver; install it")
    session = opened(tiny_model_bytes, "auto")
    assert (session.provider_used, session.provider_note) == ("cpu", None)


def test_with_a_driver_auto_gives_the_reason_but_not_the_repair_in_its_note(monkeypatch, tiny_model_bytes):
    monkeypatch.setattr(session_module, "cuda_problem", lambda ort: "a build without CUDA; run pip")
    monkeypatch.setattr(session_module, "has_nvidia_driver", lambda: True)
    session = opened(tiny_model_bytes, "auto")
    assert session.provider_note == "provider cpu: CUDA cannot be used (a build without CUDA)"


@pytest.mark.usefixtures("cuda_seems_there")
def test_cuda_fails_and_auto_falls_back_when_the_session_has_put_the_lstm_on_the_cpu(tiny_model_bytes):
    with pytest.raises(ProviderError, match="lstm_0 on CPUExecutionProvider"):
        opened(tiny_model_bytes, "cuda")
    session = opened(tiny_model_bytes, "auto")
    assert session.provider_used == "cpu"
    assert "placed lstm_0 on CPUExecutionProvider" in session.provider_note


@pytest.mark.parametrize(
    ("provider", "note"), [("cuda", None), ("auto", "provider cuda: the LSTM node is placed on CUDA")]
)
def test_cuda_is_believed_when_every_lstm_is_placed_there(tiny_model_bytes, placed, provider, note):
    placed(lstm_0=CUDA, lstm_1=CUDA)
    session = opened(tiny_model_bytes, provider)
    assert session.provider_used == "cuda"
    assert session.provider_note == note
    assert OrtRunner(tiny_model_bytes, provider=provider).name == "onnxruntime CUDA"


@pytest.mark.parametrize(
    ("nodes", "found"),
    [({"lstm_0": CUDA, "lstm_1": CPU}, "lstm_1 on CPUExecutionProvider"), ({}, "no LSTM node")],
    ids=["one of two on the CPU", "none"],
)
def test_cuda_is_not_believed_otherwise(tiny_model_bytes, placed, nodes, found):
    placed(**nodes)
    with pytest.raises(ProviderError, match=found):
        opened(tiny_model_bytes, "cuda")


@pytest.mark.parametrize(
    ("assigned", "expected"),
    [
        ([(CUDA, "Cast", "cast"), (CPU, "LSTM", "lstm_0"), (CUDA, "Gemm", "head")], {"lstm_0": CPU}),
        ([(CPU, "DynamicQuantizeLSTM", ""), (CUDA, "Gemm", "head")], {"DynamicQuantizeLSTM": CPU}),
    ],
)
def test_only_the_lstm_nodes_prove_anything(assigned, expected):
    assert expected == lstm_placement(fake_session(*assigned))


def test_a_real_session_tells_where_its_lstm_is(tiny_model_bytes):
    assert lstm_placement(open_session(tiny_model_bytes, SessionSettings())) == {"lstm_0": CPU}


# Why CUDA cannot be had, and what to do


def test_a_build_without_cuda_is_named_with_the_wheel_to_install():
    problem = cuda_problem(fake_ort(providers=[CPU]))
    assert "onnxruntime 1.99.0 is a build without CUDA" in problem
    assert 'pip install "edgelstm[gpu]"' in problem


def test_a_machine_without_a_driver_is_told_to_install_one(monkeypatch):
    monkeypatch.setattr(session_module, "ctypes", dynamic_loader(cuda="no such file"))
    assert not has_nvidia_driver()
    problem = cuda_problem(fake_ort())
    assert "no NVIDIA driver" in problem
    assert "install the driver" in problem


def test_with_a_driver_the_cuda_libraries_of_the_wheels_are_loaded_first(monkeypatch):
    monkeypatch.setattr(session_module, "ctypes", dynamic_loader())
    loaded = []
    assert has_nvidia_driver()
    assert cuda_problem(fake_ort(preload=lambda: loaded.append("yes"))) is None
    assert loaded == ["yes"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (
            {"onnxruntime_providers_cuda": "libcudnn.so.9: cannot open shared object file: No such file or directory"},
            r'libcudnn\.so\.9.*pip install "onnxruntime-gpu\[cuda,cudnn\]"',
        ),
        ({}, "run `edgelstm doctor`"),
    ],
    ids=["a library does not load", "all load"],
)
@pytest.mark.usefixtures("cuda_seems_there")
def test_a_library_that_does_not_load_is_named_with_what_to_install(monkeypatch, tiny_model_bytes, missing, expected):
    monkeypatch.setattr(session_module, "ctypes", dynamic_loader(**missing))
    with pytest.raises(ProviderError, match=expected):
        opened(tiny_model_bytes, "cuda")


def test_a_cuda_session_that_fails_prints_nothing_and_auto_takes_the_cpu(monkeypatch, tiny_model_bytes, capfd):
    kind = onnxruntime.InferenceSession
    real = kind._create_inference_session

    def create(self, providers, *rest):
        if providers and providers[0] != CPU:
            raise RuntimeError("CUDA failure 35: driver too old")
        real(self, providers, *rest)

    monkeypatch.setattr(kind, "_create_inference_session", create)
    monkeypatch.setattr(session_module, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(session_module, "has_nvidia_driver", lambda: True)
    with pytest.raises(ProviderError, match="driver too old"):
        opened(tiny_model_bytes, "cuda")
    assert "driver too old" in opened(tiny_model_bytes, "auto").provider_note
    assert capfd.readouterr().out == ""


# Bound buffers


def test_buffers_of_no_more_shapes_are_kept_than_allowed_and_the_first_made_goes(tiny_model_bytes, sample):
    session = opened(tiny_model_bytes)
    expected = logits(opened(tiny_model_bytes), sample.sequences[:40])
    for size in (*range(1, 40), 2, 1):
        found = logits(session, sample.sequences[:size])
        np.testing.assert_allclose(found, expected[:size], atol=1e-6)
        assert len(session._bound) <= MAX_BOUND_SHAPES
    last = [key[0][1][0] for key in session._bound]
    assert [*range(40 - MAX_BOUND_SHAPES + 2, 40), 2, 1] == last


def test_the_same_shape_is_bound_once(tiny_model_bytes, sample, monkeypatch):
    session = opened(tiny_model_bytes)
    logits(session, sample.sequences[:3])
    monkeypatch.setattr(session, "bind", lambda *arguments: pytest.fail("bound again"))
    logits(session, sample.sequences[3:6])


@pytest.mark.parametrize("busy", [False, True], ids=["bound", "unbound"])
def test_what_comes_back_is_the_callers_own_and_what_went_in_is_untouched(tiny_model_bytes, sample, busy):
    session, pixels = opened(tiny_model_bytes), sample.sequences[:2].copy()
    with session._lock if busy else contextlib.nullcontext():
        first = logits(session, pixels)
        kept = first.copy()
        logits(session, sample.sequences[2:4])
        np.testing.assert_array_equal(kept, first)
        first[...] = np.nan
        np.testing.assert_array_equal(kept, logits(session, pixels))
    np.testing.assert_array_equal(sample.sequences[:2], pixels)


def test_a_second_thread_goes_the_unbound_way_while_the_first_is_inside(tiny_model_bytes, sample, monkeypatch):
    session = opened(tiny_model_bytes)
    expected = [logits(session, sample.sequences[i : i + 1]) for i in range(2)]
    inside, go_on, entered, real = threading.Event(), threading.Event(), [], session._run_bound

    def slow(*arguments):
        entered.append(threading.get_ident())
        inside.set()
        if len(entered) == 1:
            assert go_on.wait(TIMEOUT_S)
        return real(*arguments)

    monkeypatch.setattr(session, "_run_bound", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(logits, session, sample.sequences[:1])
        assert inside.wait(TIMEOUT_S)
        try:
            second = logits(session, sample.sequences[1:2])
        finally:
            go_on.set()
        np.testing.assert_array_equal(expected[0], first.result(TIMEOUT_S))
    np.testing.assert_array_equal(expected[1], second)
    assert len(entered) == 1, "the second thread has not touched the first one's buffers"


def test_many_threads_on_one_session_get_their_own_answers(tiny_model_bytes, sample):
    session = opened(tiny_model_bytes)
    expected = [logits(session, sample.sequences[i : i + 1]) for i in range(16)]

    def ask(i):
        return all(np.array_equal(expected[i], logits(session, sample.sequences[i : i + 1])) for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(16)))


def test_bound_arrays_are_read_and_written_in_place(tiny_model_bytes, sample):
    session = opened(tiny_model_bytes)
    pixels, found = np.zeros((1, 28, 28), np.uint8), np.empty((1, 10), np.float32)
    call = session.bind({PIXELS_NAME: pixels}, {OUTPUT_NAME: found})
    for i in range(3):
        pixels[...] = sample.sequences[i]
        call()
        np.testing.assert_array_equal(logits(session, sample.sequences[i : i + 1]), found)


def test_the_nodes_are_the_graphs_own_and_all_on_the_cpu(tiny_model_bytes):
    nodes = opened(tiny_model_bytes).nodes()
    assert [operator for operator, _ in nodes].count("LSTM") == 1
    assert {CPU} == {provider for _, provider in nodes}
