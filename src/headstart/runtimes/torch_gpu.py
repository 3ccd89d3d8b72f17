"""Run the frozen part of a PyTorch network on a GPU: compiled, in bf16, as one CUDA graph, copies beside computing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Shaped

from headstart.errors import BadRuntime, DiskFull
from headstart.networks.network import Cut, Network
from headstart.places import cache_folder, make
from headstart.runtimes.runtime import Offer, Precision, Runner, Sample
from headstart.writing import write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "torch_gpu"
CHUNK = 64  # photos in a pass where nothing was measured
LARGEST = 1024
GAIN = 1.05  # a pass twice as large must be so much faster a photo to be worth its memory
SLOTS = 2  # batches on the device: one is computed while the next is copied
PASSES = 3  # timed for a size
FILE = "chunks.json"  # in the cache folder: features hang on the size of a pass, so it must not change from run to run


class Forward(Protocol):
    """A forward pass as a function of Python, which can be compiled."""

    __code__: CodeType

    def __call__(self, inputs: Tensor) -> Tensor:
        """What crosses the cut, float32."""


def offers(network: Network) -> tuple[Offer, ...]:
    """Compiled bf16 where the GPU computes in it, and compiled fp32; none for networks that are not on such a GPU."""
    if not fits(network):
        return ()
    chunk, engine = chunk_of(network), f"compiled-{network.engine}"
    return tuple(
        Offer(NAME, precision, engine, chunk) for precision in ("bf16", "fp32") if precision == "fp32" or has_bf16()
    )


def lacks(network: Network, precision: Precision) -> BadRuntime | None:
    """A GPU that computes in bf16."""
    if precision != "bf16" or not fits(network) or has_bf16():
        return None
    return BadRuntime("this GPU does not compute in bf16", fix="leave the precision out, or take fp32")


def seconds(network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
    """How long compiling takes: the first time, half a minute and more for a deep network."""
    return 45.0


def fits(network: Network) -> bool:
    """Whether it is a PyTorch network on an NVIDIA or AMD GPU."""
    return network.engine.startswith("torch-") and network.engine.endswith("-cuda")


def has_bf16() -> bool:
    """Whether the GPU has instructions for it: emulated, it is slower than fp32."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def open(network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = "") -> Runner:
    """The part from the input to the cut, compiled for batches of the offer's size.

    Raises:
        BadRuntime: it does not fit into the GPU's memory.
    """
    part = network.part(upto)
    return opened(part, (offer.chunk, *network.input_shape), offer.precision, device_of(part))


def device_of(part: nn.Module) -> torch.device:
    """Where its weights are; of several GPUs each process has its own."""
    return next(part.parameters()).device


def opened(part: nn.Module, shape: tuple[int, ...], precision: Precision, device: torch.device) -> Runner:
    """A module on a device, compiled for uint8 batches of this shape.

    Raises:
        BadRuntime: it does not fit into the device's memory.
    """
    import torch

    forward = in_precision(part, precision, device)
    try:
        return Passes(compiled(forward, shape, device), shape, device)
    except torch.OutOfMemoryError as problem:
        raise BadRuntime(
            f"{shape[0]} photos at a time do not fit into the GPU's memory",
            fix="end what else uses the GPU, or take --device cpu",
        ) from problem


def chunk_of(network: Network) -> int:
    """Photos in a pass: doubled until a photo takes no less time or memory runs out; measured once for a GPU.

    It is kept in the cache folder: features hang on it, so another run must find the same or it would find none.
    """
    import torch

    if network.shard[1] > 1:
        return CHUNK  # each process would measure for itself, and their features must be the same
    device = torch.cuda.get_device_name(device_of(network.part(network.cuts[-1])))
    parts = [device, network.engine, *network.input_shape, *(g.flops for g in network.groups)]
    key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    path = cache_folder() / FILE
    known = _known(path)
    if key not in known:
        known[key] = doubled(partial(rate, network), CHUNK, LARGEST)
        with contextlib.suppress(OSError, DiskFull):  # measured again, then
            make(path.parent)
            write_text(path, json.dumps(known))
    return known[key]


def doubled(rate: Callable[[int], float], first: int, last: int) -> int:
    """The size of which the double is not worth it; below `first` where that does not fit, which is a rate of 0."""
    size, best = first, rate(first)
    while not best and size > 1:
        size //= 2
        best = rate(size)
    while size >= first and 2 * size <= last and (faster := rate(2 * size)) >= GAIN * best:
        size, best = 2 * size, faster
    return size


def rate(network: Network, size: int) -> float:
    """Photos a second of the whole network on its GPU, not compiled: enough to compare sizes; 0 if memory runs out."""
    import torch

    part = network.part(network.cuts[-1])
    device = device_of(part)
    forward = in_precision(part, "bf16" if has_bf16() else "fp32", device)
    try:
        blank = torch.zeros((size, *network.input_shape), dtype=torch.uint8, device=device)
        forward(blank)
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(PASSES):
            forward(blank)
        torch.cuda.synchronize(device)
        return PASSES * size / (time.perf_counter() - began)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0.0


