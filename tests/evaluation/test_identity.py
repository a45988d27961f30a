"""A model's identity changes exactly when its scores can change."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tamft.errors import InputError
from tamft.evaluation.identity import folder_digest, identify, relevant_files
from tests.evaluation.adapters import save_adapter


def revision(folder: Path) -> str:
    return identify(str(folder)).revision


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_form(model):
    identity = identify(str(model))
    assert identity.name == "local/model"
    assert re.fullmatch(r"[0-9a-f]{16}", identity.revision)
    assert identity.folder == model.resolve()
    assert identity.base is None


CHANGES = {
    "weights": lambda m: flip_last_byte(m / "model.safetensors"),
    "config": lambda m: edit_json(m / "config.json", layer_norm_eps=1e-5),
    "tokenizer": lambda m: edit_json(m / "tokenizer_config.json", do_lower_case=False),
    "modules": lambda m: (m / "modules.json").write_text((m / "modules.json").read_text() + " "),
    "pooling": lambda m: edit_json(next(m.glob("*Pooling/config.json")), pooling_mode="cls"),
    "prompts": lambda m: edit_json(m / "config_sentence_transformers.json", prompts={"query": "query: "}),
    "maximum length": lambda m: edit_json(m / "sentence_bert_config.json", max_seq_length=8),
    "file nobody knows": lambda m: (m / "extra.json").write_text("{}"),
    "renamed file": lambda m: (m / "tokenizer.json").rename(m / "tokenizer2.json"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes_with_what_scores_depend_on(model, what):
    before = revision(model)
    CHANGES[what](model)
    assert revision(model) != before


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json"),
        *("run.json", ".gitattributes", "checkpoint-10/model.safetensors", ".cache/x.json", "eval/similarity.csv"),
    ],
)
def test_does_not_change_with_leftovers_of_training(model, name):
    before = revision(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    assert revision(model) == before


def test_same_content_elsewhere_is_the_same_revision(model, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "renamed"))
    assert revision(copy) == revision(model)
    assert identify(str(copy)).name == "local/renamed"


def test_same_folder_name_with_other_content_does_not_collide(tiny_model, other_tiny_model, tmp_path):
    from tamft.evaluation.results import Results
    from tests.evaluation.tiny_tasks import TinySTS

    one, two = identify(str(tiny_model)), identify(str(other_tiny_model))
    assert one.name == two.name == "local/model"
    assert one.revision != two.revision
    results = Results(tmp_path)
    assert results.path(one, TinySTS()) != results.path(two, TinySTS())


def test_linked_files_and_folders_count(model, tmp_path):
    pooling = next(model.glob("*Pooling"))
    pooling.rename(tmp_path / "elsewhere")
    pooling.symlink_to(tmp_path / "elsewhere")
    (model / "loop").symlink_to(model)
    files = [f.relative_to(model).as_posix() for f in relevant_files(model)]
    assert f"{pooling.name}/config.json" in files
    assert not [f for f in files if f.startswith("loop")]


# --- remembered hashes ------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How many files were hashed."""
    calls = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: calls.append(a) or real(*a))
    return calls


def make_old(folder: Path) -> None:
    for file in folder.rglob("*"):
        os.utime(file, ns=(10**18, 10**18))


def test_hashes_are_remembered_until_size_or_time_change(model, counted):
    make_old(model)
    first = folder_digest(model)
    files = len(counted)
    assert files == len(relevant_files(model))
    assert folder_digest(model) == first
    assert len(counted) == files
    flip_last_byte(model / "model.safetensors")
    assert folder_digest(model) != first
    assert len(counted) == files + 1


def test_a_file_written_just_now_is_not_remembered(model, counted):
    make_old(model)
    (model / "config.json").touch()
    folder_digest(model)
    files = len(counted)
    folder_digest(model)
    assert len(counted) == files + 1


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_file_of_hashes_costs_only_time(model, tmp_path, content):
    make_old(model)
    first = folder_digest(model)
    path = tmp_path / "cache" / "tamft" / "hashes.json"
    assert path.exists()
    path.write_bytes(content)
    assert folder_digest(model) == first
    assert len(json.loads(path.read_text())) == len(relevant_files(model))
    assert not list(path.parent.glob("*.tmp"))


