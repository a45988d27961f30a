"""From a search space to its configurations: a grid in the order written, or Sobol points."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from tamft.compare.schema import Axis
from tamft.errors import InputError

DIGITS = 6  # of a sampled value: it is part of a run's identity, and nobody types more


def is_grid(space: Mapping[str, Axis]) -> bool:
    """Whether all axes are lists: then every combination is tried, and nothing is sampled."""
    return all(axis.values is not None for axis in space.values())


def size(space: Mapping[str, Axis]) -> int:
    """Number of combinations of a grid."""
    return math.prod(len(axis.values or ()) for axis in space.values())


def configurations(space: Mapping[str, Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points of `space`: all of a grid, else scrambled Sobol points.

    The same seed gives arms with as many axes the same points of the unit cube: no arm is luckier than another.
    Raises InputError where scipy, which has the points, is not installed.
    """
    if is_grid(space):
        combinations = itertools.product(*(axis.values or () for axis in space.values()))
        return [dict(zip(space, values, strict=True)) for values in combinations]
    try:
        from scipy.stats import qmc
    except ImportError:
        raise InputError('sampling a range needs scipy, which is not installed: pip install "tamft[compare]"') from None
    # Only whole powers of two are balanced: the first `count` of them.
    points = qmc.Sobol(len(space), scramble=True, seed=seed).random_base2(max(0, math.ceil(math.log2(count))))
    return [
        {key: _value(axis, float(u)) for (key, axis), u in zip(space.items(), point, strict=True)}
        for point in points[:count]
    ]


def _value(axis: Axis, u: float) -> Any:
    """The value of an axis at u in [0, 1)."""
    if axis.values is not None:
        return axis.values[int(u * len(axis.values))]
    low, high = axis.log or (1.0, 1.0)
    return float(f"{low * (high / low) ** u:.{DIGITS}g}")
