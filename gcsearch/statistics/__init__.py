"""What a few seeds can tell: intervals, power, paired comparisons, verdicts."""

from gcsearch.statistics.paired import Comparison, Margin, Paired, bootstrap_interval, compare, paired
from gcsearch.statistics.replicates import (
    CONFIDENCE,
    RETRAINING_NOISE,
    Interval,
    paired_power,
    resolvable_gap,
    resolvable_paired_gap,
    t_interval,
    t_test_power,
    tie_margin,
)
from gcsearch.statistics.verdicts import Judgement, Verdict, judge, spending

__all__ = [
    "CONFIDENCE",
    "RETRAINING_NOISE",
    "Comparison",
    "Interval",
    "Judgement",
    "Margin",
    "Paired",
    "Verdict",
    "bootstrap_interval",
    "compare",
    "judge",
    "paired",
    "paired_power",
    "resolvable_gap",
    "resolvable_paired_gap",
    "spending",
    "t_interval",
    "t_test_power",
    "tie_margin",
]
