"""How long, and how small a difference: the numbers of --dry_run."""

import json
import math
import re

import pytest

from tamft.compare import dry_run, study
from tamft.compare.command import main
from tamft.compare.dry_run import Times
from tamft.compare.plan import read_plan
from tamft.errors import InputError
from tests.compare.conftest import THREADS


def write_lines(folder, plan, differences):
    """A study whose arms differ from the baseline by these numbers, seed by seed."""
    folder.mkdir()
    lines = []
    for arm, values in {plan.content["baseline"]: [0.0] * 3, **differences}.items():
        for seed, value in zip((11, 12, 13), values, strict=True):
            control = "aa" if "A/A" in arm else None
            score = {"SmallTest": 0.5 + seed / 100 + value}
            lines.append({"stage": "confirm", "arm": arm, "seed": seed, "control": control, "scores": score})
    (folder / study.LINES).write_text("".join(f"{json.dumps(one)}\n" for one in lines), encoding="utf-8")
    (folder / study.CONTENT).write_text(json.dumps(plan.content), encoding="utf-8")


def test_spread_is_of_paired_differences(plan_file, tmp_path):
    """The seeds' own effect is the same in both and drops out; arms are pooled around means of their own."""
    plan = read_plan(plan_file)
    write_lines(tmp_path / "s", plan, {"adatamw": [0.01, 0.02, 0.03], "msam": [0.5, 0.5, 0.56]})
    wanted = math.sqrt((2 * 0.01**2 + 2 * 0.02**2 + 0.04**2) / 4)
    assert dry_run.measured(tmp_path / "s") == pytest.approx(wanted)
    assert dry_run.spread(plan, tmp_path, tmp_path / "s")[0] == pytest.approx(wanted)
    assert dry_run.spread(plan, tmp_path / "none", None) == (None, "unknown")
    with pytest.raises(InputError, match="holds no study with two confirmed pairs"):
        dry_run.spread(plan, tmp_path, tmp_path / "none")


def test_the_aa_control_has_no_pairs_of_one_seed(plan_file, tmp_path):
    plan = read_plan(plan_file)
    write_lines(tmp_path / "s", plan, {"adamw_torch (A/A)": [0.1, 0.2, 0.3]})
    assert dry_run.measured(tmp_path / "s") is None


def test_what_cannot_be_reached_is_said(plan_file):
    """Two seeds, t(1 - 0.05/2, 1) = 12.7: ± 0.0018 for a spread of 0.0002, and 50 times as much for 0.01."""
    plan = read_plan(plan_file)  # delta 0.01
    small, large = (dry_run.sizes(plan, sd, "assumed by the plan") for sd in (0.0002, 0.01))
    assert "± 0.0018" in small[-1] and "CANNOT" not in "".join(small)
    assert "± 0.09" in large[3] and "delta CANNOT be reached" in large[3]
    assert "add seeds, or be content with a larger delta" in large[-1]
    table = dry_run.sizes(plan, None, "unknown")
    assert [float(line.split()[0]) for line in table[3:7]] == [0.0025, 0.005, 0.01, 0.02]


def test_time_of_a_run(plan_file):
    plan = read_plan(plan_file)
    times = Times(step=2.0, around=10.0, tasks={"SmallDev": 3.0, "SmallTest": 5.0}, steps=4)
    assert [dry_run._seconds(plan, times, stage) for stage in ("base", "screen", "confirm")] == [8, 21, 26]


@pytest.mark.slow
def test_the_whole_report(plan_file, tmp_path, capsys):
    folder = tmp_path / "study"
    assert main([str(plan_file), "--output_dir", str(folder), "--dry-run", *THREADS]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^base +1 runs of \d+ s$", out, re.MULTILINE)
    assert re.search(r"^screen +18 runs of \d+ s$", out, re.MULTILINE)
    assert re.search(r"^confirm +10 runs of \d+ s$", out, re.MULTILINE)
    step, around = map(float, re.search(r"a step (\S+) s, (\S+) s around 4 steps", out).groups())
    assert 0 <= step < 60 and around < 600
    assert re.search(r"scoring SmallDev \d+ s, SmallTest \d+ s", out)
    assert "standard deviation of paired differences: unknown" in out
    assert not folder.exists()