def test_an_unwritable_cache_folder_costs_only_time(model, tmp_path, monkeypatch):
    first = folder_digest(model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make_old(model)
    assert folder_digest(model) == first


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sentence-transformers", "peft"])
def test_an_adapters_revision_includes_its_base(model, tmp_path, kind):
    adapter = save_adapter(model, tmp_path / "lora", kind=kind)
    before = identify(str(adapter))
    assert before.name == "local/lora"
    assert before.base is not None
    assert before.base.revision == revision(model)
    assert before.revision != revision(model)
    edit_json(model / "config.json", layer_norm_eps=1e-5)
    after = identify(str(adapter))
    assert after.revision != before.revision
    flip_last_byte(adapter / "adapter_model.safetensors")
    assert revision(adapter) != after.revision


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "names no base_model_name_or_path"),
        ("/nowhere/at/all", "base model cannot be used: model '/nowhere/at/all': no such folder"),
        ("SELF", "is an adapter too"),
    ],
)
def test_adapters_without_a_usable_base(model, tmp_path, base, message):
    adapter = save_adapter(model, tmp_path / "lora", kind="peft")
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(adapter) if base == "SELF" else base)
    with pytest.raises(InputError, match=re.escape(message)):
        identify(str(adapter))


# --- folders that are no model, or not whole --------------------------------------------------------------------------


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "no markers": (
        lambda m: [(m / n).unlink(missing_ok=True) for n in ("modules.json", "config.json")],
        "not a model folder",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "has no weights"),
    "last byte gone": (
        lambda m: cut(m / "model.safetensors", (m / "model.safetensors").stat().st_size - 1),
        "is damaged: it should have",
    ),
    "cut in the header": (lambda m: cut(m / "model.safetensors", 100), "is damaged: its header should be"),
    "empty weights": (lambda m: cut(m / "model.safetensors", 0), "is damaged: it has 0 bytes"),
    "a byte too many": (
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes() + b"x"),
        "is damaged: it should have",
    ),
    "header of noise": (
        lambda m: (m / "model.safetensors").write_bytes(b"\x04" + bytes(7) + b"abcd"),
        "its header cannot be read",
    ),
    "LFS pointer": (
        lambda m: (m / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "Git LFS pointer",
    ),
    "shard missing": (
        lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        "model-2.safetensors is missing",
    ),
    "broken modules.json": (lambda m: (m / "modules.json").write_text("["), "modules.json is not valid JSON"),
    "code of its own": (
        lambda m: (m / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]'),
        "'evil.Module' needs Python code",
    ),
    "another kind": (
        lambda m: edit_json(m / "config_sentence_transformers.json", model_type="CrossEncoder"),
        "this is a CrossEncoder",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_folders(model, what):
    damage, message = DAMAGE[what]
    damage(model)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        identify(str(model))
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_model(model, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/at/all.*no such folder"):
        identify("nowhere/at/all")
    with pytest.raises(InputError, match="this is a file"):
        identify(str(model / "config.json"))
    with pytest.raises(InputError, match=re.escape(f"did you mean {model}")):
        identify(str(model.parent))  # a run folder: the model is inside
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="save_pretrained"):
        identify(str(tmp_path / "empty"))


# --- the Hub (from its local cache: tests have no network) ------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """A Hub cache that holds acme/tiny."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(model, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def test_a_hub_model_is_its_name_at_its_commit(hub):
    identity = identify("acme/tiny")
    assert (identity.name, identity.revision, identity.folder) == ("acme/tiny", COMMIT, None)


def test_a_hub_adapter_is_known_as_one(hub, model, tmp_path):
    save_adapter(model, hub / "snapshots" / COMMIT, kind="peft")
    identity = identify("acme/tiny")
    assert (identity.name, identity.revision) == ("acme/tiny", COMMIT)
    assert identity.base is not None
    assert identity.base.revision == revision(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme/other", "not in the local Hub cache"),
        ("sentence-transformers/all-MiniLM-L6-v2", "--revision 8b3219a92973c328a8e22fadcfa821b5dc75636a"),
        ("openai/text-embedding-3-small", "a program of its own"),
        ("all-MiniLM-L6-v2", "organization/model"),
    ],
)
def test_hub_models_that_cannot_be_had(hub, name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        identify(name)
