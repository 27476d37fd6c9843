"""`gcsearch ablate` and `show` of an ablation, as a user meets them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gcsearch.ablations import Contrast, Plan
from gcsearch.analysis.ablation import ablation_results, write_verdicts
from gcsearch.analysis.results import open_results
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME
from gcsearch.statistics import Margin

from .command import gcsearch
from .test_main import TINY

ABLATION = {
    "name": "small",
    "experiment": "tiny.yaml",
    "baseline": {"coupling": "independent"},
    "factors": {"coupling": ["ot", {"name": "generator", "mu": 0.5}]},
    "seeds": [0, 1, 2],
}
SEEDS = (0, 1, 2, 3, 4)
SCORES = {"baseline": 10.0, "coupling=ot": 9.0, "coupling=generator(mu=0.5)": 10.02, "diverging_100%_&_{x}": math.inf}
IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x1797 | num_samples=64 | sampler=one_step | "
    "quantisation=clip_round_uint8"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(dump_yaml(TINY))
    (tmp_path / "small.yaml").write_text(dump_yaml(ABLATION))
    return tmp_path


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with an ablation of known scores."""
    arms = tuple(SCORES)
    plan = Plan(
        arms=arms,
        contrasts=tuple(Contrast(name=arm, plus=(arm,), minus=(arms[0],), reference=arms[0]) for arm in arms[1:]),
        seeds=SEEDS,
        looks=(5,),
        key="eval/fid",
        lower_is_better=True,
        margin=Margin(value=0.013),
    )
    objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
    events = [
        {
            "event": "study_started",
            "study": "known",
            "objective": objective,
            "keys": ["coupling"],
            "horizon_images": 100,
            "ablation": plan.to_dict(),
        }
    ]
    for index, (arm, score) in enumerate(SCORES.items()):
        for seed in SEEDS:
            trial = f"{index:02d}-s{seed}"
            events.append({"event": "trial_started", "trial": trial, "kind": "arm", "arm": arm, "seed": seed})
            if math.isfinite(score):
                value = score + 0.3 * math.sin(seed) + 0.02 * math.sin(10 * seed + index)
                costs = {"cost/train_seconds": 60.0, "cost/forward_units": 300.0}
                result = {"images": 100, "metrics": {"eval/fid": value} | costs, "identities": {"eval/fid": IDENTITY}}
                events.append({"event": "result", "trial": trial} | result)
            state = "completed" if math.isfinite(score) else "diverged"
            events.append({"event": "trial_ended", "trial": trial, "state": state})
    events.append({"event": "study_ended"})
    home = tmp_path / "studies" / "known"
    home.mkdir(parents=True)
    lines = (json.dumps({"time": "2026-01-01T00:00:00+00:00"} | event) + "\n" for event in events)
    (home / LEDGER_NAME).write_text("".join(lines))
    return tmp_path


def test_a_dry_run_checks_everything_and_starts_nothing(folder):
    before = sorted(folder.rglob("*"))
    done = gcsearch("ablate", "small.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "# 3 arms on 3 seeds: 9 trainings." in done.stdout
    asjson = json.loads(gcsearch("ablate", "small.yaml", "--dry-run", "--json", cwd=folder).stdout)
    assert asjson["arms"] == ["baseline", "coupling=ot", "coupling=generator(mu=0.5)"]
    assert sorted(folder.rglob("*")) == before


def test_a_plan_says_what_the_seeds_can_tell(folder):
    done = gcsearch("plan", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "3 arms on 3 seeds: 9 trainings" in done.stdout
    assert "3 paired seeds tell a contrast apart" in done.stdout
    refused = gcsearch("plan", "small.yaml", "--trials", "5", cwd=folder)
    assert refused.returncode == 2
    assert "--trials is for studies" in refused.stderr


def test_a_mistake_is_one_line_and_exit_code_2(folder):
    (folder / "small.yaml").write_text(dump_yaml(ABLATION | {"factors": {"coupling": ["otter"]}}))
    done = gcsearch("ablate", "small.yaml", cwd=folder)
    assert done.returncode == 2
    assert "otter" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "studies").exists()


def test_show_prints_verdicts_and_arms(finished):
    done = gcsearch("show", "known", cwd=finished)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "better" in rows["coupling=ot"] or "9.0" in rows["coupling=ot"]
    for word in ("better", "equivalent", "diverged on 5", "Without pairing"):
        assert word in done.stdout
    found = json.loads(gcsearch("show", "known", "--json", cwd=finished).stdout)
    ot = found["verdicts"]["coupling=ot"]["equal images"]
    assert ot["verdict"] == "better"
    assert ot["share"]["mean"] == pytest.approx(-0.1, abs=0.005)
    assert found["verdicts"]["coupling=generator(mu=0.5)"]["equal images"]["verdict"] == "equivalent"


def test_verdicts_are_written_for_papers(finished):
    results = open_results("known", finished / "studies")
    markdown, latex = (path.read_text() for path in write_verdicts(results))
    assert markdown.splitlines()[0].startswith("| contrast | verdict |")
    assert "| coupling=ot | better | -9.9 % [" in markdown
    assert r"diverging\_100\%\_\&\_\{x\}" in latex
    assert latex.count(r"\\") == 1 + 3


def test_a_report_of_an_ablation_says_what_differs(finished):
    done = gcsearch("report", "known", "--output", "out", cwd=finished)
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    assert "Of 3 contrasts: 1 better, 1 no different, 1 diverged. The largest gain: coupling=ot, -9.9 %" in " ".join(
        said.split()
    )
    assert (finished / "out" / "report.html").is_file()


def test_a_search_is_no_ablation(finished):
    results = open_results("known", finished / "studies")
    results.state.ablation = None
    with pytest.raises(StudyError, match="is a search, not an ablation"):
        ablation_results(results)
