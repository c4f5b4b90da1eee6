"""The reference job on one rank: model, DDP or FSDP2, optimizer, and what each step shows of itself."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from commbench.spec.train import Fsdp, TrainSpec
from commbench.training import models
from commbench.training.record import expected_buckets
from commbench.training.text import Batches, Text

_MIB = 2**20
_WORDS = {"gradient_as_bucket_view", "static_graph"}


class Times(NamedTuple):
    """Seconds of one step; ready: of each parameter's gradient after the beginning of the backward pass."""

    seconds: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    exposed_s: float | None
    ready_s: tuple[float, ...] | None
    loss: float


class Buckets(NamedTuple):
    """What DDP made of its settings: bytes of each bucket, whether that is what was asked for, else why not."""

    nbytes: tuple[int, ...]
    in_effect: bool | None
    why: str
    told: dict[str, Any]


class _Ready:
    """When each gradient was ready, by hooks. On a GPU a hook tells when work was enqueued, so nothing is recorded."""

    def __init__(self, model: nn.Module) -> None:
        parameters: list[Any] = list(model.parameters())
        self._at = [0.0] * len(parameters)
        self._hooks = [p.register_post_accumulate_grad_hook(self._hook(k)) for k, p in enumerate(parameters)]

    def _hook(self, index: int) -> Any:
        def ready(_: torch.Tensor) -> None:
            self._at[index] = time.perf_counter()

        return ready

    def after(self, began: float) -> tuple[float, ...] | None:
        """Seconds after `began`; None where a gradient did not come."""
        found = tuple(at - began for at in self._at)
        return found if all(at >= 0 for at in found) else None

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Job:
    """One rank. The default process group must be there; the job talks in a group of its own.

    The order is: `alone` (before anything is wrapped), `wrap`, then `step` 0, 1, 2, ... on all ranks.
    """

    def __init__(self, spec: TrainSpec, text: Text, rank: int, size: int, device: torch.device) -> None:
        torch.set_num_threads(spec.threads)
        self._spec, self._device, self._size = spec, device, size
        self._host = device.type == "cpu"
        self._batches = Batches(text, spec.context, spec.batch, rank, size, spec.seed)
        self.model: Any = models.build(spec).to(device)
        self.tokens = models.tokens(spec)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.nbytes = [p.numel() * p.element_size() for p in self.model.parameters()]
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._ready = _Ready(self.model) if self._host else None
        self._optimizer: torch.optim.Optimizer | None = None

    def alone(self, step: int) -> Times:
        """A step without any communication and without learning: the cost of computing."""
        times = self._timed(step)
        self.model.zero_grad(set_to_none=True)
        return times

    def wrap(self, kwargs: Mapping[str, Any]) -> None:
        """Makes the model parallel, and the optimizer for what came of it."""
        group = dist.new_group(backend=self._spec.backend, group_desc="training")
        if self._spec.parallel == "ddp":
            self.model = DistributedDataParallel(self.model, process_group=group, **kwargs)
        else:
            if self._ready:
                self._ready.remove()  # FSDP2 reduces gradients outside of autograd's accumulation
                self._ready = None
            _shard(self.model, self._spec.fsdp, group, self._device)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=self._spec.learning_rate)

    def step(self, step: int) -> Times:
        """One step of training."""
        assert self._optimizer is not None, "wrap first"
        return self._timed(step)

    def _timed(self, step: int) -> Times:
        began = self._now()
        window = torch.from_numpy(self._batches(step)).to(self._device)
        loss = self.model(window)
        forward = self._now()
        loss.backward()
        backward = self._now()
        if self._optimizer:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        end = self._now()
        ready = self._ready.after(forward) if self._ready else None
        exposed = backward - forward - max(ready) if ready and self._optimizer else None
        return Times(
            end - began, forward - began, backward - forward, end - backward, exposed, ready, float(loss.detach())
        )

    def _now(self) -> float:
        if not self._host:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def buckets(self, kwargs: Mapping[str, Any], steps: int) -> Buckets:
        """The proof that the settings took effect, from DDP's logging data."""
        if self._spec.parallel != "ddp":
            return Buckets((), None, "FSDP2 tells nothing of its groups", {})
        told: dict[str, Any] = self.model._get_ddp_logging_data()
        if steps < 2 or not told.get("has_rebuilt_buckets"):
            return Buckets((), None, "DDP makes its final buckets in the second step", told)
        used = _numbers(told["rebuilt_bucket_sizes"])
        wrong = [name for name in sorted(_WORDS & set(kwargs)) if bool(getattr(self.model, name)) != kwargs[name]]
        if wrong:
            return Buckets(used, False, f"{', '.join(wrong)} is not as asked for", told)
        made = _numbers(told["rebuilt_per_bucket_param_indices"])
        if sorted(made) != list(range(len(self.nbytes))):
            return Buckets(used, None, "DDP does not tell which gradients are in its buckets", told)
        asked = expected_buckets([self.nbytes[index] for index in made], caps(kwargs))
        why = "" if asked == used else f"asked for buckets of {list(asked)} bytes, DDP uses {list(used)}"
        return Buckets(used, asked == used, why, told)


def caps(kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The caps in bytes that DDP makes of its arguments: by default a small first bucket."""
    if chosen := kwargs.get("bucket_cap_mb_list"):
        return tuple(int(cap * _MIB) for cap in chosen)
    if (cap := kwargs.get("bucket_cap_mb")) is not None:
        return (int(cap * _MIB),)
    return (int(getattr(dist, "_DEFAULT_FIRST_BUCKET_BYTES", _MIB)), 25 * _MIB)


def _numbers(text: object) -> tuple[int, ...]:
    return tuple(int(word) for word in str(text).replace(",", " ").split())


def _shard(model: Any, options: Fsdp, group: Any, device: torch.device) -> None:
    """FSDP2: groups of `options.blocks` blocks, and the rest as the root."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh.from_group(group, device.type)
    blocks: Sequence[nn.Module] = list(model.blocks)
    groups = [list(blocks[k : k + options.blocks]) for k in range(0, len(blocks), options.blocks)]
    for members in groups:
        fully_shard(members, mesh=mesh, reshard_after_forward=options.reshard_after_forward)
    fully_shard(model, mesh=mesh)
    if options.prefetch:
        firsts: list[Any] = [members[0] for members in groups]
        for k, first in enumerate(firsts):
            first.set_modules_to_forward_prefetch(firsts[k + 1 : k + 1 + options.prefetch])
            first.set_modules_to_backward_prefetch(firsts[max(0, k - options.prefetch) : k][::-1])
