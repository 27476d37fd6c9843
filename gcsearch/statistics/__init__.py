"""What a few seeds can tell: intervals, power, paired comparisons, verdicts."""

from gcsearch.statistics.components import Components, Estimate, crossed_components, spread
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
from gcsearch.statistics.verdicts import ALPHA, Judgement, Verdict, judge, spending

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "RETRAINING_NOISE",
    "Comparison",
    "Components",
    "Estimate",
    "Interval",
    "Judgement",
    "Margin",
    "Paired",
    "Verdict",
    "bootstrap_interval",
    "compare",
    "crossed_components",
    "judge",
    "paired",
    "paired_power",
    "resolvable_gap",
    "resolvable_paired_gap",
    "spending",
    "spread",
    "t_interval",
    "t_test_power",
    "tie_margin",
]
