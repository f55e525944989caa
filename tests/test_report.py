from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from surgery_ir.analysis.cost import LayerCost
from surgery_ir.analysis.fidelity import Fidelity
from surgery_ir.backends.scores import Score
from surgery_ir.graph.edits import Connections, Edit
from surgery_ir.passes.base import Refusal
from surgery_ir.report import Candidate, Latencies, Measurement, Report, Search, compare_layers, render_html
from surgery_ir.report.plot import Point, scatter
from surgery_ir.report.text import against, change, file_size, ratio, score

NUMBER = (int, float)
MAYBE = (int, float, type(None))
METRIC = {"name": str, "value": MAYBE, "samples": int}
MEASUREMENT = {"params": int, "nonzeros": int, "bytes": int, "macs": MAYBE, "latency_ms": MAYBE, "metric": METRIC}
CHANGED = {"pruned": int, "created": int, "plasticity": NUMBER}
LAYER = {"params": int, "nonzeros": int, "macs": MAYBE}
FIELDS: dict[str, Any] = {
    "model": str,
    "baseline": MEASUREMENT,
    "compressed": MEASUREMENT,
    "ratios": {"params": MAYBE, "nonzeros": MAYBE, "bytes": MAYBE, "macs": MAYBE, "latency_ms": MAYBE},
    "fidelity": {"kl": MAYBE, "top1_agreement": MAYBE, "max_abs": MAYBE},
    "plasticity": NUMBER,
    "connections": {"pruned": int, "created": int, "passes": dict, "elsewhere": CHANGED},
    "profile": str,
    "policy": dict,
    "edits": dict,
    "refusals": [{"pass": str, "nodes": [str], "reason": str}],
    "pareto": [
        {
            "profile": str,
            "macs": MAYBE,
            "latency_ms": MAYBE,
            "bytes": int,
            "nonzeros": int,
            "metric": METRIC,
            "plasticity": NUMBER,
        }
    ],
    "search": {
        "evaluated": int,
        "refused": int,
        "failed": int,
        "seconds": NUMBER,
        "seed": int,
        "optimizer": str,
        "cut_short": int,
    },
    "verified": dict,
    "layers": [{"name": str, "op_type": str, "baseline": LAYER, "compressed": LAYER, **CHANGED}],
    "provider": str,
    "baseline_provider": str,
    "latencies_ms": {"baseline": dict, "compressed": dict},
    "versions": dict,
}
"""Field by field what the JSON form holds; others read it, so a change here is a change of an interface."""


def mismatch(value: Any, wanted: Any, where: str = "report") -> list[str]:
    """Say where ``value`` differs from the fields ``wanted``."""
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return [f"{where} is {type(value).__name__}"]
        odd = [f"{where}.{key}" for key in sorted(value.keys() ^ wanted.keys())]
        return odd + [
            text for key in value.keys() & wanted.keys() for text in mismatch(value[key], wanted[key], f"{where}.{key}")
        ]
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return [f"{where} is {type(value).__name__}"]
        return [text for item in value for text in mismatch(item, wanted[0], f"{where}[]")]
    right = isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool)
    return [] if right else [f"{where} is {type(value).__name__}"]


def measured(accuracy: float, nonzeros: int, name: str = "accuracy") -> Measurement:
    score = Score(name, accuracy, 500, np.full(500, accuracy))
    return Measurement(1000, nonzeros, 4000 + 12 * nonzeros, 5000, 1.5, score)


@pytest.fixture
def report() -> Report:
    front = [
        Candidate(
            f"prune-weights{{ratio={ratio}}}", 5000, 1.5, 4000, Score("accuracy", value, 64, np.ones(64)), 0.0, left
        )
        for ratio, value, left in ((0.5, 0.92, 500), (0.8, 0.91, 200), (0.9, 0.89, 100))
    ]
    return Report(
        model="model.onnx",
        baseline=measured(0.93, 1000),
        compressed=measured(0.91, 200),
        profile=front[1].profile,
        edits=(Edit("set-weights", "prune-weights", "w", 800, 0), Edit("set-weights", "repair", "w", 0, 4)),
        fidelity=Fidelity(0.01, 0.98, 0.4),
        policy={"genome": [0.1, 0.2]},
        refusals=(Refusal("first and last layers are left dense", ("/stem", "/head"), "prune-weights"),),
        pareto=tuple(front),
        search=Search(40, 2, 1, 61.2, 0, "DiscreteLenglerOnePlusOne"),
        verified={"loads": True},
        layers=compare_layers([LayerCost("/conv", "Conv", 900, 900, 3600, 5000, 5000)],
                              [LayerCost("/conv", "Conv", 900, 150, 3600, 5000, 900)],
                              {"/conv": Connections(750, 3)}),
    )  # fmt: skip


