"""A file is there whole or not at all."""

import os
import shutil

import pytest

from tamft.atomic import recover_folder, replace_folder, write_atomically


@pytest.mark.parametrize(("content", "expected"), [("é\n", b"\xc3\xa9\n"), (b"\r\n\x00", b"\r\n\x00"), ("", b"")])
def test_the_content_replaces_the_old_one(tmp_path, content, expected):
    path = tmp_path / "a.json"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    # pathlib's replace() ends in os.replace
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.fixture
def folders(tmp_path):
    for name in ("model", ".model.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    return tmp_path / "model", tmp_path / ".model.new"


def test_a_folder_replaces_the_old_one(folders, tmp_path):
    replace_folder(*folders)
    assert (folders[0] / "weights").read_text() == ".model.new"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_whose_successor_cannot_be_moved_is_still_there(folders):
    shutil.rmtree(folders[1])
    with pytest.raises(FileNotFoundError):
        replace_folder(*folders)
    assert (folders[0] / "weights").read_text() == "model"


def test_a_crash_between_the_two_moves_loses_nothing(folders, tmp_path, monkeypatch):
    """Neither the old folder, nor, where the new one is in its place, that one."""
    rename = type(tmp_path).rename

    def stop(path, target):
        if path == folders[1]:
            raise KeyboardInterrupt  # a kill runs no handler for OSError
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(*folders)
    assert not folders[0].exists()
    monkeypatch.undo()
    recover_folder(folders[0])
    assert (folders[0] / "weights").read_text() == "model"
    replace_folder(*folders)
    recover_folder(folders[0])
    assert (folders[0] / "weights").read_text() == ".model.new"
