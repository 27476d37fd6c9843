"""Whether Ray starts here, or answers where it is said to be."""

from __future__ import annotations

from importlib.metadata import version

from gcsearch.errors import ConfigError, StudyError
from gcsearch.findings import Finding
from gcsearch.tuning.alike import check_nodes
from gcsearch.tuning.cluster import check_address, ray_cluster


def check_ray(address: str | None) -> Finding:
    """Start Ray on this machine, or connect to a cluster and ask all its nodes whether they can run a study.

    Args:
        address: ``auto`` or ``host:port``; None starts one.
    """
    names = f"Ray {version('ray')}"
    try:
        check_address(address)
        with ray_cluster(address) as nodes:
            if address is not None:
                check_nodes()
    except (ConfigError, StudyError) as error:
        return Finding(name="Ray", state="broken", found=f"{names} at {address}", advice=str(error))
    except Exception as error:
        # Ray raises errors of many kinds when it cannot start its processes, and all of them mean the same here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "See the newest folder in /tmp/ray for its logs; free memory and disk space in /tmp are what it needs."
        return Finding(name="Ray", state="broken", found=f"{names} does not start: {reason}", advice=advice)
    total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    where = "starts on this machine" if address is None else f"at {address}, {len(nodes)} node(s), all alike"
    return Finding(name="Ray", state="ok", found=f"{names} {where}: {total['CPU']:g} CPU, {total['GPU']:g} GPU")
