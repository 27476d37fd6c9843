"""An ablation over objectives on a real Ray: arms that need a teacher share one, which is trained before they start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gcsearch.ledger import LEDGER_NAME, StudyState, read_events
from gcsearch.training import load_checkpoint

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
coupling: independent
optimizer: {name: lion, lr: 2e-3}
training: {num_images: 1_024, batch_size: 32}
evaluation: {every_images: 512, num_samples: 64, metrics: [fid]}
"""

ABLATION = """\
name: objectives
experiment: tiny
factors:
  objective:
    - original_consistency
    - {name: consistency_distillation, teacher: {num_images: 512, batch_size: 32}}
    - {name: ect, teacher: {name: trained, num_images: 512, batch_size: 32}}
seeds: [0, 1]
resources: {concurrent: 2}
"""


def test_arms_share_one_teacher_and_the_ledger_says_what_it_cost(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "ablation.yaml").write_text(ABLATION)
    ray = Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp"))
    try:
        run = subprocess.run(
            [str(Path(sys.executable).with_name("gcsearch")), "ablate", "ablation.yaml", "--json"],
            cwd=tmp_path,
            env=os.environ | {"RAY_TMPDIR": str(ray), "GCSEARCH_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        shutil.rmtree(ray, ignore_errors=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)
    directory = tmp_path / "studies" / "objectives"
    events = read_events(directory / LEDGER_NAME)
    state = StudyState(events)
    assert [record.state for record in state.trials.values()] == ["completed"] * 8
    (teacher,) = [event for event in events if event["event"] == "teacher"]
    assert (teacher["images"], teacher["forward_units"]) == (512, 3 * 512)
    assert [path.name for path in (tmp_path / "cache" / "teachers").iterdir()] == [teacher["fingerprint"][:16]]
    assert run.stderr.count("Training the teacher") == 1
    digests = {
        record.config["objective"]["name"]: load_checkpoint(
            directory / "trials" / record.trial / "checkpoints" / "latest.pt"
        ).teacher_sha256
        for record in state.trials.values()
    }
    assert digests["consistency"] is digests["original_consistency"] is None
    assert digests["consistency_distillation"] == digests["ect"] is not None
