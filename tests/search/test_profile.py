"""Profiles: files that replay, and what must not be replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery_ir.errors import OutputError, SpecError
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.profile import CompressionProfile

PIPELINES = [
    "canonicalize",
    "canonicalize,prune-weights{ratio=0.8},repair",
    "prune-weights{criterion=magnitude ratio=0.123456789 ratios=[/a/b:0.5 c:0.25] ends=true}",
    'prune-weights{pattern=2:4},prune-weights{ratios=["a b":0.1]},repair{ridge=1e-05}',
]


@pytest.mark.parametrize("text", PIPELINES)
def test_file_holds_all_of_it(text: str, tmp_path: Path) -> None:
    profile = CompressionProfile(parse_pipeline(text), 7, (0.4, 0.4, 0.2), {"fingerprint": "abc"})
    profile.write(tmp_path / "p.yaml")
    assert CompressionProfile.read(tmp_path / "p.yaml") == profile
    assert parse_pipeline(str(profile)) == profile.passes


def test_file_is_one_that_people_write() -> None:
    plain = {"surgery-ir profile": 1, "passes": ["canonicalize", {"prune-weights": {"ratio": 0.5}}]}
    profile = CompressionProfile.from_plain(plain)
    assert str(profile) == str(CompressionProfile(parse_pipeline("canonicalize,prune-weights{ratio=0.5}")))
    assert (profile.seed, profile.shares) == (0, ())


HEAD = "surgery-ir profile: 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a profile"),
        ("a: 1", "not a profile"),
        ("surgery-ir profile: 9", "format 9"),
        (HEAD + "steps: []", "unknown fields steps"),
        (HEAD, "'passes' must be a list"),
        (HEAD + "passes: [3]", "3 is not a pass"),
        (HEAD + "passes: [{a: {}, b: {}}]", "is not a pass"),
        (HEAD + "passes: [{repair: 3}]", "is not a pass"),
        (HEAD + "passes: [nowhere]", "no pass called 'nowhere'"),
        (HEAD + "passes: [{repair: {rigde: 1}}]", "no option 'rigde'"),
        (HEAD + "passes: [{prune-weights: {ratio: 2}}]", "out of range"),
        (HEAD + "passes: []\nseed: -1", "'seed'"),
        (HEAD + "passes: []\nseed: x", "'seed'"),
        (HEAD + "passes: []\ndata_shares: [0]", "'data_shares'"),
        (HEAD + "passes: []\ndata_shares: 1", "'data_shares'"),
        (HEAD + "passes: []\nsource: 1", "'source'"),
        ("{", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_faulty_files_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        CompressionProfile.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SpecError):
        CompressionProfile.read(tmp_path / "p.yaml")


def test_code_runs_only_where_the_profile_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef f(graph): return graph\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + "passes: [{graphsurgeon: {function: 'evil_module:f'}}]")
    with pytest.raises(SpecError, match="runs Python code"):
        CompressionProfile.read(path)
    assert not marker.exists()
    (item,) = CompressionProfile.read(path, trust=True).passes
    assert item.runs_code


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        CompressionProfile(()).write(tmp_path / "none" / "p.yaml")
