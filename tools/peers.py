"""What users would pick instead of edgelstm, each built from the same checkpoint, for bench_peers.py.

A call takes uint8 pixels and gives float32 logits, both NumPy: what a peer needs around its run, a cast of the
pixels or a tensor of its own kind, is part of its call, because its users pay for it too. Loading raises ImportError
if the package is missing, and whatever the peer raises if it cannot take the model.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import in_c
import runtimes
import torch
from runtimes import Call, TorchModel, example, for_each_batch_size, in_inference_mode, our_onnx

from edgelstm.contract import OPSET, OUTPUT_NAME, PIXELS_NAME, Pixels, Precision
from edgelstm.exporting.torch_export import torch_exported_model
from edgelstm.native.runner import CProvider, CRunner
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import SessionSettings, import_onnxruntime, open_session
from edgelstm.training.checkpoint import Checkpoint

Load = Callable[[Checkpoint, int], Call]
"""(checkpoint, threads) -> call."""

OURS = "edgelstm"


@dataclass(frozen=True)
class Peer:
    """Something a user might pick: how it is loaded, and from what."""

    load: Load
    packages: tuple[str, ...]
    """Distributions that it runs in; the first that is installed gives its version."""
    probed: bool = True
    """Tried in a process of its own first: native code that aborts would take the whole table with it."""
    precision: Precision | None = "fp32"
    """What its logits are held to; None: it has none, and its row only shows what a call takes."""


def _edgelstm(precision: Precision = "fp32") -> Peer:
    def load(checkpoint: Checkpoint, threads: int) -> Call:
        settings = SessionSettings(threads=threads)
        return OrtRunner(our_onnx(checkpoint, precision), provider="cpu", settings=settings).logits

    return Peer(load, ("edgelstm",), probed=False, precision=precision)


def _in_our_c(provider: CProvider) -> Peer:
    """The C that `edgelstm compile` writes, from the fp32 model, called as `--provider` does."""
    precision: Precision = "int8" if provider == "c-int8" else "fp32"
    return Peer(
        lambda checkpoint, threads: CRunner(our_onnx(checkpoint), provider=provider).logits, (OURS,), probed=False,
        precision=precision,
    )  # fmt: skip


def load_torch_eager(checkpoint: Checkpoint, threads: int) -> Call:
    torch.set_num_threads(threads)  # the whole process: holds for each torch contestant
    model = checkpoint.model()
    return lambda pixels: model(torch.from_numpy(pixels)).detach().numpy()


def _in_torch(prepare: Callable[[Checkpoint], TorchModel]) -> Peer:
    """What ``prepare`` makes of the checkpoint, called in inference mode."""

    def load(checkpoint: Checkpoint, threads: int) -> Call:
        torch.set_num_threads(threads)
        return in_inference_mode(prepare(checkpoint))

    return Peer(load, ("torch",), probed=False)


def _torchscript(checkpoint: Checkpoint) -> TorchModel:
    with torch.no_grad():  # traced, because a dataclass inside the module cannot be scripted
        return torch.jit.freeze(torch.jit.trace(checkpoint.model(), example(checkpoint, 2)))


def _compiled(checkpoint: Checkpoint) -> TorchModel:
    return torch.compile(checkpoint.model(), dynamic=False)  # one kernel a batch size: its best


def load_aot_inductor(checkpoint: Checkpoint, threads: int) -> Call:
    torch.set_num_threads(threads)

    def build(pixels: Pixels) -> Call:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            program = torch.export.export(checkpoint.model(), (torch.from_numpy(pixels),))
            package = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
            return in_inference_mode(torch._inductor.aoti_load_package(package))

    return for_each_batch_size(build)


def _in_onnxruntime(export: Callable[[Checkpoint], bytes], *, defaults: bool = False) -> Peer:
    """The plain session.run that everybody writes, with edgelstm's session settings or onnxruntime's own."""

    def load(checkpoint: Checkpoint, threads: int) -> Call:
        if defaults:  # a thread for each core, spinning
            session = import_onnxruntime().InferenceSession(export(checkpoint), providers=["CPUExecutionProvider"])
        else:
            session = open_session(export(checkpoint), SessionSettings(threads=threads))
        return lambda pixels: session.run([OUTPUT_NAME], {PIXELS_NAME: pixels})[0]

    return Peer(load, ("onnxruntime", "onnxruntime-gpu"), probed=False)


def _dynamo_export(checkpoint: Checkpoint) -> bytes:
    return torch_exported_model(checkpoint).SerializeToString()


def _legacy_export(checkpoint: Checkpoint) -> bytes:
    target = io.BytesIO()
    torch.onnx.export(
        checkpoint.model(), (example(checkpoint, 2),), target, dynamo=False, opset_version=OPSET,
        input_names=[PIXELS_NAME], output_names=[OUTPUT_NAME], dynamic_axes={PIXELS_NAME: {0: "batch"}},
    )  # fmt: skip
    return target.getvalue()


PEERS: dict[str, Peer] = {
    OURS: _edgelstm(),
    f"{OURS}, int8": _edgelstm("int8"),
    f"{OURS} in C": _in_our_c("c"),
    f"{OURS} in C, int8": _in_our_c("c-int8"),
    "torch eager": Peer(load_torch_eager, ("torch",), probed=False),
    "torch inference mode": _in_torch(Checkpoint.model),
    "TorchScript": _in_torch(_torchscript),
    "torch.compile": _in_torch(_compiled),
    "AOTInductor": Peer(load_aot_inductor, ("torch",)),
    "onnxruntime, dynamo export": _in_onnxruntime(_dynamo_export),
    "onnxruntime, dynamo export, default settings": _in_onnxruntime(_dynamo_export, defaults=True),
    "onnxruntime, legacy export": _in_onnxruntime(_legacy_export),
    "onnxruntime, legacy export, default settings": _in_onnxruntime(_legacy_export, defaults=True),
    "onnxruntime in C, our export": Peer(in_c.onnxruntime_in_c(), ("onnxruntime", "onnxruntime-gpu")),
    "onnxruntime in C, our export, int8": Peer(
        in_c.onnxruntime_in_c("int8"), ("onnxruntime", "onnxruntime-gpu"), precision="int8"
    ),
    "emx-onnx-cgen": Peer(in_c.emx_onnx_cgen(), ("emx-onnx-cgen",)),
    "emx-onnx-cgen, int8": Peer(in_c.emx_onnx_cgen("int8"), ("emx-onnx-cgen",), precision="int8"),
    "(an empty function in C)": Peer(in_c.load_nothing, (), probed=False, precision=None),
    "OpenVINO": Peer(runtimes.load_openvino, ("openvino",)),
    "tract": Peer(runtimes.load_tract, ("tract",)),
    "MNN": Peer(runtimes.load_mnn, ("MNN",)),
    "ncnn": Peer(runtimes.load_ncnn, ("ncnn",)),
    "LiteRT": Peer(runtimes.load_litert, ("ai-edge-litert",)),
    "ExecuTorch": Peer(runtimes.load_executorch, ("executorch",)),
    "IREE": Peer(runtimes.load_iree, ("iree-base-runtime",)),
    "TVM": Peer(runtimes.load_tvm, ("apache-tvm",)),
    "OpenCV": Peer(runtimes.load_opencv, ("opencv-python-headless", "opencv-python")),
}
