"""The same over S3's protocol: pyarrow's own client talks to a server on this machine."""

from __future__ import annotations

from pathlib import Path

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, read_events
from gcsearch.storage import Mirror, RemoteStudies


def test_a_study_goes_through_s3(bucket, tmp_path: Path) -> None:
    uri = f"s3://bucket/studies?endpoint_override=127.0.0.1:{bucket.server_address[1]}&scheme=http&region=us-east-1"
    one, two = (RemoteStudies(uri, cache=tmp_path / name) for name in ("one", "two"))
    checkpoint = Path("trials") / "0000" / "checkpoints" / "latest.pt"
    with Mirror(one, "small").running():
        with LedgerWriter(one.local / "small" / LEDGER_NAME) as ledger:
            ledger.append("study_started", study="small")
            ledger.append("trial_started", trial="0000")
        (one.local / "small" / checkpoint).parent.mkdir(parents=True)
        (one.local / "small" / checkpoint).write_bytes(bytes(range(256)) * 50_000)  # several parts
    assert set(bucket.objects) >= {"bucket/studies/small/ledger.jsonl", f"bucket/studies/small/{checkpoint}"}
    assert "bucket/studies/small/lock.json" not in bucket.objects
    assert two.names() == ["small"]
    folder = two.pull("small")
    assert len(read_events(folder / LEDGER_NAME)) == 2
    assert (folder / checkpoint).read_bytes() == bytes(range(256)) * 50_000
    bucket.requests.clear()
    two.pull("small")
    assert not [request for request in bucket.requests if "latest.pt" in request and request.startswith("GET")]
