"""The reference job on one rank: model, DDP or FSDP2, optimizer, and what each step shows of itself."""

import gc
import time
import zlib
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


class Sent(NamedTuple):
    """An all-reduce on this rank: its seconds, those of the backward pass beside it, elements that were wrong."""

    seconds: float
    backward_s: float
    wrong: int


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
        self._group: Any = None
        self._applied: dict[str, Any] = {}

    def alone(self, step: int) -> Times:
        """A step without any communication and without learning: the cost of computing."""
        times = self._timed(step)
        self.model.zero_grad(set_to_none=True)
        return times

    def learn(self) -> None:
        """An optimizer for the model as it is: steps of a model that is not wrapped then learn from own data alone."""
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=self._spec.learning_rate)

    def wrap(self, kwargs: Mapping[str, Any], hook: str | None = None) -> None:
        """Makes the model parallel, and the optimizer for what came of it. What is not told is the spec's: FSDP2's
        arguments, the hook."""
        hook = self._spec.ddp.hook if hook is None else hook
        self._applied = {"hook": hook, **kwargs}
        if self._spec.parallel == "ddp":
            self.model = DistributedDataParallel(self.model, process_group=self.group(), **kwargs)
            if hook:
                _register(self.model, hook, self.group())
        else:
            if self._ready:
                self._ready.remove()  # FSDP2 reduces gradients outside of autograd's accumulation
                self._ready = None
            options = Fsdp(**kwargs) if kwargs else self._spec.fsdp
            _shard(self.model, options, self.group(), self._device)
        self.learn()

    def fresh(self, kwargs: Mapping[str, Any] | None = None, hook: str = "") -> None:
        """The model as it was at first, and wrapped where there are arguments; the one before goes, with its hooks and
        buckets."""
        self._optimizer, self._ready, self.model = None, None, None
        gc.collect()  # the wrapper holds itself in circles
        self.model = models.build(self._spec).to(self._device)
        if kwargs is None:
            return
        same = {"init_sync": False} if self._spec.parallel == "ddp" else {}  # all ranks built it from one seed
        self.wrap({**same, **kwargs}, hook)

    def group(self) -> Any:
        """The group in which the job talks, made once by all ranks."""
        if self._group is None:
            self._group = dist.new_group(backend=self._spec.backend, group_desc="training")
        return self._group

    def step(self, step: int) -> Times:
        """One step of training."""
        assert self._optimizer is not None, "wrap or learn first"
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

    # -- what else a bucket plan wants to know

    def idle(self, nbytes: int) -> Sent:
        """An all-reduce of a bucket while nothing is computed."""
        buffer = self._filled(nbytes)
        dist.barrier(self.group())
        began = self._now()
        dist.all_reduce(buffer, group=self.group())
        return Sent(self._now() - began, 0.0, self._wrong(buffer))

    def beside(self, nbytes: int, step: int) -> Sent:
        """An all-reduce that begins with a backward pass; passes go on until it is done. Nothing is learnt.

        Without bytes: the backward pass alone, in the same surroundings. Hosts only: a GPU's work has no such end.
        """
        window = torch.from_numpy(self._batches(step))
        loss = self.model(window)
        buffer = self._filled(nbytes) if nbytes else None
        ended: list[float] = []
        dist.barrier(self.group())
        began = time.perf_counter()
        work = dist.all_reduce(buffer, group=self.group(), async_op=True) if buffer is not None else None
        if work is not None:
            work.get_future().add_done_callback(lambda _: ended.append(time.perf_counter()))
        loss.backward(retain_graph=True)
        backward = time.perf_counter() - began
        while work is not None and not work.is_completed():
            loss.backward(retain_graph=True)  # no forward pass: it would keep Python's lock from the callback
            time.sleep(1e-5)
        self.model.zero_grad(set_to_none=True)
        if work is None or buffer is None:
            return Sent(0.0, backward, 0)
        work.wait()
        while not ended:  # the callback is a moment behind
            time.sleep(1e-4)
        return Sent(ended[0] - began, backward, self._wrong(buffer))

    def _filled(self, nbytes: int) -> torch.Tensor:
        """Numbers whose sum over the ranks is exact."""
        return torch.full((max(1, nbytes // 4),), float(dist.get_rank() + 1), device=self._device)

    def _wrong(self, buffer: torch.Tensor) -> int:
        """Elements that are not the sum of what the ranks filled in."""
        return int((buffer != self._size * (self._size + 1) / 2).sum())

    def digest(self) -> int:
        """Of the parameters that this rank holds: equal on all ranks where each of them holds all."""
        found = 0
        for parameter in self.model.parameters():
            found = zlib.crc32(parameter.detach().cpu().numpy().tobytes(), found)
        return found

    def sharded(self) -> dict[str, Any]:
        """What FSDP2 made of the blocks, as its own states tell it: `modules`, the groups with their names joined by +,
        how many are fetched ahead, and whether they are freed after the forward pass (None: some are)."""
        from torch.distributed.fsdp import FSDPModule

        units: dict[int, tuple[Any, list[str]]] = {}
        for k, part in enumerate(self.model.blocks):
            if isinstance(part, FSDPModule):
                state: Any = part._get_fsdp_state()
                units.setdefault(id(state), (state, []))[1].append(f"blocks.{k}")
        states = [state for state, _ in units.values()]
        kept = [group.post_forward_mesh_info is None for state in states for group in state._fsdp_param_groups]
        return {
            "modules": ["+".join(names) for _, names in units.values()],
            "prefetch": max((len(state._states_to_forward_prefetch) for state in states), default=0),
            "reshard_after_forward": not any(kept) if len(set(kept)) == 1 else None,
        }

    def sharding(self, options: Fsdp) -> tuple[bool, str]:
        """(whether FSDP2 made what `options` ask for, what it made)."""
        made, blocks = self.sharded(), [f"blocks.{k}" for k in range(len(self.model.blocks))]
        asked = ["+".join(blocks[k : k + options.blocks]) for k in range(0, len(blocks), options.blocks)]
        reshard, ahead = made["reshard_after_forward"], made["prefetch"]
        kept = {True: "0", False: "all"}.get(reshard, "some")
        seen = f"{len(made['modules'])} groups of blocks, {kept} of them not resharded, {ahead} fetched ahead"
        right = made["modules"] == asked and reshard is options.reshard_after_forward
        return right and ahead == min(options.prefetch, len(asked) - 1), seen

    def buckets(self, kwargs: Mapping[str, Any], steps: int) -> Buckets:
        """The proof that the settings took effect, from DDP's logging data."""
        if self._spec.parallel != "ddp":
            right, seen = self.sharding(Fsdp(**kwargs) if kwargs else self._spec.fsdp)
            return Buckets((), right, "" if right else f"FSDP2 has {seen}", self.sharded())
        told: dict[str, Any] = self.model._get_ddp_logging_data()
        if steps < 2 or not told.get("has_rebuilt_buckets"):
            return Buckets((), None, "DDP makes its final buckets in the second step", told)
        used = _numbers(told["rebuilt_bucket_sizes"])
        wrong = [name for name in sorted(_WORDS & set(kwargs)) if bool(getattr(self.model, name)) != kwargs[name]]
        hook = self._applied.get("hook")
        if hook and hook not in str(told.get("comm_hook", "")).lower():
            wrong.append(f"hook {hook}")
        if wrong:
            return Buckets(used, False, f"{', '.join(wrong)} is not as asked for", told)
        made = _numbers(told["rebuilt_per_bucket_param_indices"])
        if sorted(made) != list(range(len(self.nbytes))):
            return Buckets(used, None, "DDP does not tell which gradients are in its buckets", told)
        asked = expected_buckets([self.nbytes[index] for index in made], caps(kwargs))
        why = "" if asked == used else f"asked for buckets of {list(asked)} bytes, DDP uses {list(used)}"
        return Buckets(used, asked == used, why, told)


def _register(model: DistributedDataParallel, hook: str, group: Any) -> None:
    """A communication hook: it changes the numbers that are summed."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if hook in ("bf16", "fp16"):
        model.register_comm_hook(group, getattr(default_hooks, f"{hook}_compress_hook"))
    else:
        # Two steps as usual, because DDP makes its buckets anew in the second; then rank 1, as torch's default.
        state = powerSGD_hook.PowerSGDState(group, matrix_approximation_rank=1, start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


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
