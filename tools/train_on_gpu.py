"""Train all that tools/build_models.py ships on one NVIDIA GPU, every run a process: python tools/train_on_gpu.py

First the teachers at once, then all students at once. A step is captured as one CUDA graph, and an epoch's pictures are
changed together, because launching kernels one by one takes twenty times as long as they run. Each step computes what
`edgelstm train` computes, but the random numbers fall to other pictures, so the weights are others than those of a CPU.
Where the driver has it, NVIDIA's MPS (`nvidia-cuda-mps-control -d`) lets the processes share the GPU at the same time.
The finished runs lie in runs/models, where tools/build_models.py takes them as they are, exports and verifies them.
"""

import argparse
import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from build_models import ROOT, RUNS, TEACHERS

from edgelstm.config import FAMILY, ModelConfig, recipe_for
from edgelstm.contract import Score
from edgelstm.data.evaluation import opened
from edgelstm.training import distill, fit, run
from edgelstm.training.augment import augmented
from edgelstm.training.fit import SEED_STRIDE, EpochResult, Split, learning_rate_at, n_steps, steps_per_epoch
from edgelstm.training.state import RunPlan, TrainState, averaged_model

PART = 5000
"""Pictures that are changed at a time."""
SEEDS = (0, 1, 2)


class GraphSteps:
    """The optimizer steps of one epoch, each the same CUDA graph; on a CPU, the same operations one by one."""

    def __init__(self, state: TrainState, train: fit.TrainConfig, fitting: Split, n_each: int, taught: bool) -> None:
        self.state, self.train, self.labels = state, train, fitting.labels
        self.device = state.model.head.weight.device
        n, n_classes = len(fitting), state.model.config.n_classes

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.sequences = fitting.sequences.clone()
        self.targets = zeros(n, n_classes) if taught else None
        self.order = zeros(n_each, train.batch_size, dtype=torch.int64)
        self.rates, self.weights, self.rate = zeros(n_each), zeros(n_each), zeros()
        """Of each step: the learning rate, and the weight of the newest weights in their moving average."""
        self.at, self.loss, self.n_right = zeros(1, dtype=torch.int64), zeros(), zeros(dtype=torch.int64)
        self.live = state.model.state_dict()
        for group in state.optimizer.param_groups:
            group["lr"], group["capturable"] = self.rate, self.device.type == "cuda"
        state.tensors()  # AdamW's moments are there before the first step
        self.once = self._captured() if self.device.type == "cuda" else self._step

    def _step(self) -> None:
        state, train = self.state, self.train
        batch = self.order.index_select(0, self.at)[0]
        shown, labels = self.sequences.index_select(0, batch), self.labels.index_select(0, batch)
        taught = None if self.targets is None else self.targets.index_select(0, batch)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.bf16, cache_enabled=False):
            steps = state.model.logits_by_step(shown) if train.step_loss else state.model(shown)[None]
        steps = steps.float()
        loss = fit._loss(steps[-1], labels, taught, train)
        if train.step_loss:
            loss = torch.lerp(loss, fit._mean_step_loss(steps, None, labels, taught, train), train.step_loss)
        loss.backward()
        if train.clip_norm:
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), train.clip_norm)
        self.rate.copy_(self.rates.index_select(0, self.at)[0])
        state.optimizer.step()
        with torch.no_grad():
            weight = self.weights.index_select(0, self.at)[0]
            for name, average in state.average.items():
                average.lerp_(self.live[name], weight)
            self.loss += loss.detach()
            self.n_right += (steps[-1].argmax(1) == labels).sum()
            self.at += 1

    def _captured(self):
        """The step as a graph; what trying it out changed is put back."""
        before = {name: tensor.detach().clone() for name, tensor in self.state.tensors().items()}
        self.state.model.train()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their ways and take their memory
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.state.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()
        with torch.no_grad():
            for name, tensor in self.state.tensors().items():
                tensor.copy_(before[name])
        return graph.replay


