"""Products of the gradient with the remembered one, in place and chunk by chunk.

Temporaries are the cost of this measurement, not arithmetic: every chunk is read once from memory,
used while it is in the cache, and written once to the memory of the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# Elements per chunk. On a processor a chunk and its scratch stay in the cache; on an accelerator
# fewer kernel launches count for more.
_CHUNK_ELEMENTS_CPU = 524_288
_CHUNK_ELEMENTS_ACCELERATOR = 16_777_216
# Parameters below this size are gathered into one piece: calls would cost more than the copy.
_SMALL_ELEMENTS = 16_384


@dataclass(frozen=True)
class Products:
    """Sums over all controlled elements of all shards: <g, g> and <g, p>."""

    squared_norm: float
    inner: float


@dataclass(frozen=True)
class _Segment:
    """Neighbouring parameters measured together, and their share of the global sum."""

    parameters: tuple[Tensor, ...]
    elements: int
    share: float


def is_distributed(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this is a DTensor, told without its module: that takes seconds to import."""
    return hasattr(tensor, "device_mesh")


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor: the tensor itself unless it is a DTensor."""
    return tensor.to_local() if is_distributed(tensor) else tensor


class GradientMemory:
    """The previous gradient of a list of parameters, flat, and its products with the present one.

    The memory is double: `measure` reads the previous gradient and writes the present one beside
    it, so that `project` still finds the previous one when the products have been judged. With
    `keep_previous` False there is one buffer, and `project` must not be called.

    Sharded parameters (FSDP2, any DTensor) are measured by their local parts; a partial sum is
    divided by the number of its replicas, so that every element counts once, and summed over the
    shards by one all-reduce. Parameters must be in their final form (wrapped, moved, sharded).
    """

    def __init__(
        self, parameters: Iterable[Tensor], dtype: torch.dtype, *, keep_previous: bool
    ) -> None:
        parameters = list(parameters)
        if not parameters:
            raise ValueError("alignment parameters: none given; pass the policy's parameters")
        locals_ = [local_tensor(parameter.detach()) for parameter in parameters]
        devices = {local.device for local in locals_}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise ValueError(
                f"alignment parameters: on several devices ({names}); use one guard each"
            )
        device = devices.pop()
        sizes = [local.numel() for local in locals_]
        wide = any(local.dtype == torch.float64 for local in locals_)
        compute = torch.float64 if wide else torch.float32
        largest = _CHUNK_ELEMENTS_CPU if device.type == "cpu" else _CHUNK_ELEMENTS_ACCELERATOR

        shares, self._groups = _reduction(parameters)
        self._segments = _segments(parameters, sizes, shares)
        self._chunk = max(1, min(largest, max(s.elements for s in self._segments)))
        self._previous = torch.zeros(sum(sizes), dtype=dtype, device=device)
        self._next = torch.zeros_like(self._previous) if keep_previous else self._previous
        self._views = self._chunks(self._previous)
        self._next_views = self._chunks(self._next)
        # Expanded memory, and gradients that are gathered or of another type than the products.
        self._past = torch.empty(self._chunk, dtype=compute, device=device)
        self._present = torch.empty(0, dtype=compute, device=device)
        self._shares: Tensor | None = None
        if any(share != 1.0 for share in shares):
            per_chunk = [
                s.share for s, v in zip(self._segments, self._views, strict=True) for _ in v
            ]
            self._shares = torch.tensor(per_chunk, dtype=torch.float64, device=device)

    @property
    def previous(self) -> Tensor:
        """Flat [elements of this rank]: the gradient that the next `measure` compares with."""
        return self._previous

    @torch.no_grad()
    def measure(self) -> Products:
        """Products of the present gradients with the previous ones; remembers the present ones.

        Call `swap` afterwards to make them the previous ones. A parameter without gradient counts
        as zero.
        """
        squares: list[Tensor] = []
        inners: list[Tensor] = []
        for segment, previous, following in zip(
            self._segments, self._views, self._next_views, strict=True
        ):
            chunks = torch.split(self._gather(segment), self._chunk)
            for chunk, before, after in zip(chunks, previous, following, strict=True):
                present = self._computable(chunk)
                past = self._expanded(before)
                squares.append(present.dot(present))
                inners.append(present.dot(past))
                after.copy_(chunk)
        return self._sum(squares, inners)

    @torch.no_grad()
    def project(self, coefficient: float, *, remember: bool) -> None:
        """g -= coefficient * p in place. With `remember` the result is the gradient remembered.

        A parameter without gradient stays without.
        """
        start = 0
        for segment in self._segments:
            for parameter in segment.parameters:
                gradient = parameter.grad
                end = start + local_tensor(parameter).numel()
                if gradient is not None:
                    local = local_tensor(gradient)
                    flat = local.reshape(-1)
                    self._subtract(coefficient, flat, slice(start, end), remember)
                    if not local.is_contiguous():
                        local.copy_(flat.view_as(local))
                start = end

    def swap(self) -> None:
        """Makes the gradient that `measure` wrote the previous one."""
        self._previous, self._next = self._next, self._previous
        self._views, self._next_views = self._next_views, self._views

    def load(self, previous: Tensor) -> None:
        """Restores what `previous` gave on the same rank of the same layout."""
        if previous.shape != self._previous.shape or previous.dtype != self._previous.dtype:
            raise ValueError(
                f"alignment memory: {tuple(previous.shape)} {previous.dtype} stored, "
                f"{tuple(self._previous.shape)} {self._previous.dtype} needed on this rank; load "
                "the scalars alone after a change of model, ranks or memory type"
            )
        self._previous.copy_(previous)

    def _subtract(self, coefficient: float, flat: Tensor, where: slice, remember: bool) -> None:
        for chunk, before, after in zip(
            torch.split(flat, self._chunk),
            torch.split(self._previous[where], self._chunk),
            torch.split(self._next[where], self._chunk),
            strict=True,
        ):
            chunk.add_(before, alpha=-coefficient)
            if remember:
                after.copy_(chunk)

    def _gather(self, segment: _Segment) -> Tensor:
        """Flat [elements] of a segment: a view where one contiguous gradient is enough."""
        flats = [_flat_gradient(parameter) for parameter in segment.parameters]
        if len(flats) == 1:
            return flats[0]
        return torch.cat(flats, out=self._present_scratch(segment.elements))

    def _computable(self, chunk: Tensor) -> Tensor:
        if chunk.dtype == self._past.dtype:
            return chunk
        return self._present_scratch(chunk.numel()).copy_(chunk)

    def _expanded(self, chunk: Tensor) -> Tensor:
        if chunk.dtype == self._past.dtype:
            return chunk
        return self._past[: chunk.numel()].copy_(chunk)

    def _present_scratch(self, elements: int) -> Tensor:
        if not self._present.numel():
            self._present = torch.empty_like(self._past)
        return self._present[:elements]

    def _chunks(self, flat: Tensor) -> list[tuple[Tensor, ...]]:
        parts = torch.split(flat, [segment.elements for segment in self._segments])
        return [torch.split(part, self._chunk) for part in parts]

    def _sum(self, squares: list[Tensor], inners: list[Tensor]) -> Products:
        partials = torch.stack(squares + inners).view(2, -1).to(torch.float64)
        sums = partials.sum(dim=1) if self._shares is None else partials @ self._shares
        for group in self._groups:
            dist.all_reduce(sums, group=group)
        squared_norm, inner = sums.tolist()
        return Products(squared_norm, inner)


def _flat_gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(local_tensor(parameter)).reshape(-1)
    local = local_tensor(gradient)
    if local.is_sparse:
        raise ValueError("alignment gradient: sparse; use dense gradients (sparse=False)")
    return local.reshape(-1)


def _segments(
    parameters: Sequence[Tensor], sizes: Sequence[int], shares: Sequence[float]
) -> list[_Segment]:
    """Runs of small parameters of one share together, large parameters alone, in their order."""
    segments: list[_Segment] = []
    for parameter, size, share in zip(parameters, sizes, shares, strict=True):
        last = segments[-1] if segments else None
        if (
            last is not None
            and last.share == share
            and size < _SMALL_ELEMENTS
            and last.elements + size <= _SMALL_ELEMENTS
        ):
            segments[-1] = _Segment((*last.parameters, parameter), last.elements + size, share)
        else:
            segments.append(_Segment((parameter,), size, share))
    return segments


def _reduction(parameters: Sequence[Tensor]) -> tuple[list[float], list[dist.ProcessGroup]]:
    """Share of each parameter's local sum, and the groups to sum over (one per sharded mesh axis).

    A parameter that is replicated along a summed axis would count once per rank, so its share is
    one over the ranks of that axis.
    """
    meshes = {p.device_mesh for p in parameters if is_distributed(p)}
    if not meshes:
        return [1.0] * len(parameters), []
    if len(meshes) > 1:
        raise ValueError("alignment parameters: on several device meshes; use one guard per mesh")
    mesh = meshes.pop()
    axes = [
        axis
        for axis in range(mesh.ndim)
        if any(is_distributed(p) and _sharded(p, axis) for p in parameters)
    ]
    shares = []
    for parameter in parameters:
        share = 1.0
        for axis in axes:
            if not (is_distributed(parameter) and _sharded(parameter, axis)):
                share /= mesh.size(axis)
        shares.append(share)
    return shares, [mesh.get_group(axis) for axis in axes]


def _sharded(parameter: DTensor, axis: int) -> bool:
    placement = parameter.placements[axis]
    if placement.is_partial():
        raise ValueError("alignment parameters: partial placement; reduce the gradient first")
    return not placement.is_replicate()


def gradient_cosine(first: Iterable[Tensor], second: Iterable[Tensor]) -> float | None:
    """Cosine of two gradients given as lists of tensors of equal shapes; None if one is zero or
    not finite. For the split-half prediction: the gradients of the two halves of one batch.
    """
    total = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(first, second, strict=True):
        x, y = a.detach().reshape(-1).double(), b.detach().reshape(-1).double()
        total += torch.stack((x @ y, x @ x, y @ y)).cpu()
    inner, left, right = total.tolist()
    squared = left * right
    if not 0.0 < squared < float("inf"):
        return None
    return float(inner / squared**0.5)


def project(gradient: Tensor, previous: Tensor, kept: float) -> Tensor:
    """g - (1 - kept) (<g, p> / |p|^2) p as a new tensor: the definition, for tests and notebooks.

    Alignment in one direction only: a gradient that points away from `previous` comes back as it
    is, and so does one after a zero gradient.
    """
    inner = torch.sum(gradient * previous)
    squared = torch.sum(previous * previous)
    if inner <= 0 or squared == 0:
        return gradient.clone()
    return gradient - (1.0 - kept) * (inner / squared) * previous
