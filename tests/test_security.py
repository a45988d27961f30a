# ruff: noqa: F811 - fixtures that are imported, and then named as arguments
"""Files from other people: nothing in them is executed, nothing is written elsewhere, memory stays bounded."""

import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch

from tamft.cli import main
from tamft.errors import InputError
from tamft.hf.checkpoints import problems
from tamft.hf.pickles import read_arguments
from tamft.train import config, launch
from tests.evaluation.conftest import tiny_tasks  # noqa: F401 - fixture
from tests.hf import small
from tests.recipes.conftest import recipe, rows_file  # noqa: F401 - fixtures

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


class Payload:
    """Unpickling it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """What a payload would make; looked for after the test."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "the payload was executed"


@pytest.fixture
def folder(tmp_path):
    small.trainer(tmp_path / "run", "adatamw", **SAVING).train()
    return tmp_path / "run"


def write(path, content, how):
    if how == "zip":
        torch.save(content, path)
    elif how == "before torch 1.6":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content))


def test_the_payload_works(tmp_path):
    """Otherwise the tests below could not fail."""
    write(tmp_path / "x", Payload(tmp_path / "executed"), "zip")
    torch.load(tmp_path / "x", weights_only=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "bare pickle"])
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"])
def test_a_payload_in_a_checkpoint(folder, marker, file, how, capsys):
    content = {"state": {}, "param_groups": [Payload(marker)], "last_epoch": 1, "python": 1, "numpy": 1, "cpu": 1}
    write(folder / "checkpoint-4" / file, content, how)
    trainer = small.trainer(folder, "adatamw", **SAVING)
    if file == "training_args.bin":
        assert read_arguments(folder / "checkpoint-4" / file) == {}
    else:
        with pytest.raises(InputError, match=f"not a complete checkpoint: {file}: "):
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert main(["doctor", str(folder)]) in (0, 1)
    assert main(["doctor", str(folder / "checkpoint-4")]) in (0, 1)


@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "bare pickle"])
def test_a_payload_among_the_weights_of_a_checkpoint(folder, marker, how, capsys):
    checkpoint = folder / "checkpoint-4"
    (checkpoint / "model.safetensors").unlink()
    write(checkpoint / "pytorch_model.bin", {"weight": Payload(marker)}, how)
    assert problems(checkpoint)[0].startswith("pytorch_model.bin: ")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        small.trainer(folder, "adatamw", **SAVING).train(resume_from_checkpoint=str(checkpoint))
    assert main(["doctor", str(checkpoint)]) == 1


def test_arguments_that_abuse_the_reader(tmp_path, marker):
    """Every opcode that calls or builds something, over names that would do harm."""
    target = repr(str(marker)).encode()
    programs = [
        b"\x80\x02cos\nmkdir\n(S" + target + b"\ntR.",
        b"\x80\x02(S" + target + b"\nios\nmkdir\n.",
        b"\x80\x02(cos\nmkdir\nS" + target + b"\no.",
        b'\x80\x02cbuiltins\neval\n(S\'__import__("os").mkdir(' + target.replace(b"'", b'"') + b")'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c" + bytes([len(str(marker))]) + str(marker).encode() + b"\x85R.",
    ]
    for number, program in enumerate(programs):
        path = tmp_path / f"{number}.bin"
        write(path, 1, "zip")
        _replace_pickle(path, program)
        assert read_arguments(path) == {}


def _replace_pickle(path, program):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", program)