def graph_fit(
    state: TrainState, train: fit.TrainConfig, fitting: Split, validation: Split,
    teacher: distill.TeacherLogits | None = None, group: object = None,
) -> Iterator[EpochResult]:  # fmt: skip
    """As `edgelstm.training.fit.fit`, for pictures, one pass an epoch; the copies of a teacher stay in memory."""
    total, each = n_steps(train, len(fitting)), steps_per_epoch(train, len(fitting))
    steps = GraphSteps(state, train, fitting, each, teacher is not None)
    copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    while (first := state.epoch * each) < total:
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(train.seed * SEED_STRIDE + state.epoch + 1)
        order = torch.randperm(len(fitting), generator=generator)
        if teacher:
            number = state.epoch % train.teacher_copies
            if number not in copies:
                copies[number] = teacher.copy_for(state.epoch)
            steps.sequences.copy_(copies[number][0])
            steps.targets.copy_(copies[number][1])
        elif train.augment:
            parts = zip(fitting.sequences.split(PART), fitting.labels.split(PART), strict=True)
            changed = [augmented(part, state.model, train.augment, generator, labels) for part, labels in parts]
            steps.sequences.copy_(torch.cat(changed))
        steps.order.copy_(order[: each * train.batch_size].view(each, -1))
        steps.rates.copy_(torch.tensor([learning_rate_at(first + i, train, total) for i in range(each)]))
        decays = [min(train.ema_decay, (first + i + 1) / (first + i + 11)) for i in range(each)]
        steps.weights.copy_(1 - torch.tensor(decays))
        for counter in (steps.at, steps.loss, steps.n_right):
            counter.zero_()
        state.model.train()
        n = min(each, total - first)
        for _ in range(n):
            steps.once()
        loss = float(steps.loss) / n
        if not math.isfinite(loss):
            sys.exit(f"a loss of {loss} in epoch {state.epoch + 1}: lower the learning rate")
        state.epoch += 1
        logits, seen = fit.logits_of(averaged_model(state), validation), n * train.batch_size
        yield EpochResult(
            first + n, state.epoch, loss, Score(int(steps.n_right), seen), fit.score_of(logits, validation),
            seen / (time.perf_counter() - began), logits,
        )  # fmt: skip


def train_one(folder: Path, seed: int, threads: int) -> None:
    """One run, named by its folder: teacher-NAME or MODEL-SEED."""
    name = folder.name.split("-")[0]
    model = name if name in FAMILY else "base"
    config, settings, teachers = FAMILY[model], recipe_for(model, "early" if name == "early" else "best"), []
    if name == "teacher":
        config, settings = teacher_settings(folder.name.split("-")[1])
    else:
        teachers = [RUNS / f"teacher-{other}" for other in TEACHERS]
    settings = dataclasses.replace(settings, bf16=True, threads=threads, seed=seed)
    run.fit, distill.CHUNK = graph_fit, PART
    plan = RunPlan(model, config, settings)
    for event in run.begin_run(plan, folder, lambda wanted: opened("mnist", wanted), "cuda", teachers=teachers):
        if isinstance(event, EpochResult) and event.epoch % 10 == 0:
            print(f"{folder.name}: epoch {event.epoch}, validation {event.validation}", flush=True)


def teacher_settings(name: str) -> tuple[ModelConfig, fit.TrainConfig]:
    """Shape and recipe of a teacher, from the options that build_models.py gives to `edgelstm train`."""
    options = dict(zip(TEACHERS[name][::2], map(int, TEACHERS[name][1::2]), strict=True))
    epochs = options.pop("--epochs")
    fields = {"--hidden-size": "hidden_size", "--rows-per-step": "rows_per_step", "--layers": "n_layers"}
    config = dataclasses.replace(FAMILY["base"], **{fields[option]: value for option, value in options.items()})
    return config, dataclasses.replace(recipe_for("base", "best"), epochs=epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        train_one(args.run, args.seed, 1)
        return
    lead = [(f"teacher-{name}", 0) for name in TEACHERS]
    students = [(f"{name}-{seed}", seed) for name in FAMILY for seed in SEEDS] + [("early-0", 0)]
    for runs in (lead, students):
        commands = [[sys.executable, __file__, "--run", str(RUNS / name), "--seed", str(seed)] for name, seed in runs]
        processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        codes = [process.wait() for process in processes]  # of all, also after one has failed
        if any(codes):
            sys.exit("a run has failed")


if __name__ == "__main__":
    main()
