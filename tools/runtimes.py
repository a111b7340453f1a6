"""The runtimes other than torch and onnxruntime that peers.py measures, and what all loaders share.

A ``load_`` function takes a checkpoint and the number of threads, and gives a call: uint8 pixels (B, rows, cols) to
float32 logits (B, classes), both NumPy. The line that holds a runtime to its threads stands in its ``load_``.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from edgelstm.contract import OUTPUT_NAME, PIXELS_NAME, Logits, Pixels, Precision
from edgelstm.exporting.graph import build_graph, contract_of
from edgelstm.onnx_file import PRODUCER, encode
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import PIXEL_SCALE, RowLstm

Call = Callable[[Pixels], Logits]
TorchModel = Callable[[torch.Tensor], torch.Tensor]


def our_onnx(checkpoint: Checkpoint, precision: Precision = "fp32") -> bytes:
    return encode(build_graph(checkpoint, contract_of(checkpoint, precision)))


def in_inference_mode(model: TorchModel) -> Call:
    def call(pixels: Pixels) -> Logits:
        with torch.inference_mode():
            return model(torch.from_numpy(pixels)).numpy()

    return call


def for_each_batch_size(build: Callable[[Pixels], Call]) -> Call:
    """Built anew for each batch size, at its first call: such a format fixes the shape, or is faster if it may."""
    built: dict[int, Call] = {}

    def call(pixels: Pixels) -> Logits:
        if len(pixels) not in built:
            built[len(pixels)] = build(pixels)
        return built[len(pixels)](pixels)

    return call


def example(checkpoint: Checkpoint, n: int) -> torch.Tensor:
    return torch.zeros(n, checkpoint.config.rows, checkpoint.config.cols, dtype=torch.uint8)


def one_thread_only(threads: int) -> None:
    if threads != 1:
        raise ValueError(f"found threads {threads}, expected 1: it is not run with more here")


@contextlib.contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    """A file in a folder of its own that goes away afterwards: most converters want paths."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def run_tool(command: list[str]) -> None:
    """Run a converter or compiler; RuntimeError with the end of what it says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"its converter or compiler ended with {done.returncode}: {done.stderr.strip()[-150:]}")


def load_openvino(checkpoint: Checkpoint, threads: int) -> Call:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # else it reports that it is used
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    core = openvino.Core()
    request = core.compile_model(core.read_model(our_onnx(checkpoint)), "CPU", settings).create_infer_request()
    return lambda pixels: request.infer({0: pixels}, share_inputs=True)[0]


def load_tract(checkpoint: Checkpoint, threads: int) -> Call:
    one_thread_only(threads)  # its Python package starts no others
    import tract

    def build(pixels: Pixels) -> Call:
        with _file(our_onnx(checkpoint), "model.onnx") as path:
            model = tract.onnx().load(path)
        # its LSTM needs a known batch size: with "batch" left open, tract 0.23 aborts the process
        model.set_input_fact(0, ",".join(map(str, pixels.shape)) + ",u8")
        run = model.into_model().into_runnable().run
        return lambda pixels: run([pixels])[0].to_numpy()

    return for_each_batch_size(build)


def load_mnn(checkpoint: Checkpoint, threads: int) -> Call:
    import MNN.expr
    import MNN.nn

    # The package's mnnconvert script would pip-install a logging client into whatever Python is on the path and
    # report the conversion to its makers; the extension module below it only converts. Without the option for
    # the LSTM, MNN 3.6.1's converter crashes on this graph.
    code = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
    with _file(our_onnx(checkpoint), "model.onnx") as path:
        target = path.with_suffix(".mnn")
        command = ["--modelFile", str(path), "--MNNModel", str(target), "--bizCode", PRODUCER, "--useOriginRNNImpl"]
        run_tool([sys.executable, "-c", code, "-f", "ONNX", *command])
        settings = {"numThread": threads, "backend": "CPU", "precision": "high"}
        manager = MNN.nn.create_runtime_manager((settings,))
        net = MNN.nn.load_module_from_file(str(target), [PIXELS_NAME], [OUTPUT_NAME], runtime_manager=manager)

    def call(pixels: Pixels) -> Logits:
        value = MNN.expr.const(pixels, pixels.shape, MNN.expr.NCHW, MNN.expr.uint8)
        return net.forward([value])[0].read()

    return call


def load_ncnn(checkpoint: Checkpoint, threads: int) -> Call:
    import ncnn
    import pnnx

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage", "vulkan_compute"):
        setattr(net.opt, f"use_{option}", False)
    with _file(b"", "model.pt") as path, contextlib.chdir(path.parent):  # pnnx writes beside itself, too
        model = _with_weights(_ForNcnn, checkpoint)
        pnnx.export(model, path.name, inputs=(example(checkpoint, 1).float(),), fp16=False)
        net.load_param("model.ncnn.param")
        net.load_model("model.ncnn.bin")

    def one(picture: Pixels) -> Logits:
        floats = picture.astype(np.float32)  # kept in a variable: ncnn.Mat borrows its memory until it is cloned,
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(floats).clone())  # and its kernels crash on memory aligned for NumPy
        _, logits = extractor.extract("out0")
        return np.array(logits).reshape(-1)

    # ncnn knows no batches: its users write this loop
    return lambda pixels: np.stack([one(picture) for picture in pixels])


def load_litert(checkpoint: Checkpoint, threads: int) -> Call:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    def build(pixels: Pixels) -> Call:
        with _file(b"", "model.tflite") as path:
            litert_torch.convert(checkpoint.model(), (torch.from_numpy(pixels),)).export(str(path))
            run = Interpreter(model_content=path.read_bytes(), num_threads=threads)
        run.allocate_tensors()
        source, target = run.get_input_details()[0]["index"], run.get_output_details()[0]["index"]

        def call(pixels: Pixels) -> Logits:
            run.set_tensor(source, pixels)
            run.invoke()
            return run.get_tensor(target)

        return call

    return for_each_batch_size(build)


def load_executorch(checkpoint: Checkpoint, threads: int) -> Call:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    kept: list[object] = []

    def build(pixels: Pixels) -> Call:
        program = torch.export.export(checkpoint.model(), (torch.from_numpy(pixels),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        content = bytes(lowered.buffer)
        loaded = Runtime.get().load_program(content)
        method = loaded.load_method("forward")
        kept.append((content, loaded))  # the method borrows from both
        return lambda pixels: method.execute([torch.from_numpy(pixels)])[0].numpy()

    return for_each_batch_size(build)


def load_iree(checkpoint: Checkpoint, threads: int) -> Call:
    one_thread_only(threads)  # the local-sync driver works in the caller's thread
    import iree.compiler
    import iree.runtime

    with _file(our_onnx(checkpoint), "model.onnx") as path:
        mlir = str(path.with_suffix(".mlir"))
        run_tool([sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path), "-o", mlir])
        options = ["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"]
        program = iree.compiler.compile_file(mlir, target_backends=["llvm-cpu"], extra_args=options)
    module = iree.runtime.load_vm_flatbuffer(program, driver="local-sync")
    run = module[PRODUCER]  # the name of the ONNX graph
    return lambda pixels: run(pixels).to_host()


def load_tvm(checkpoint: Checkpoint, threads: int) -> Call:
    os.environ["TVM_NUM_THREADS"] = str(threads)  # read when its thread pool starts
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    cpu = tvm.get_global_func("target.llvm_get_system_cpu")()
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu})
    model = _with_weights(_ForTvm, checkpoint)

    def build(pixels: Pixels) -> Call:  # from torch, because its ONNX importer knows no LSTM
        with torch.no_grad():
            program = from_exported_program(torch.export.export(model, (torch.from_numpy(pixels),)))
            library = relax.build(relax.get_pipeline("zero")(program), target=target)
        run = relax.VirtualMachine(library, tvm.cpu())["main"]
        return lambda pixels: run(tvm.runtime.tensor(pixels))[0].numpy()

    return for_each_batch_size(build)


def load_opencv(checkpoint: Checkpoint, threads: int) -> Call:
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(our_onnx(checkpoint), np.uint8))

    def call(pixels: Pixels) -> Logits:
        net.setInput(pixels)
        return net.forward()

    return call


class _ForTvm(RowLstm):
    """The last layer's state is counted from the front: TVM 0.26 reads past the end for [-1]."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        _, (last, _) = self.lstm(self._sequence(pixels))
        logits: torch.Tensor = self.head(last[self.config.n_layers - 1])
        return logits


class _ForNcnn(RowLstm):
    """The batch comes first and the last row is cut out: pnnx mistakes time-major LSTMs and Y_h."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        config = self.config
        self.lstm.batch_first = True
        steps = pixels if config.rows_per_step == 1 else pixels.reshape(1, config.n_steps, config.step_size)
        every, _ = self.lstm(steps * PIXEL_SCALE)
        logits: torch.Tensor = self.head(every[:, config.n_steps - 1 : config.n_steps, :])
        return logits


def _with_weights(kind: type[RowLstm], checkpoint: Checkpoint) -> RowLstm:
    model = kind(checkpoint.config)
    model.load_state_dict(checkpoint.weights)
    return model.eval()