@pytest.mark.parametrize("command", ["train", "eval", "doctor"])
def test_a_payload_in_a_model(tiny_tasks, tiny_model, tmp_path, marker, recipe, command, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").unlink()
    write(model / "pytorch_model.bin", {"embeddings.word_embeddings.weight": Payload(marker)}, "zip")
    assert use(command, model, tmp_path, recipe) in (1, 2)


def use(command, model, tmp_path, recipe) -> int:
    """Exit code of a command that is given a model's folder."""
    if command == "train":
        return recipe("--model", model)[0]
    if command == "eval":
        return main(["eval", str(model), "--tasks", "TinySTS", "--results", str(tmp_path / "results")])
    return main(["doctor", str(model)])


@pytest.mark.parametrize("kind", ["auto_map", "unknown architecture", "module"])
@pytest.mark.parametrize("command", ["train", "eval", "doctor"])
def test_code_that_comes_with_a_model(tiny_tasks, tiny_model, tmp_path, marker, recipe, command, kind, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\nclass EvilConfig: model_type = 'evil'\n"
    (model / "evil.py").write_text(code)
    settings = json.loads((model / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil"}
    if kind == "unknown architecture":
        settings["model_type"] = "evil"
    (model / "config.json").write_text(json.dumps(settings))
    if kind == "module":
        modules = json.loads((model / "modules.json").read_text())
        modules[0]["type"] = "evil.Evil"
        (model / "modules.json").write_text(json.dumps(modules))
    code = use(command, model, tmp_path, recipe)
    # A known architecture is transformers' own class, whatever the model brings along.
    assert code == 0 if kind == "auto_map" or command == "doctor" else code in (1, 2)


# ---- names that become paths ----------------------------------------------------------------------------------------


def tree(folder: Path, *apart: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not any(part in (path, *path.parents) for part in apart)}


NAMES = ["../../evil", "..", "../..", "/evil", "a/../../evil", "evil\n", "a/b/c", "..\\evil"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["--tasks", "model", "--suite", "--languages"])
def test_names_of_an_evaluation(tiny_tasks, tmp_path, tiny_model, monkeypatch, capsys, flag, name):
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    before = tree(tmp_path)
    model = name if flag == "model" else str(tiny_model)
    words = {"--tasks": "TinySTS", "--results": "results"} | ({flag: name} if flag != "model" else {})
    if flag == "--suite":
        del words["--tasks"]
    code = main(["eval", model, *(word for pair in words.items() for word in pair)])
    assert code in ((0, 1, 2) if flag == "--languages" else (1, 2))  # a task without languages has none to choose
    assert tree(tmp_path, here / "results") == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["--columns", "--config", "--train_file", "--model", "--loss", "--optim", "--dataset"])
def test_names_of_a_training(tmp_path, recipe, monkeypatch, flag, name):
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    recipe("--nothing")  # writes its rows
    before = tree(tmp_path)
    given = [flag, name, "positive"] if flag == "--columns" else [flag, name]
    code, error, folder = recipe(*given)
    if flag == "--dataset":  # a file of rows is what is read
        assert code == 0
        shutil.rmtree(folder)
    else:
        assert (code, error.count("error: ")) == (2, 1)
    assert tree(tmp_path) == before


def test_run_names_stay_in_the_folder(tmp_path, recipe):
    recipe("--nothing")
    before = tree(tmp_path)
    code, _, folder = recipe("--run_name", "../../evil", "--hub_model_id", "../../evil", "--save_strategy", "epoch")
    assert code == 0
    assert tree(tmp_path, folder) == before


# ---- YAML -----------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
BAD = {
    "laughs": LAUGHS,
    "merges": MERGES,
    "itself": "columns: &a [*a, *a]\n",
    "as a column": LAUGHS + "columns: *j\n",
    "apply": "model: !!python/object/apply:os.mkdir ['MARKER']\n",
    "new": "model: !!python/object/new:os.mkdir ['MARKER']\n",
    "name": "model: !!python/name:os.mkdir\n",
    "module": "model: !!python/module:os\n",
    "brackets": "a: " + "[" * 100_000,
    "braces": "{a: " * 20_000,
    "large": "# " + "x" * 2_000_000,
    "date": "model: 2026-99-99\n",
    "binary": "model: !!binary x\n",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("reader", ["config", "suite", "accelerate_config"])
def test_yaml(tmp_path, marker, reader, name, capsys):
    from sentence_transformers import SentenceTransformerTrainingArguments

    path = tmp_path / "bad.yaml"
    path.write_text(BAD[name].replace("MARKER", str(marker)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            if reader == "config":
                config.parse(["--config", str(path)], SentenceTransformerTrainingArguments)
            elif reader == "suite":
                from tamft.evaluation.suites import read_suite

                read_suite(str(path))
            else:
                launch.accelerate_command(launch._own_options(["--accelerate_config", str(path)])[0])
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
