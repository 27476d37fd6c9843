"""`gcsearch report`: where the files are, and what is said when there is nothing to report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcsearch.ledger import LEDGER_NAME
from gcsearch.tuning.replay import simulate

from .command import gcsearch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small study in `studies/small`."""
    ledger = simulate(
        {"mu": {"min": 0.0, "max": 1.0}},
        {"sampler": "random"},
        "none",
        lambda params, images: params["mu"] + 100 / images,
        goal="minimize",
        horizon_images=200,
        budget_images=800,
        num_workers=1,
        seed=0,
    )
    path = tmp_path / "studies/small" / LEDGER_NAME
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in ledger.events))
    return tmp_path


def test_a_report_says_the_answer_and_where_it_is(folder):
    done = gcsearch("report", "small", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["page"] == "reports/simulation/report.html"
    assert said["answer"].startswith("Best trial: ")
    for path in [said["page"], *said["figures"], *said["tables"]]:
        assert (folder / path).stat().st_size > 100
    assert {Path(path).stem for path in said["tables"]} == {"trials", "curves", "costs"}


def test_an_unknown_study_is_one_line(folder):
    done = gcsearch("report", "smal", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: study 'smal': there is no such study in studies/. Known: simulation."
    assert not (folder / "reports").exists()


def test_an_output_that_is_a_file_is_refused(folder):
    (folder / "taken").write_text("mine")
    done = gcsearch("report", "small", "--output", "taken", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: report: --output must be a folder, got the file taken. Name another one."
    assert (folder / "taken").read_text() == "mine"


@pytest.mark.slow
def test_sync_puts_the_report_on_the_studys_run_once(folder):
    from gcsearch.tracking.store import Store

    uri = f"sqlite:///{folder}/other.db"
    for _ in range(2):
        done = gcsearch("sync", "small", "--tracking", uri, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "events and figures of simulation are in" in done.stdout
        store = Store(uri, "simulation", folder)
        (study,) = (run for run in store.runs() if run.data.tags["gcsearch.kind"] == "study")
        pictures = [file.path for file in store.client.list_artifacts(study.info.run_id, "figures")]
        assert "figures/curves_by_arm.png" in pictures
        assert len(pictures) == len(set(pictures))
        names = [file.path for file in store.client.list_artifacts(study.info.run_id)]
        assert sorted(names) == ["figures", "leaderboard.json", "report.html"]
    page = Path(store.client.download_artifacts(study.info.run_id, "report.html")).read_text()
    gcsearch("report", "small", cwd=folder)
    assert page == (folder / "reports/simulation/report.html").read_text()
