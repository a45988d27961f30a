"""The step benchmark and its chart measure and draw what they say."""

import json
import re
import shlex
import sys
from functools import partial

import pytest
import torch

from tamft.errors import InputError
from tamft.optim import cpu_kernels
from tests.conftest import ROOT

CPU = torch.device("cpu")


def contender(bench, name, make, *, family="Adam", path="loop", baseline=False):
    return bench.contenders.Contender(family, name, path, make, state=8, baseline=baseline)


def test_records_of_a_set(bench, tiny):
    rows = bench.contenders.contenders()
    records, notes = bench.step.measure(tiny, rows, rounds=2, device=CPU)
    by_name = {(record["optimizer"], record["path"]): record for record in records}
    assert len(by_name) == len(records)
    assert len(records) + len(notes) == len(rows) == 26
    assert all("not available" in note for note in notes)
    for record in records:
        assert 0 < record["min_s"] <= record["median_s"] <= record["max_s"]
        assert record["ratio_q25"] <= record["ratio_q75"]
        assert record["state_bytes_per_parameter"] * 577 == {"Adam": 8, "SGD": 4}[record["family"]] * 576
        assert record["state_scalars_per_tensor"] <= 8  # of them two for m and v of the 0-d tensor
        assert record["backend"] in ("loop", "foreach", "fused")
        assert record["launches"] is None
    for name in ("torch AdamW", "torch SGD"):
        assert by_name[name, "fused"]["ratio"] == 1.0
    assert by_name["AdaTAMW", "loop"]["backend"] == "loop"
    # torch's loop needs a few temporaries as large as the tensor: 64 x 8 float32
    assert by_name["torch AdamW", "loop"]["largest_temporary_bytes"] == 64 * 8 * 4


def test_groups_share_a_baseline_and_fit_into_memory(bench, tiny):
    def row(name, **options):
        return contender(bench, name, partial(torch.optim.Adam, foreach=False), **options)

    rows = [row("base", baseline=True), row("a"), row("b"), row("c"), row("other", family="SGD", baseline=True)]
    lanes = [[c.name for c in lane] for lane in bench.step.lanes(rows, size=10, limit=3 * 8 * 10)]
    assert lanes == [["base", "a", "b"], ["base", "c"], ["other"]]
    tight = [[c.name for c in lane] for lane in bench.step.lanes(rows, size=10, limit=0)]
    assert tight == [["base", "a"], ["base", "b"], ["base", "c"], ["other"]], "at least one beside the baseline"
    records, _ = bench.step.measure(tiny, rows, rounds=1, device=CPU, limit=0)
    assert [record["optimizer"] for record in records] == ["base", "a", "b", "c", "other"]
    assert [record["group"] for record in records] == [0, 0, 1, 2, 3]


def test_what_cannot_be_had_is_left_out_with_a_note(bench, tiny):
    def refuses(params):
        raise RuntimeError("fused=True is not available:\n  no kernel")

    class FailsLater(torch.optim.SGD):
        def step(self):
            raise RuntimeError("no compiler")

    rows = [
        contender(bench, "base", partial(torch.optim.Adam, foreach=False), path="fused", baseline=True),
        contender(bench, "refused", refuses, path="fused"),
        contender(bench, "late", FailsLater),
        contender(bench, "good", partial(torch.optim.Adam, foreach=False)),
    ]
    records, notes = bench.step.measure(tiny, rows, rounds=1, device=CPU)
    assert [record["optimizer"] for record in records] == ["base", "good"]
    assert notes == [
        "tiny: refused fused: not available: fused=True is not available: no kernel",
        "tiny: late loop: not available: no compiler",
    ]


def test_perturbing_step_is_train_and_step(bench):
    calls = []

    class Both(torch.optim.SGD):
        def train(self):
            calls.append("train")

        def step(self):
            calls.append("step")

    bench.contenders.one_step(Both([torch.zeros(1)]))
    assert calls == ["train", "step"]


def test_choice_of_optimizers(bench):
    rows, _ = bench.step.choose(["adatamw+msam f"], short=False)
    assert [c.label for c in rows] == ["torch AdamW fused", "AdaTAMW+MSAM fused", "AdaTAMW+MSAM foreach"]
    short, notes = bench.step.choose(None, short=True)
    assert {c.path for c in short} == {"fused", "default"}
    assert notes == []
    with pytest.raises(InputError, match="--optimizers adamx: no optimizer is called so: torch AdamW fused, "):
        bench.step.choose(["adamx"], short=False)


