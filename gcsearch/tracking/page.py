"""The page on which a study opens in MLflow: what it shows is a tag of the experiment, named in the address.

MLflow's own page starts with the runs in order of creation, no scores, ten of the runs and thirty small charts. MLflow
lets people share their arrangement of that page, which it keeps as JSON in a tag of the experiment; so we share ours. A
version of MLflow that does not know the tag shows its own page instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

PAGE_KEY: Final = "gcsearch"
PAGE_TAG: Final = f"mlflow.sharedViewState.{PAGE_KEY}"

CURVES: Final = ("best/fid", "eval/fid_online", "eval/fid_2step", "eval/kid", "train/loss", "train/grad_norm")
COSTS: Final = ("schedule/num_levels", "progress/images_per_second", "cost/train_seconds", "cost/forward_units")
LOG_SCALE: Final = ("eval/", "best/", "train/", "diagnostics/")


def page(
    metric: str,
    params: Sequence[str],
    *,
    shared_params: Sequence[str],
    step: int,
    lower_is_better: bool = True,
    diagnostics: Sequence[str] = (),
) -> dict[str, Any]:
    """Arrangement of the page: runs by score, the curves of the objective, what varies against it, sample grids.

    Args:
        metric: Objective of the study, e.g. ``eval/fid``.
        params: Short names of what varies.
        shared_params: Those that every trial has: MLflow's parallel coordinates leave out runs without a value.
        step: Step at which sample grids are compared first.
        lower_is_better: Whether the smallest value is on top.
        diagnostics: Metrics to draw in a section of their own.
    """
    parallel = _chart("PARALLEL", "main", "what varies", selectedParams=[*shared_params], selectedMetrics=[metric])
    images = _chart("IMAGE", "samples", "samples", imageKeys=["samples"], step=step, showRunParams=False)
    others = [name for name in CURVES if name != metric]
    return {
        "searchFilter": "tags.`gcsearch.kind` != 'study'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": lower_is_better,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            f"metrics.`{metric}`",
            *(f"params.`{name}`" for name in params),
            "tags.`gcsearch.state`",
        ],
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": [
            _section("main", "objective", columns=2, height=440),
            _section("samples", "samples (same latents in every run)", columns=1, height=560),
            _section("curves", "other curves", columns=3, height=320),
            *([_section("diagnostics", "diagnostics of the coupling", columns=3, height=320)] if diagnostics else []),
            _section("costs", "cost and schedule", columns=3, height=320),
        ],
        "compareRunCharts": [
            _line(metric, "main"),
            *([parallel] if shared_params else []),
            images,
            *(_line(name, "curves") for name in others),
            *(_line(name, "diagnostics") for name in diagnostics),
            *(_line(name, "costs") for name in COSTS),
        ],
    }


def _section(uuid: str, name: str, *, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": height,
    }


def _chart(kind: str, section: str, name: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{section}-{name}",
        "metricSectionId": section,
        "displayName": name,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        **settings,
    }


def _line(metric: str, section: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        section,
        metric,
        metricKey=metric,
        selectedMetricKeys=[metric],
        scaleType="log" if metric.startswith(LOG_SCALE) else "linear",
        xAxisScaleType="linear",
        xAxisKey="step",
        yAxisKey="metric",
        selectedXAxisMetricKey="",
        yAxisExpressions=[],
        range={},
        lineSmoothness=0,
        displayPoints=True,
        ignoreOutliers=False,
        useGlobalLineSmoothing=True,
        useGlobalXaxisKey=True,
    )
