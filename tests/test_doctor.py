"""`tamft doctor` says what is wrong, what is right, and changes and executes nothing."""

import json
import shutil
import time

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from tamft import registry
from tamft.cli import main
from tamft.doctor import examine, machine
from tamft.doctor.finding import OK, PROBLEM, WARNING
from tests.hf import small

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    small.trainer(folder, "adatamw_msam", **SAVING).train()
    return folder


@pytest.fixture
def checkpoint(run, tmp_path):
    shutil.copytree(run / "checkpoint-4", tmp_path / "checkpoint-4")
    return tmp_path / "checkpoint-4"


@pytest.fixture
def doctor(capsys):
    """Run the command: (exit code, findings)."""

    def call(*words):
        capsys.readouterr()
        code = main(["doctor", *map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def said(findings, what, level=None):
    texts = [f["text"] for f in findings if f["what"] == what and level in (None, f["level"])]
    return "; ".join(texts)


def change_state(checkpoint, change):
    """Load, change and save optimizer.pt."""
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    change(state)
    torch.save(state, checkpoint / "optimizer.pt")


def problems(findings):
    assert all(f["cure"] for f in findings if f["level"] == PROBLEM)
    return [f"{f['what']}: {f['text']}" for f in findings if f["level"] == PROBLEM]


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_good_checkpoint(doctor, checkpoint):
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    code, findings = doctor(checkpoint)
    assert (code, {f["level"] for f in findings}) == (0, {OK})
    assert said(findings, "resume") == "yes: complete, step 4 of 4"
    assert said(findings, "optimizer") == "AdaTAMW, --optim adatamw_msam; 25 weights with state, step 4"
    assert said(findings, "weights").startswith("clean")
    assert said(findings, "model") == "3,650 weights, all finite, float32"
    assert {path: path.read_bytes() for path in checkpoint.iterdir()} == before


@pytest.mark.parametrize("name", [*registry.names(), "adamw_torch", "sgd"])
def test_the_optimizer_is_recognised_without_its_arguments(doctor, tmp_path, name):
    small.trainer(tmp_path, name, **SAVING).train()
    (tmp_path / "checkpoint-4" / "training_args.bin").unlink()
    code, findings = doctor(tmp_path / "checkpoint-4")
    shown = said(findings, "optimizer").partition(";")[0]
    assert code == 0
    if name == "sgd":
        assert shown.startswith("not tamft's")
    else:
        expected = registry.get(name).cls.__name__ if name in registry.names() else "AdamW of torch"
        assert expected in shown.replace(" or ", "|").split("|") or shown == "Adam or AdamW of torch"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("size", [0, -1])
def test_truncated(doctor, checkpoint, file, size):
    path = checkpoint / file
    path.write_bytes(path.read_bytes()[:size])
    code, findings = doctor(checkpoint)
    assert code == 1
    assert [f.partition(":")[0] for f in problems(findings)] == [file, "resume"]
    assert "truncated or damaged" in said(findings, file)


def test_perturbed(doctor, checkpoint):
    change_state(checkpoint, lambda state: state["param_groups"][0].update(moved=True))
    code, findings = doctor(checkpoint)
    assert (code, len(problems(findings))) == (1, 1)
    assert problems(findings)[0].startswith("weights: moved")


def test_state_that_was_cast(doctor, checkpoint):
    def cast(state):
        for entry in state["state"].values():
            entry["exp_avg"] = entry["exp_avg"].bfloat16()

    change_state(checkpoint, cast)
    code, findings = doctor(checkpoint)
    assert (code, problems(findings)) == (1, ["state: cast to 16 bit: exp_avg"])


def test_sixteen_bit_weights_keep_a_clean_copy_in_their_own_type(doctor, tmp_path):
    trainer = small.trainer(tmp_path, "adatamw_msam", optim_args="allow_low_precision=true", **SAVING)
    trainer.model.to(torch.bfloat16)
    trainer.train()
    code, findings = doctor(tmp_path / "checkpoint-4")
    assert (code, "bfloat16" in said(findings, "model")) == (0, True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(doctor, checkpoint, value):
    change_state(checkpoint, lambda state: state["state"][3]["exp_avg_sq"].view(-1)[0:1].fill_(value))
    weights = load_file(checkpoint / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = value
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    code, findings = doctor(checkpoint)
    assert code == 1
    assert said(findings, "state", PROBLEM) == "NaN or infinite: exp_avg_sq"
    assert said(findings, "model", PROBLEM).startswith("NaN or infinite: ")


def test_only_a_model(doctor, tmp_path):
    small.trainer(tmp_path, "adatamw", save_only_model=True, **SAVING).train()
    code, findings = doctor(tmp_path / "checkpoint-4")
    assert (code, "save_only_model" in said(findings, "resume", WARNING)) == (0, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(param_groups=3),
        lambda state: state.update(state=[]),
        lambda state: state["param_groups"].append(1),
        lambda state: state["state"].update({0: {"step": torch.zeros(3)}, 1: 7}),
    ],
)
def test_odd_contents(doctor, checkpoint, change):
    change_state(checkpoint, change)
    assert doctor(checkpoint)[0] in (0, 1)


def test_a_run(doctor, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    code, findings = doctor(tmp_path / "run")
    assert (code, said(findings, "checkpoints")) == (0, "checkpoint-4 is the newest complete one of 2")
    (tmp_path / "run" / "checkpoint-4" / "optimizer.pt").unlink()
    (tmp_path / "run" / "run.json").write_text('{"status": "interrupted", "steps": 3, "optimizer": {"name": "tam"}}')
    code, findings = doctor(tmp_path / "run")
    assert (code, said(findings, "run.json")) == (1, "interrupted, 3 steps with tam")
    assert said(findings, "checkpoints") == "checkpoint-2 is the newest complete one of 2"
    assert "checkpoint-4: optimizer.pt: is missing" in problems(findings)


def test_a_sentence_transformer(doctor, tiny_model, tmp_path):
    assert doctor(tiny_model)[0] == 0
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "modeling_evil.py").write_text("raise SystemExit")
    code, findings = doctor(tmp_path / "model")
    assert (code, "code of its own" in said(findings, "code", WARNING)) == (0, True)


@pytest.fixture
def adapter(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "base")
    BertModel(BertConfig(**{**sizes, "hidden_size": 24}, intermediate_size=32)).save_pretrained(tmp_path / "other")
    model = get_peft_model(BertModel.from_pretrained(tmp_path / "base"), LoraConfig(r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_that_does_nothing(doctor, adapter):
    code, findings = doctor(adapter)
    assert (code, len(problems(findings))) == (1, 1)
    assert problems(findings)[0].startswith("adapter: does nothing: every lora_B is zero")
    assert "fits its base model" in said(findings, "adapter", OK)


def test_an_adapter_that_works_and_one_of_another_model(doctor, adapter):
    weights = {key: torch.ones_like(value) for key, value in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    assert doctor(adapter)[0] == 0
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(adapter.parent / "other")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    code, findings = doctor(adapter)
    assert (code, "1 layers have another size" in problems(findings)[0]) == (1, True)
    renamed = {key.replace("query", "quest"): value for key, value in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    assert "1 layers are not in the base model" in problems(doctor(adapter)[1])[0]


@pytest.mark.parametrize("what", ["none", "file", "empty"])
def test_nothing_to_examine(capsys, tmp_path, what):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / what)]) == 2
    assert capsys.readouterr().err.startswith(f"tamft doctor: error: {tmp_path / what}: ")


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_the_machine(doctor, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, findings = doctor()
    assert code == 0
    for package in ("torch", "transformers", "accelerate", "peft", "sentence-transformers", "mteb"):
        assert said(findings, package)
    assert "path: fused" in said(findings, "cpu")
    assert all(name in said(findings, "optimizers") for name in registry.names())
    assert "HF_HUB_OFFLINE=1" in said(findings, "environment")


@pytest.mark.parametrize(
    ("module", "spec", "level", "words"),
    [
        ("numba_kernels", "numba", OK, ("compiled by numba", "")),
        (None, None, OK, ("pip install 'tamft[numba]'", "")),
        (None, "numba", WARNING, ("does not work here", "pip install -U numba")),
    ],
    ids=["with numba", "without", "with a broken one"],
)
def test_the_cpu_kernels(module, spec, level, words, monkeypatch):
    monkeypatch.setattr(machine.cpu_kernels, "compiled_kernels", lambda: module)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: spec)
    found = machine.compiled()
    assert (found.what, found.level) == ("cpu kernels", level)
    assert words[0] in found.text and words[1] in found.cure


def test_a_version_that_is_too_old(monkeypatch):
    real = machine.importlib.metadata.version
    versions = {"transformers": "4.57.1", "accelerate": "9.9"}
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    found = {finding.what: finding for finding in machine.versions()}
    assert (found["transformers"].level, "pip install 'transformers" in found["transformers"].cure) == (PROBLEM, True)
    assert (found["accelerate"].level, found["torch"].level) == (WARNING, OK)


def test_traps(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    (threads,) = machine.threads()
    assert (threads.level, "--num_cpu_threads_per_process" in threads.cure) == (WARNING, True)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    gpu = list(machine.devices())[-1]
    assert (gpu.level, "570.1" in gpu.text, "CPU build" in gpu.cure) == (WARNING, True, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides it" in list(machine.devices())[-1].cure
    monkeypatch.setattr(machine, "FEW_BYTES", 10**18)
    assert next(machine.disk(tmp_path)).level == WARNING


def test_plain_when_piped_and_a_table_on_a_terminal(capsys, checkpoint, monkeypatch):
    (checkpoint / "scheduler.pt").rename(checkpoint / "scheduler\x1b[31m.pt")
    assert main(["doctor", str(checkpoint)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "problem scheduler.pt: is missing -> resume from another checkpoint, or start anew from the model"
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["doctor", str(checkpoint)]) == 1
    assert "what helps" in capsys.readouterr().out


def test_it_is_quick(checkpoint):
    started = time.perf_counter()
    examine(checkpoint)
    assert time.perf_counter() - started < 2