def test_step_writes_numbers_and_chart(bench, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.step, "SETS", {"tiny": tiny})
    file = tmp_path / "results" / "step.json"
    words = ["--sets", "tiny", "--rounds", "2", "--optimizers", "default", "torch", "--json", str(file)]
    assert bench.step.main(words) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["command"] == shlex.join(["python", "benchmarks/step.py", *words])
    assert report["rounds"] == 2
    assert report["sets"]["tiny"] == {
        "what": "a few numbers", "tensors": 3, "parameters": 577, "largest_tensor_bytes": 2048, "dtype": "float32",
    }  # fmt: skip
    assert {row["set"] for row in report["results"]} == {"tiny"}
    assert "AdaTAMW+MSAM" in capsys.readouterr().out

    figure = tmp_path / "chart.svg"
    monkeypatch.setitem(pytest.importorskip("matplotlib").rcParams, "svg.fonttype", "none")  # words stay words
    assert bench.chart.main([str(file), str(figure)]) == 0
    text = figure.read_text(encoding="utf-8")
    ratio = next(r["ratio"] for r in report["results"] if (r["optimizer"], r["path"]) == ("TAM", "default"))
    assert "tamft TAM" in text and f">{ratio:.2f}<" in text and "torch AdamW for-loop" in text


def test_with_and_without_the_compiled_kernels(bench, tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("numba")
    monkeypatch.setattr(bench.step, "SETS", {"tiny": tiny})
    monkeypatch.setattr(cpu_kernels, "WORTH", 0)
    monkeypatch.setattr(cpu_kernels, "compiled_kernels", cpu_kernels.compiled_kernels)  # put back afterwards
    file = tmp_path / "step.json"
    for words, compiled, said in (([], True, "compiled kernels"), (["--no_numba"], False, "numba is not used")):
        words = ["--sets", "tiny", "--rounds", "1", "--optimizers", "AdaTAMW fused", "--json", str(file), *words]
        assert bench.step.main(words) == 0
        assert said in capsys.readouterr().out
        assert json.loads(file.read_text(encoding="utf-8"))["compiled_kernels"] is compiled


def test_bars_are_ours_as_chosen_and_all_of_torch(bench):
    def record(optimizer, path, ratio):
        return {"optimizer": optimizer, "path": path, "ratio": ratio}

    records = [
        record("torch AdamW", "loop", 5.0),
        record("torch AdamW", "fused", 1.0),
        record("AdaTAMW", "default", 1.4),
        record("AdaTAMW", "loop", 6.0),
        record("schedulefree AdamWScheduleFree", "foreach", 4.0),
    ]
    found = [(label, ratio) for label, ratio, _ in bench.chart.bars(records)]
    assert found == [
        ("torch AdamW fused", 1.0),
        ("tamft AdaTAMW", 1.4),
        ("schedulefree AdamWScheduleFree", 4.0),
        ("torch AdamW for-loop", 5.0),
    ]


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("step", ["--sets", "gpt"], "--sets gpt: there is minilm, bert, lora, 1b, 1b-bf16"),
        ("step", ["--rounds", "0"], "'0' is not a whole number above 0"),
        ("step", ["--device", "cuda"], "torch sees no GPU"),
        ("train", ["--model", "bert"], "add --device cuda"),
        ("alignment", ["--figure", "x.pdf"], "has to end in .svg or .png"),
        ("alignment", ["--json", f"{__file__}/x.json"], "cannot be written"),
        ("chart", ["missing.json", "x.svg"], "missing.json: cannot be read"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_measured(bench, program, words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, *words])
    assert bench.common.command(getattr(bench, program).main) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# ---- documentation


def test_commands_on_the_pages_can_be_typed(bench):
    seen = set()
    for page in [ROOT / "README.md", *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split("&&"):
                    words = shlex.split(command, comments=True)
                    place = next((i for i, word in enumerate(words) if word.startswith("benchmarks/")), None)
                    if place is not None and words[place].endswith(".py"):
                        program = words[place].removeprefix("benchmarks/").removesuffix(".py")
                        getattr(bench, program).options().parse_words(words[place + 1 :])
                        seen.add(program)
    programs = (ROOT / "benchmarks").glob("*.py")
    assert seen == {path.stem for path in programs if "\ndef options(" in path.read_text(encoding="utf-8")}
