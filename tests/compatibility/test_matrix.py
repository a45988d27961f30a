"""The table is complete and the committed page is of this table; two of its cells are tried for real."""

from itertools import combinations

import pytest

from tests.compatibility import report
from tests.compatibility.matrix import (
    AXES,
    IMPOSSIBLE,
    LAUNCHERS,
    NOT_RESUMED,
    REFUSED,
    Cell,
    covering,
    impossible,
    pairs,
    refused,
    row_cell,
    rows,
)
from tests.compatibility.optimizers import COLUMNS, OURS, PERTURBING
from tests.compatibility.runner import run
from tests.compatibility.worker import outcome
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "compatibility.md"


def test_columns_are_the_registrys_names_and_four_peers():
    assert COLUMNS[: len(OURS)] == OURS
    assert COLUMNS[len(OURS) :] == [
        "adamw_torch",
        "schedulefree.AdamWScheduleFree",
        "pytorch_optimizer.AdaBelief",
        "torch.optim.Muon",
    ]


def test_every_pair_that_can_be_combined_occurs():
    cells = list(covering())
    assert cells == list(covering()), "not the same twice"
    assert len(cells) == len(set(cells))
    found = {((a, getattr(cell, a)), (b, getattr(cell, b))) for cell in cells for a, b in combinations(AXES, 2)}
    barred = [*IMPOSSIBLE, *REFUSED]
    for a, b in combinations(AXES, 2):
        for x in AXES[a]:
            for y in AXES[b]:
                declared = any(rule.holds((a, x), (b, y)) for rule in barred)
                assert (((a, x), (b, y)) in found) != declared, f"{x} with {y}"
    assert found == set(pairs())
    assert not any(impossible(cell) or refused(cell) for cell in cells)


def test_rules_speak_of_names_that_exist():
    for rule in [*IMPOSSIBLE, *REFUSED, *NOT_RESUMED]:
        for axis, names in (rule.one, rule.other):
            assert names and set(names) <= set(AXES[axis]), rule
        assert set(rule.under) <= set(LAUNCHERS)
        assert rule.reason
    assert all(rule.pattern for rule in REFUSED)


def test_rows_can_be_tried():
    for axis, names in rows().items():
        for name in names:
            assert not any(impossible(row_cell(axis, name, column)) for column in COLUMNS), name


def page_rows() -> dict[str, list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line.rstrip(" |").split(" | ")[1:] for line in lines}


def test_the_committed_page_has_every_row_and_column():
    found = page_rows()
    header = [f"`{column}`" for column in COLUMNS]
    assert found.pop("| ".strip(), header) == header
    for names in rows().values():
        for name in names:
            assert len(found[name]) == len(COLUMNS), name
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("| " + " | ".join(header) + " |") == len(rows())
    cells = list(covering())
    assert f"{len(cells)} trainings combine" in text
    assert f"each of the {len(pairs())} pairs" in text


def test_the_committed_page_fails_nowhere_and_ours_are_refused_only_as_declared():
    assert "FAILS" not in PAGE.read_text(encoding="utf-8")
    found = page_rows()
    for axis, names in rows().items():
        for name in names:
            for column, cell in zip(COLUMNS, found[name], strict=True):
                if column in OURS:
                    expected = "refused" if refused(row_cell(axis, name, column)) else "works"
                    assert cell.split(" [")[0] == expected, f"{name}, {column}"


def test_the_page_shows_failures_and_numbers_reasons():
    outcomes = {
        row_cell(axis, name, column): "works" for axis, names in rows().items() for name in names for column in COLUMNS
    } | dict.fromkeys(covering(), "works")
    outcomes[row_cell("wrapper", "LoRA", "tam")] = "refused: too cold"
    outcomes[row_cell("wrapper", "DoRA", "tam")] = "FAILS: KeyError: a|b"
    cell = next(covering())
    outcomes[cell] = "FAILS: later"
    text = report.page(outcomes)
    assert "\n| LoRA | refused [1] | works |" in text
    assert "\n1. too cold\n" in text
    assert "| DoRA | FAILS: KeyError: a/b | works |" in text
    assert f"- {report.words(cell)}: FAILS: later" in text


def test_an_outcome_that_is_not_declared_is_a_failure(tmp_path):
    cell = Cell(optimizer=PERTURBING[0], precision="bf16 weights")
    rule = refused(cell)
    assert outcome(cell, tmp_path / "a", rule, resume=True) == f"refused: {rule.reason}"
    assert outcome(cell, tmp_path / "b", None, resume=True).startswith("FAILS: InputError: --optim")
    fine = Cell(optimizer="adatamw")
    assert outcome(fine, tmp_path / "c", rule, resume=True).startswith("FAILS: it works, though")


@pytest.mark.slow
def test_two_cells_for_real():
    """One that the script registers for itself and one that the launcher does, as the command runs them."""
    done = []
    cells = [
        Cell(optimizer="adatamw_msam", wrapper="gradient accumulation"),
        Cell(launcher="tamft run", precision="bf16 autocast", optimizer="tam"),
    ]
    assert run(cells, jobs=2, done=lambda: done.append(1)) == dict.fromkeys(cells, "works")
    assert len(done) == 2
