"""Several processes train one model: which of them this is, and what they tell each other.

torchrun starts them and says by environment variables who is who. Without those nothing of torch.distributed begins.
"""

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from edgelstm.errors import TrainingError

TIMEOUT = timedelta(minutes=10)
"""A process that hears nothing from the others for so long gives up: more than a fetch of MNIST takes."""
_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """The processes of one training. Each holds all weights; all call the same methods in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    is_launched: bool = False
    """By torchrun, which starts all again, with the same arguments, when one of them is killed."""
    n_restarts: int = 0

    @property
    def is_writer(self) -> bool:
        """Whether this one writes the files and speaks."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """What each process gives, in the order of their ranks. Nobody goes on before all have given."""
        found = [value] * self.size
        if self.size > 1:
            with _together():
                dist.all_gather_object(found, value)
        return found

    def share_out(self, n: int, work: Callable[[int], Value]) -> list[Value]:
        """``work`` of 0 to ``n`` - 1, each done by one process, all known to all."""
        found = self.gather([work(i) for i in range(self.rank, n, self.size)])
        return [found[i % self.size][i // self.size] for i in range(n)]

    def sum_in_order(self, n: int, like: torch.Tensor, work: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """The sum of ``work`` of 0 to ``n`` - 1, vectors like that one: the same bits, however many processes do it.

        An all-reduce adds in an order that depends on the number of processes, and float32 sums on the order.
        """
        mine = like.new_zeros(-(-n // self.size), len(like))  # equally many for each process, so some do nothing
        for i in range(self.rank, n, self.size):
            mine[i // self.size] = work(i)
        found = [mine]
        if self.size > 1:
            found = [torch.empty_like(mine) for _ in range(self.size)]
            with _together():
                dist.all_gather(found, mine)
        total = found[0][0].clone()
        for i in range(1, n):
            total += found[i % self.size][i // self.size]
        return total

    def check_same(self, what: str, digest: str) -> None:
        """Raise TrainingError unless all processes have the same of what they must have alike."""
        found = self.gather(digest)
        if set(found) != {digest}:
            shown = ", ".join(f"{one[:12]} in process {rank}" for rank, one in enumerate(found))
            fix = "use the same files, versions and kind of processor everywhere"
            raise TrainingError(f"the processes of a training differ in their {what}", found=shown, fix=fix)


ALONE = Group()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun began, or this process alone.

    Of several processes that fail, the first raises its error; the others exit, for theirs follow from it.
    """
    group = ALONE
    if os.environ.keys() >= _VARIABLES:
        rank, size, local, restarts = (
            int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
        )
        group = Group(rank, size, local, True, restarts)
    if group.size == 1:
        yield group
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if group.local_rank >= torch.cuda.device_count():
            raise TrainingError(
                "each process on a machine needs a GPU of its own", found=f"{torch.cuda.device_count()} GPUs",
                fix="start fewer with --nproc-per-node, or use --device cpu",
            )  # fmt: skip
        torch.cuda.set_device(group.local_rank)  # what "cuda" means in this process
    with _together():
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        if group.is_writer:  # torchrun counts the restarts of one machine's processes only
            group = dataclasses.replace(group, n_restarts=max(restarts, store.add("attempts", 1) - 1))
        store = _fresh(store, rank, size)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield group
    except (Exception, KeyboardInterrupt) as error:
        is_first, stopped = False, isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(RuntimeError):  # the process that holds the store may be gone
            is_first = store.add("failed", 1) == 1
        if group.is_writer if stopped else is_first:  # Ctrl-C stops all, and the writer knows how to go on
            raise
        time.sleep(1)  # torchrun ends all as soon as one has ended: the first shall have said why
        raise SystemExit(130 if stopped else 1) from error
    finally:
        dist.destroy_process_group()


def _fresh(store: Store, rank: int, size: int) -> Store:
    """A part of torchrun's store that no earlier attempt wrote to.

    torchrun keeps its store when it starts processes again, with the addresses of the dead ones, and gloo would wait
    for those. So the first process answers each greeting, which is new in each attempt, with the name of a new part.
    """
    greeting = secrets.token_hex(8)
    if rank:
        store.set(f"greeting {rank}", greeting)
        store.wait([f"answer {greeting}"], TIMEOUT)
        name = store.get(f"answer {greeting}").decode()
        store.set(f"{name} {rank}", "")
        return PrefixStore(name, store)
    until = time.monotonic() + TIMEOUT.total_seconds()
    while not store.check([f"{greeting} {other}" for other in range(1, size)]):
        for other in range(1, size):
            if store.check([f"greeting {other}"]):
                store.set(f"answer {store.get(f'greeting {other}').decode()}", greeting)
        if time.monotonic() > until:
            raise RuntimeError("not all processes came")
        time.sleep(0.01)
    return PrefixStore(greeting, store)


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What fails when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        fix = "see what that one said; torchrun --max-restarts N starts all again, from the last epoch"
        found = str(error).splitlines()[0]
        raise TrainingError("another process of this training is lost", found=found, fix=fix) from error
