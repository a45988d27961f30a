"""What is measured for run.json, and that the file is never half written."""

import errno
import json
import subprocess

import pytest
import torch

from tamft.errors import InputError
from tamft.train import record


@pytest.mark.parametrize(
    ("options", "backend"),
    [({}, "loop"), ({"foreach": True}, "foreach"), ({"foreach": False}, "loop"), ({"fused": True}, "fused")],
)
def test_optimizer_facts(options, backend):
    parameter = torch.nn.Parameter(torch.ones(3, 5))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, **options)
    parameter.sum().backward()
    optimizer.step()
    facts = record.optimizer_facts(optimizer)
    assert (facts["backend"], facts["state_bytes"]) == (backend, 2 * 15 * 4 + 4)
    assert facts["args"]["betas"] == (0.9, 0.999)


def test_a_backend_of_its_own_wins():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    optimizer.backend = "triton"
    assert record.optimizer_facts(optimizer)["backend"] == "triton"


def test_telemetry_keeps_tamfts_keys_only():
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "tamft/rho": 0.3}, {"step": 2, "train_runtime": 1}]
    assert record.telemetry(history) == [[2, {"rho": 0.3}]]


class Unwritable:
    def __str__(self):
        raise ZeroDivisionError


def test_write_replaces_in_one_move(tmp_path):
    path = tmp_path / "run.json"
    record.write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError):
        record.write_json(path, {"b": 2, "c": Unwritable()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert path.stat().st_mode & 0o044 == 0o044


def test_numbers_that_json_lacks_become_null(tmp_path):
    record.write_json(tmp_path / "x", {"a": [float("nan"), float("inf"), 1.5]})
    assert record.read_json(tmp_path / "x") == {"a": [None, None, 1.5]}


@pytest.mark.parametrize("text", ["{", "", None])
def test_broken_json_reads_as_none(tmp_path, text):
    if text is not None:
        (tmp_path / "x").write_text(text)
    assert record.read_json(tmp_path / "x") is None


@pytest.mark.parametrize("inside", ["file", "file/below", "/proc/nothing/here"])
def test_unwritable(tmp_path, inside):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        record.check_writable(tmp_path / inside)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_writable_leaves_nothing_behind(tmp_path):
    record.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device (x)"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (
            RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file"),
            "disk is full",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (ValueError("other"), None),
    ],
)
def test_disk_error(error, reason):
    found = record.disk_error(error)
    assert (found is None) if reason is None else (reason in found)


def test_disk_error_behind_another():
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as cause:
            raise RuntimeError("saving failed") from cause
    except RuntimeError as error:
        assert record.disk_error(error) == "full"


def test_git_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.git_commit() is None
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "f").write_text("1")
    for words in (["init", "-q"], ["add", "f"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], check=True)
    commit = record.git_commit()
    assert len(commit) == 40
    (tmp_path / "f").write_text("2")
    assert record.git_commit() == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--optim", "adamw", "--prompts", '{"a": "b"}'], 'tamft train r --optim adamw --prompts \'{"a": "b"}\''),
        (["--hub_token", "secret", "--seed", "1"], "tamft train r --hub_token=... --seed 1"),
        (
            ["--seed", "1", "--push_to_hub_token=secret", "--bf16"],
            "tamft train r --seed 1 --push_to_hub_token=... --bf16",
        ),
        (["--hub_token"], "tamft train r --hub_token=..."),
    ],
)
def test_the_command_without_tokens(words, line):
    assert record.command_line("r", words) == line
