"""x W^T for the few rows of a decoding step on CPU, in the form that libraries multiply fastest.

A product of 2 to 8 rows with a matrix that is read once is bound by memory, and BLAS libraries that are tuned for large products choose
worse forms for it: measured (two cores with AVX2, MKL, 0.8 to 1.5 MB per matrix), W x^T takes half the time of x W^T for 5 rows and 1.2
times for 13; a single row is multiplied by one thread only unless the matrix is cut into a batch. oneDNN is twice as fast from 5 rows on
(matrices of 4 to 23 MB), for a matrix that it has reordered first, which is a second copy. The same sums in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

FEW = 8  # rows up to which the matrix comes first


def few_rows(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[m, K] by [N, K] (and [N]) -> [m, N], contiguous."""
    rows = states.shape[0]
    if rows > FEW:
        return linear(states, weight, bias)
    product = _one_row(states, weight) if rows == 1 else torch.mm(weight, states.t()).t().contiguous()
    return product if bias is None else product.add_(bias)


def _one_row(states: Tensor, weight: Tensor) -> Tensor:
    """Each thread takes its share of the matrix."""
    threads = torch.get_num_threads()
    if threads == 1 or weight.shape[0] % threads:
        return linear(states, weight)
    shares = weight.view(threads, -1, weight.shape[1])
    return torch.bmm(states.expand(threads, -1, -1), shares.transpose(1, 2)).view(1, -1)


def packs(weight: Tensor) -> bool:
    """Whether matrices of this kind can be reordered for oneDNN here."""
    return weight.is_cpu and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def packed(weight: Tensor) -> Tensor:
    """A reordered copy of an [N, K] matrix, which `packed_rows` alone can read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW)


def packed_rows(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[m, K] by a packed [N, K] (and [N]) -> [m, N]."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