def test_json_holds_every_field_and_no_other(report: Report) -> None:
    assert mismatch(json.loads(json.dumps(report.to_json(), allow_nan=False)), FIELDS) == []


def test_the_field_check_notices_what_is_wrong(report: Report) -> None:
    plain = report.to_json()
    plain["baseline"]["params"] = "many"
    del plain["search"]["seed"]
    plain["pareto"][0]["extra"] = 1
    assert sorted(mismatch(plain, FIELDS)) == [
        "report.baseline.params is str",
        "report.pareto[].extra",
        "report.search.seed",
    ]


def test_derived_numbers(report: Report) -> None:
    plain = report.to_json()
    assert plain["ratios"]["nonzeros"] == 5.0
    assert plain["connections"] == {
        "pruned": 800,
        "created": 4,
        "passes": {
            "prune-weights": {"pruned": 800, "created": 0, "plasticity": 0.0},
            "repair": {"pruned": 0, "created": 4, "plasticity": 4 / 800},
        },
        "elsewhere": {"pruned": 50, "created": 1, "plasticity": 1 / 800},
    }
    (layer,) = plain["layers"]
    assert (layer["pruned"], layer["created"], layer["plasticity"]) == (750, 3, 3 / 800)
    assert plain["plasticity"] == report.plasticity == 4 / 800
    assert plain["edits"] == {"prune-weights": {"set-weights": 1}, "repair": {"set-weights": 1}}
    assert {"surgery-ir", "onnx", "onnxruntime", "numpy", "nevergrad"} <= plain["versions"].keys()


