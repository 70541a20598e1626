"""Streaming statistics: `update(batch)`, exact `merge(other)`, `compute()`.

One pass over shards, merged, equals one pass over the whole, bit for bit. This is how several
processes and a resumed run give the same answer.
"""

import math
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from advlens.arrays import Ids
from advlens.errors import NumericError

TABLE = 1 << 22
"""How many positions a lookup table holds; more would not fit into a processor's cache."""


class TopK:
    """The k images of highest response for each unit; ties go to the smaller id.

    Memory is units × k, whatever the number of images. A response and its image id are packed into
    one integer that sorts like (response, −id), so ties are exact and `merge` commutes.

    Args:
        k: images kept per unit.
        units: number of units.
    """

    def __init__(self, k: int, units: int):
        self.k = k
        self.keys = torch.empty(units, 0, dtype=torch.int64)
        self._waiting: list[Tensor] = []

    def update(self, responses: Float32[Tensor, "n units"], ids: Ids) -> None:
        """Process a batch.

        Raises:
            NumericError: a response is not finite.
        """
        if not torch.isfinite(responses).all():
            raise NumericError("a unit's response is NaN or infinite; check the model's weights")
        # IEEE floats ≥ 0 sort like their bits; below 0 the other bits are flipped
        bits = responses.float().add(0.0).view(torch.int32).T.to(torch.int64)  # + 0.0: no −0
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        keys = (ordered << 32) | (0xFFFFFFFF - ids.to(bits.device))
        self._waiting.append(keys)
        if sum(part.shape[1] for part in self._waiting) >= max(self.k, 1024):
            self._settle()

    def merge(self, other: "TopK") -> None:
        """Merge what another accumulator saw."""
        self._waiting.append(other.kept())
        self._settle()

    def kept(self) -> Int64[Tensor, "units k"]:
        """The packed responses and ids so far: `keys`, with nothing pending."""
        self._settle()
        return self.keys

    def compute(self) -> tuple[Float32[Tensor, "units k"], Int64[Tensor, "units k"]]:
        """Responses and image ids on the CPU, largest first; fewer than k if fewer were seen."""
        self._settle()
        self.keys = self.keys.cpu()
        ids = 0xFFFFFFFF - (self.keys & 0xFFFFFFFF)
        ordered = self.keys >> 32
        bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
        return bits.to(torch.int32).view(torch.float32), ids

    def _settle(self) -> None:
        if self._waiting:
            joined = torch.cat([self.keys.to(self._waiting[0].device), *self._waiting], dim=1)
            self.keys = joined.topk(min(self.k, joined.shape[1]), dim=1).values
            self._waiting = []


class UpperTail:
    """The exact value above which a share of each row's values lies.

    For n values it is the (m+1)-th largest, m = ⌊share · n⌋: at most m are strictly above it. The
    m+1 largest values of each row are kept, so memory is rows × share × n values.

    Args:
        share: the share of values that may lie above, such as .005.
        n: total number of values in each row, over everything that is merged.
        rows: number of rows.
    """

    def __init__(self, share: float, n: int, rows: int):
        self.share, self.n = share, n
        self.rank = math.floor(Fraction(str(share)) * n) + 1
        self.values = torch.empty(rows, 0)
        self._waiting: list[Tensor] = []

    def update(self, values: Float[Tensor, "rows n"]) -> None:
        """Process some values of each row.

        Raises:
            NumericError: a value is not finite.
        """
        if not torch.isfinite(values).all():
            raise NumericError("a unit's response is NaN or infinite; check the model's weights")
        self._waiting.append(values.float())
        if sum(part.shape[1] for part in self._waiting) >= self.rank:
            self._settle()

    def merge(self, other: "UpperTail") -> None:
        """Merge what another accumulator saw."""
        self._waiting.append(other.kept())
        self._settle()

    def kept(self) -> Float32[Tensor, "rows kept"]:
        """The largest values so far: `values`, with nothing pending."""
        self._settle()
        return self.values

    @property
    def bound(self) -> Float[Tensor, " rows"]:
        """A lower bound of the result, whatever is still to come."""
        if self.values.shape[1] < self.rank:
            return self.values.new_full((len(self.values),), -torch.inf)
        return self.values.amin(dim=1)

    def compute(self) -> Float[Tensor, " rows"]:
        """The (m+1)-th largest value of each row."""
        return self.kept().amin(dim=1)

    def _settle(self) -> None:
        if self._waiting:
            joined = torch.cat([self.values.to(self._waiting[0].device), *self._waiting], dim=1)
            kept = min(self.rank, joined.shape[1])
            self.values = joined.topk(kept, dim=1, sorted=False).values
            self._waiting = []


def positions(
    ids: Int64[Tensor, "units k"], others: Int64[Tensor, "units k"], images: int
) -> tuple[Int64[Tensor, "units k"], Bool[Tensor, "units k"]]:
    """The position of each id among the same unit's others, any if it is not there; and whether."""
    place = torch.empty_like(ids)
    rows = max(1, TABLE // images)
    table = torch.zeros(rows, images, dtype=torch.int32)  # what a chunk leaves harms no other one
    order = torch.arange(others.shape[1], dtype=torch.int32)
    for start in range(0, len(ids), rows):
        some, own = ids[start : start + rows], others[start : start + rows]
        part = table[: len(some)].scatter_(1, own, order.expand(own.shape))
        place[start : start + rows] = part.gather(1, some)
    return place, others.gather(1, place) == ids
