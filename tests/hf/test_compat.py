"""Versions: too old is refused, unknown ones are tried, and a hook that moved is named."""

import tomllib
import warnings

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import trainer

from tamft.errors import InputError
from tamft.hf import compat
from tests.conftest import ROOT
from tests.hf import small

NEWEST = {package: f"{newest}.1" for package, (_, newest) in compat.VERSIONS.items()}
AHEAD = {
    package: f"{Version(newest).major}.{Version(newest).minor + 1}.0"
    for package, (_, newest) in compat.VERSIONS.items()
}


def installed(monkeypatch, **found):
    monkeypatch.setattr(compat, "version", lambda package: {**NEWEST, **found}[package])


def test_the_oldest_are_the_projects_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    bounds = {r.name: s.version for r in map(Requirement, texts) for s in r.specifier if s.operator == ">="}
    for package, (oldest, newest) in compat.VERSIONS.items():
        assert Version(oldest).release[:2] == Version(bounds[package]).release[:2], package
        assert Version(oldest) < Version(newest)


def test_the_tested_versions_are_not_called_unknown():
    with warnings.catch_warnings(action="error"):
        compat.check_versions()


@pytest.mark.parametrize("package", compat.VERSIONS)
def test_an_older_version_is_refused(monkeypatch, package):
    installed(monkeypatch, **{package: "0.1"})
    with pytest.raises(InputError, match=rf"^{package} 0\.1 is too old for tamft: pip install '{package}>="):
        compat.check_versions()


@pytest.mark.parametrize("package", compat.VERSIONS)
def test_an_unknown_version_is_tried(monkeypatch, tmp_path, package):
    installed(monkeypatch, **{package: AHEAD[package]})
    with pytest.warns(UserWarning) as caught:
        compat.check_versions()
    (text,) = {str(warning.message) for warning in caught}
    assert f"tamft was tested with {package} up to" in text and f"this is {AHEAD[package]}" in text
    assert "tamft doctor" in text and "CONTRIBUTING.md" in text and f"pip install '{package}==" in text
    before = small.weights(small.model())
    training = small.trainer(tmp_path, "adatamw")
    training.train()
    assert small.distance(before, small.weights(training.model)) > 0


def test_a_patch_release_is_not_news(monkeypatch):
    installed(monkeypatch)
    with warnings.catch_warnings(action="error"):
        compat.check_versions()


def test_what_is_not_installed_is_not_missed(monkeypatch):
    def version(package):
        if package == "trl":
            raise compat.PackageNotFoundError(package)
        return NEWEST[package]

    monkeypatch.setattr(compat, "version", version)
    with warnings.catch_warnings(action="error"):
        compat.check_versions()


def test_a_hook_that_is_gone_is_named(monkeypatch):
    monkeypatch.delattr(trainer, "DEFAULT_CALLBACKS")
    with pytest.raises(InputError, match=r"has no transformers.trainer.DEFAULT_CALLBACKS, which tamft needs"):
        compat.check_hooks()
