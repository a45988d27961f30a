"""Search spaces: grids in the order written, Sobol points that a seed fixes."""

import math

import pytest

from tamft.compare import space
from tamft.compare.schema import Axis


def test_a_grid_is_tried_in_the_order_written():
    axes = {"learning_rate": Axis(values=[3e-5, 1e-5]), "rho": Axis(values=[0.1, 0.3])}
    found = space.configurations(axes, 99, seed=1)
    assert [tuple(one.values()) for one in found] == [(3e-5, 0.1), (3e-5, 0.3), (1e-5, 0.1), (1e-5, 0.3)]
    assert space.is_grid(axes) and space.size(axes) == 4


def test_points_are_fixed_by_the_seed_and_fill_the_range():
    axes = {"learning_rate": Axis(log=[1e-5, 1e-3])}
    first, again, other = (space.configurations(axes, 8, seed) for seed in (5, 5, 6))
    assert first == again != other
    rates = [one["learning_rate"] for one in first]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    # eight points of a Sobol sequence: one in each eighth of the range's logarithm
    assert sorted(int(math.log10(rate / 1e-5) * 4) for rate in rates) == list(range(8))


def test_no_arm_is_luckier_than_another():
    one = space.configurations({"learning_rate": Axis(log=[1e-5, 1e-3])}, 5, seed=3)
    two = space.configurations({"learning_rate": Axis(log=[1e-2, 1e0])}, 5, seed=3)
    for a, b in zip(one, two, strict=True):
        assert b["learning_rate"] == pytest.approx(1000 * a["learning_rate"], rel=1e-5)


def test_lists_beside_a_range():
    axes = {"learning_rate": Axis(log=[1e-5, 1e-3]), "rho": Axis(values=[0.1, 0.3])}
    found = space.configurations(axes, 16, seed=3)
    assert [sum(one["rho"] == rho for one in found) for rho in (0.1, 0.3)] == [8, 8]
    assert not space.is_grid(axes)