def test_page_shows_where_connections_were_created(report: Report) -> None:
    page = render_html(report.to_json())
    (section,) = re.findall("<h2>Plasticity, layer by layer</h2>.*?</table>", page)
    rows = [re.findall("<td.*?>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    assert [row[:4] for row in rows] == [["/conv", "750", "3", "0.00375"], ["elsewhere", "50", "1", "0.00125"]]
    assert re.findall('width="(.*?)"', rows[0][4]) == ["100.00", "0.40"]
    assert re.findall('width="(.*?)"', rows[1][4]) == ["6.67", "0.13"]
    (applied,) = re.findall("<h2>What was applied</h2>.*?</table>", page)
    assert re.findall("<td.*?>(.*?)</td>", applied)[-5:] == ["repair", "1 set-weights", "0", "4", "0.005"]


def test_two_providers_are_told_apart(report: Report) -> None:
    times = {"onnxruntime": 1.5, "sparse": 1.6}
    two = replace(report, latencies=Latencies("sparse", "onnxruntime", times, {"onnxruntime": 1.45, "sparse": 0.25}))
    plain = two.to_json()
    assert plain["provider"] == "sparse"
    assert plain["latencies_ms"]["compressed"]["sparse"] == 0.25
    assert two.latencies.pair() == (1.5, 0.25)
    text = (
        "sparse against the dense model on onnxruntime; "
        "the dense model on sparse takes 1.6 ms, this one on onnxruntime 1.45 ms"
    )
    assert against(plain) == text
    assert f"Latency of {text}." in render_html(plain)


@pytest.mark.parametrize("latencies", [Latencies(), Latencies("sparse"), Latencies(baseline={"onnxruntime": 1.0})])
def test_nothing_is_said_of_one_provider_or_of_what_was_not_timed(report: Report, latencies: Latencies) -> None:
    plain = replace(report, latencies=latencies).to_json()
    assert against(plain) == ""
    assert "Latency of" not in render_html(plain)


def test_page_shows_no_plasticity_where_nothing_was_created(report: Report) -> None:
    pruned = replace(report, edits=report.edits[:1])
    assert "Plasticity, layer by layer" not in render_html(pruned.to_json())


def test_without_search_and_samples_fields_stay_but_are_null(report: Report) -> None:
    bare = replace(
        report,
        baseline=Measurement(10, 10, 100),
        compressed=Measurement(0, 0, 100),
        fidelity=None,
        policy=None,
        search=None,
        pareto=(),
    )
    plain = bare.to_json()
    assert plain.keys() == FIELDS.keys()
    assert plain["baseline"]["metric"] is plain["search"] is plain["policy"] is plain["fidelity"] is None
    assert plain["ratios"] == {"params": None, "nonzeros": None, "bytes": 1.0, "macs": None, "latency_ms": None}


def test_numbers_that_are_not_finite_become_null(report: Report) -> None:
    spoiled = replace(report, fidelity=Fidelity(float("nan"), 0.5, float("inf")), verified={"x": [float("-inf")]})
    plain = spoiled.to_json()
    json.dumps(plain, allow_nan=False)
    assert plain["fidelity"] == {"kl": None, "top1_agreement": 0.5, "max_abs": None}
    assert plain["verified"] == {"x": [None]}


def test_layers_are_joined_by_name() -> None:
    before = [LayerCost("a", "Conv", 9, 9, 36, 90, 90), LayerCost("gone", "BatchNormalization", 4, 4, 16, 0, 0)]
    after = [LayerCost("a", "Conv", 9, 3, 36, 90, 30), LayerCost("new", "Gemm", 5, 5, 20, 5, 5)]
    joined = compare_layers(before, after)
    assert [(row.name, row.baseline is not None, row.compressed is not None) for row in joined] == [
        ("a", True, True),
        ("gone", True, False),
        ("new", False, True),
    ]


def test_a_layer_that_gained_a_bias_keeps_no_more_than_all(report: Report) -> None:
    layers = compare_layers([LayerCost("a", "Conv", 9, 9, 36, 90, 90)], [LayerCost("a", "Conv", 10, 10, 40, 90, 90)])
    page = render_html(replace(report, layers=layers).to_json())
    assert "100.00 %" in page
    assert "111.11 %" not in page


class _Tags(HTMLParser):
    """Collects tags and attributes, and checks that every element is closed in order."""

    VOID = ("meta", "rect", "line", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> _Tags:
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_page_stands_alone(report: Report) -> None:
    page = render_html(report.to_json())
    tags = parsed(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags.tags}
    assert not any(key in ("src", "href", "srcset") or key.startswith("on") for _, attrs in tags.tags for key in attrs)
    assert "url(" not in page
    assert "http" not in page
    assert [attrs.get("class") for tag, attrs in tags.tags if tag == "circle"].count("dot chosen") == 1
    assert len([tag for tag, _ in tags.tags if tag == "circle"]) == 3


def test_page_escapes_names_from_the_model(report: Report) -> None:
    evil = "</title><script>alert('x')</script>\"&"
    spoiled = replace(
        report,
        model=evil,
        profile=evil,
        refusals=(Refusal(evil, (evil,), evil),),
        layers=compare_layers([LayerCost(evil, evil, 9, 9, 9, 9, 9)], []),
        pareto=tuple(replace(item, profile=evil) for item in report.pareto),
        edits=(Edit(evil, evil, evil, 1, 1),),
    )
    page = render_html(spoiled.to_json())
    assert "<script" not in page
    assert page.count(evil) == 0
    parsed(page)


def test_page_of_a_report_without_search_leaves_sections_out(report: Report) -> None:
    bare = replace(report, pareto=(), search=None, refusals=(), layers=(), fidelity=None, policy=None)
    headings = re.findall("<h2>(.*?)</h2>", render_html(bare.to_json()))
    assert headings == ["What was applied", "Plasticity, layer by layer"]


@pytest.mark.parametrize("ys", [[0.5], [0.5, 0.5], [0.0, 0.0], [-1e-9, 1e9]])
def test_plot_of_degenerate_points(ys: list[float]) -> None:
    svg = scatter([Point(y, y, "") for y in ys], "x", "y")
    assert "nan" not in svg
    assert svg.count("<circle") == len(ys)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_349_452, "1.35 MB"), (999_600, "1 MB"), (None, "–")],
)
def test_file_sizes(size: int | None, text: str) -> None:
    assert file_size(size) == text


def test_metrics_read_as_what_they_are() -> None:
    share, custom = {"name": "accuracy", "value": 0.91}, {"name": "my:psnr", "value": 31.25}
    assert (score(share), score(custom), score(None)) == ("91.00 %", "31.25", "–")
    assert change(share, {**share, "value": 0.905}) == "-0.50 points"
    assert change(custom, {**custom, "value": 30.0}) == "-1.25"
    assert (ratio(4.0), ratio(None)) == ("4.00×", "–")