def _known(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: size for key, size in found.items() if isinstance(size, int)} if isinstance(found, dict) else {}


def in_precision(part: nn.Module, precision: Precision, device: torch.device) -> Forward:
    """The module as a function without gradients; in bf16 its sums and normalisations stay in fp32."""
    import torch

    def forward(inputs: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found: Tensor = part(inputs)
            return found.float()

    return forward


def compiled(forward: Forward, shape: tuple[int, ...], device: torch.device) -> Forward:
    """The function compiled for this shape; as it is where this machine has no compiler or knows an operation not."""
    import torch

    # PyTorch counts how often it compiles a function and gives up at eight: this one must not pass for another's.
    forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(forward):x}")
    blank = torch.zeros(shape, dtype=torch.uint8, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's advice to its own developers
        try:
            fast: Forward = torch.compile(forward, dynamic=False)
            fast(blank)
        except torch.OutOfMemoryError:
            raise
        # Compilers fail in their own ways; the network itself still runs.
        except Exception:  # noqa: BLE001
            forward(blank)
            return forward
    return fast


class Passes:
    """A forward pass of one shape. While one batch is computed, another is copied in by the thread that brings it.

    Its own CUDA graph, not the compiler's: that one may be replayed only by the thread that has recorded it.
    """

    def __init__(self, forward: Forward, shape: tuple[int, ...], device: torch.device) -> None:
        self.chunk = shape[0]
        self.concurrency = SLOTS
        self._turn = threading.Lock()  # passes are queued on the device one by one
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        make = _cuda_slots(device) if device.type == "cuda" else _Slot
        for _ in range(SLOTS):
            self._free.put(make(forward, shape, device))

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        """Nothing to prepare: the threads share the device, not the processor."""
        yield

    def __call__(self, inputs: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut."""
        slot = self._free.get()
        try:
            slot.bring(inputs)
            with self._turn:
                slot.compute()
            return slot.result()
        finally:
            self._free.put(slot)


class _Slot:
    """Room for a batch and what comes of it, on a device that computes at once."""

    def __init__(self, forward: Forward, shape: tuple[int, ...], device: torch.device) -> None:
        import torch

        self.inputs = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.forward = forward
        self.outputs = forward(self.inputs)

    def bring(self, inputs: Shaped[np.ndarray, "n ..."]) -> None:
        import torch

        self.inputs.copy_(torch.from_numpy(inputs))

    def compute(self) -> None:
        self.outputs = self.forward(self.inputs)

    def result(self) -> Float[np.ndarray, "n ..."]:
        return self.outputs.cpu().numpy().copy()


def _cuda_slots(device: torch.device) -> Callable[..., _Slot]:
    """Slots whose passes follow one another on one stream, so that their graphs can share memory between layers."""
    import torch

    return partial(_CudaSlot, passes=_stream(device), pool=torch.cuda.graph_pool_handle())


def _stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _CudaSlot(_Slot):
    """The same on a GPU: page-locked memory, a stream for copies, and the pass recorded as a graph."""

    def __init__(
        self, forward: Forward, shape: tuple[int, ...], device: torch.device, *, passes: torch.cuda.Stream, pool: Any
    ) -> None:
        import torch

        super().__init__(forward, shape, device)
        self.copies, self.passes, self.pool = _stream(device), passes, pool
        self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.sent = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.graph = self._recorded()
        self.received = torch.empty(self.outputs.shape, dtype=self.outputs.dtype, pin_memory=True)

    def _recorded(self) -> Any:
        import torch

        self.passes.wait_stream(torch.cuda.current_stream(self.passes.device))
        with torch.cuda.stream(self.passes):
            for _ in range(2):  # libraries make their work space and choose their kernels at the first calls
                self.forward(self.inputs)
        self.passes.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.passes, capture_error_mode="thread_local"):
                self.outputs = self.forward(self.inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation that waits for the device cannot be recorded: it is called each time
            return None
        return graph

    def bring(self, inputs: Shaped[np.ndarray, "n ..."]) -> None:
        import torch

        self.sent.copy_(torch.from_numpy(inputs))
        with torch.cuda.stream(self.copies):
            self.inputs.copy_(self.sent, non_blocking=True)
            self.arrived.record(self.copies)

    def compute(self) -> None:
        import torch

        with torch.cuda.stream(self.passes):
            self.passes.wait_event(self.arrived)
            if self.graph is None:
                self.outputs = self.forward(self.inputs)
            else:
                self.graph.replay()
            self.received.copy_(self.outputs, non_blocking=True)
            self.left.record(self.passes)

    def result(self) -> Float[np.ndarray, "n ..."]:
        self.left.synchronize()
        return self.received.numpy().copy()
