"""The page on which a study opens: diagnostics get a section where they were recorded."""

from __future__ import annotations

from typing import Any

from gcsearch.ledger import StudyState
from gcsearch.tracking.view import study_page

TIME = "2026-01-01T00:00:00+00:00"


def page_of(metrics: dict[str, float]) -> dict[str, Any]:
    events: list[dict[str, Any]] = [
        {"event": "study_started", "study": "mu"},
        {"event": "trial_started", "trial": "0000"},
        {"event": "result", "trial": "0000", "images": 1_000, "metrics": {"eval/fid": 1.0, **metrics}},
    ]
    return study_page(StudyState({"time": TIME, **event} for event in events))


def test_recorded_diagnostics_are_drawn_in_a_section_of_their_own():
    page = page_of({"diagnostics/transport_cost": 2.0, "diagnostics/gradient_variance": 3.0})
    assert "diagnostics" in [section["uuid"] for section in page["compareRunSections"]]
    charts = [chart for chart in page["compareRunCharts"] if chart["metricSectionId"] == "diagnostics"]
    assert [chart["metricKey"] for chart in charts] == ["diagnostics/gradient_variance", "diagnostics/transport_cost"]
    assert {chart["scaleType"] for chart in charts} == {"log"}


def test_a_study_without_diagnostics_has_no_such_section():
    page = page_of({})
    assert "diagnostics" not in [section["uuid"] for section in page["compareRunSections"]]
    assert all(chart["metricSectionId"] != "diagnostics" for chart in page["compareRunCharts"])
