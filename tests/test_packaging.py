"""The layout: three top-level folders, packaged inside ``surgery_ir`` and linked there for the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest

import surgery_ir

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("backends", "frontends", "passes")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders(folder: Path, name: str) -> Iterator[str]:
    """Dotted names of the folders below ``folder`` that hold Python files; links and other distributions left out."""
    if any(folder.glob("*.py")):
        yield name
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink() and not (child / "pyproject.toml").exists():
            yield from package_folders(child, f"{name}.{child.name}")


def packages_on_disk() -> set[str]:
    own = set(package_folders(ROOT / "surgery_ir", "surgery_ir"))
    return own.union(*(package_folders(ROOT / name, f"surgery_ir.{name}") for name in LINKED))


def product_files() -> set[str]:
    """What a wheel must hold, seen from its top level."""
    found = {"surgery_ir/py.typed"}
    for package in packages_on_disk():
        inside = package.replace(".", "/")
        found |= {f"{inside}/{file.name}" for file in (ROOT / inside).glob("*.py")}
    return found


def build(step: str, source: Path, out: Path) -> Path:
    """Run one step of the build backend (PEP 517, PEP 660) in ``source``, without a network."""
    out.mkdir()
    code = f"import setuptools.build_meta as backend; print(backend.{step}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def run_outside(site: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where only ``site`` offers surgery_ir: no working folder, no ``.pth`` file but those of ``site``."""
    dependencies = sysconfig.get_path("purelib")
    start = f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({dependencies!r})"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{start}\n{code}"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that building leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".venv")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    for name in ("surgery_ir", *LINKED):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build("build_wheel", checkout, checkout.parent / "wheel")


def unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", LINKED)
def test_link_stands_in_the_package(name: str) -> None:
    link = ROOT / "surgery_ir" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_every_package_folder_is_listed_once() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert Counter(listed) == Counter(packages_on_disk())


def test_every_package_folder_has_an_init() -> None:
    assert [name for name in packages_on_disk() if not (ROOT / name.replace(".", "/") / "__init__.py").exists()] == []


def test_wheel_holds_each_module_once_and_nothing_beside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert Counter(names) == Counter(product_files())


def test_wheel_by_way_of_the_source_archive_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build("build_sdist", checkout, tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # absent before Python 3.11.4
        packed.extractall(tmp_path)
    again = build("build_wheel", tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_the_provider_is_a_distribution_of_its_own(checkout: Path, tmp_path: Path) -> None:
    """It lies in a folder of backends, and neither archive holds any of it."""
    assert (ROOT / "backends" / "sparse_ep" / "pyproject.toml").exists()
    with tarfile.open(build("build_sdist", checkout, tmp_path / "sdist")) as packed:
        assert [name for name in packed.getnames() if "sparse_ep" in name] == []
    with zipfile.ZipFile(build("build_wheel", checkout, tmp_path / "built")) as archive:
        assert [name for name in archive.namelist() if "sparse_ep" in name] == []


def test_versions_agree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(metadata).decode())
    assert headers["Name"] == "surgery-ir"
    assert headers["Version"] == surgery_ir.__version__


@pytest.mark.parametrize("step", ["build_wheel", "build_editable"])
def test_installed_package_offers_the_folders_under_its_own_name_only(
    step: str, checkout: Path, tmp_path: Path
) -> None:
    site = unpack(build(step, checkout, tmp_path / "built"), tmp_path / "site")
    source = checkout if step == "build_editable" else site

    found = run_outside(
        site, "".join(f"import surgery_ir.{name} as m; print(m.__file__)\n" for name in LINKED), tmp_path
    )
    assert found.returncode == 0, found.stderr
    files = [Path(line) for line in found.stdout.splitlines()]
    assert all(file.is_relative_to(source) for file in files)
    assert [file.resolve().parent.name for file in files] == list(LINKED)

    for name in LINKED:
        clash = run_outside(site, f"import {name}", tmp_path)
        assert clash.returncode == 1
        assert clash.stderr.rstrip().endswith(f"ModuleNotFoundError: No module named '{name}'")
