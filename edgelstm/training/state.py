"""All that changes while a run trains, and its file: what a killed run goes on from, bit for bit."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgelstm.config import ModelConfig, TrainConfig, is_text, model_config_from, train_config_from
from edgelstm.training.checkpoint import Shapes, Tensors, check_run, load_tensors, save_tensors, weight_shapes
from edgelstm.training.model import RowLstm

ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class RunPlan:
    """What a run trains; fixed when it begins."""

    name: str
    config: ModelConfig
    train: TrainConfig
    data_sha256: str = ""
    """Of the data, known once it is read; in files from before it was kept, empty."""


@dataclass
class TrainState:
    """All that changes while training; what a checkpoint must hold to go on bit for bit."""

    model: RowLstm
    average: Tensors
    """The moving average of the weights: what is validated and exported."""
    optimizer: torch.optim.AdamW
    epoch: int = 0
    """Epochs done."""

    def tensors(self) -> Tensors:
        """Every tensor that changes while training, by name; the tensors themselves, not copies."""
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        tensors |= {f"average.{name}": weight for name, weight in self.average.items()}
        for name, weight in self.model.named_parameters():
            moments = self.optimizer.state[weight]
            if not moments:  # AdamW makes its moments at its first step; a loaded run needs them before
                moments["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            tensors |= {f"adamw.{key}.{name}": value for key, value in moments.items()}
        return tensors

    @property
    def sha256(self) -> str:
        """Of the bytes of all tensors."""
        digest = hashlib.sha256()
        for tensor in self.tensors().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def new_state(model: RowLstm, train: TrainConfig) -> TrainState:
    """A run that has not begun, from freshly initialised weights."""
    optimizer = torch.optim.AdamW(
        model.parameters(), train.learning_rate, betas=ADAM_BETAS, weight_decay=train.weight_decay, fused=True
    )
    average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    return TrainState(model, average, optimizer)


def averaged_model(state: TrainState) -> RowLstm:
    """A copy of the model with the averaged weights, in evaluation mode."""
    model = RowLstm(state.model.config).to(state.model.head.weight.device)
    model.load_state_dict(state.average)
    return model.eval()


def save_state(path: Path, plan: RunPlan, state: TrainState) -> None:
    """Write the file, whole or not at all. Raises OutputError if it cannot be written."""
    save_tensors(path, state.tensors(), dataclasses.asdict(plan) | {"epoch": state.epoch})


def load_state(path: Path, device: torch.device) -> tuple[RunPlan, TrainState]:
    """Read what ``save_state`` wrote. Raises CheckpointError if the file is missing or anything in it is wrong."""
    (plan, epoch), tensors = load_tensors(path, _plan_from)
    return plan, state_from(plan, epoch, tensors, device)


def state_from(plan: RunPlan, epoch: int, tensors: Tensors, device: torch.device) -> TrainState:
    """A state of the values that ``TrainState.tensors`` gave."""
    state = new_state(RowLstm(plan.config).to(device), plan.train)
    state.epoch = epoch
    with torch.no_grad():
        for name, tensor in state.tensors().items():
            tensor.copy_(tensors[name])
    return state


def _plan_from(values: dict[str, Any]) -> tuple[tuple[RunPlan, int], Shapes]:
    """The plan, the epochs done, and the shapes of ``TrainState.tensors``."""
    config, train = model_config_from(values["config"]), train_config_from(values["train"])
    plan = RunPlan(values["name"], config, train, values.get("data_sha256", ""))
    if not is_text(plan.data_sha256):
        raise ValueError("data_sha256: found something else than a text")
    check_run(plan.name, values["epoch"], plan.train.epochs)
    weights = weight_shapes(plan.config)
    trained = {name: shape for name, shape in weights.items() if name not in ("mean", "scale")}
    shapes: dict[str, tuple[int, ...]] = {f"adamw.step.{name}": () for name in trained}
    for part, some in (
        ("model", weights), ("average", weights), ("adamw.exp_avg", trained), ("adamw.exp_avg_sq", trained)
    ):  # fmt: skip
        shapes |= {f"{part}.{name}": shape for name, shape in some.items()}
    return (plan, values["epoch"]), shapes
