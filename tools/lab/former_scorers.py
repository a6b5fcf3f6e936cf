"""Scorers that Quorix does not use, for comparison: leave-one-out, and base value plus pairwise synergy.

The second is the rule of an earlier market of this kind: a model's loss is turned into the number of parameters that a
scaling law gives to it, raised to a power; to it comes, for each pair, what their average saves over the better of the
two. Never negative, pairs only, and what it hands out is not what the whole is worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SCALE, EXPONENT = 8.8e13, 0.076  # loss in nats = (SCALE / parameters) ** EXPONENT
LEAST_LOSS_NATS = 1.69
BASE_POWER, SYNERGY_POWER = 0.5, 0.6


def leave_one_out(values: Floats) -> Floats:
    """What the whole loses without each player; `values` (2^n,) as `coalition_values` gives them."""
    import numpy as np

    everyone = len(values) - 1
    return np.array([values[everyone] - values[everyone ^ 1 << i] for i in range(everyone.bit_length())])


def base_plus_synergy(hits: Floats) -> Floats:
    """Scores (n,), summing to 1, from the probabilities `hits` (n, windows, positions) of the true byte."""
    import numpy as np

    n = len(hits)
    flat = hits.reshape(n, -1)
    loss = -np.log(flat).mean(axis=1)
    score = _parameters(loss) ** BASE_POWER
    for i in range(n):
        for j in range(i + 1, n):
            together = -np.log((flat[i] + flat[j]) / 2).mean()
            gain = _parameters(together) ** SYNERGY_POWER - _parameters(np.minimum(loss[i], loss[j])) ** SYNERGY_POWER
            score[i] += max(0.0, gain) / 2 / n
            score[j] += max(0.0, gain) / 2 / n
    shares: Floats = score / score.sum()
    return shares


def _parameters(loss_nats: Any) -> Any:
    import numpy as np

    return SCALE / np.maximum(loss_nats, LEAST_LOSS_NATS) ** (1 / EXPONENT)
