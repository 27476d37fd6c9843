"""Can early rungs be trusted: does a rung rank trials as the last one does?

Kendall's tau between the scores at a rung and those at the horizon. Only full-length trials have both, and most of them
are full-length because they did well early: among such survivors tau is smaller than among all. Audit trials, which the
stopping rule may not stop, put that right: those that it would have stopped stand for all that it did stop. With
several objectives each has its own tau, and the rule compares places on their fronts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gcsearch.analysis.results import StudyResults
from gcsearch.ledger import TrialRecord
from gcsearch.pareto import places
from gcsearch.statistics import CONFIDENCE

GOOD: Final = 0.5
"""Tau from which on a rung is trusted: of four pairs of trials, it puts three in the right order."""

BAD: Final = 0.3
"""Tau below which a rung misleads."""

MIN_TRIALS: Final = 6
NUM_RESAMPLES: Final = 1000

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RungFidelity:
    """How well one rung ranks.

    Attributes:
        images: The rung.
        tau: Kendall's tau-b with the last rung, pairs weighted as said in `weighted_tau`.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        num_trials: Trials with both scores.
        num_audits: Audits among them.
        num_stopped: Trials that got to this rung and were stopped there or later.
        is_unbiased: Whether nothing was stopped, or audits stand for what was.
        decides: Whether the stopping rule decides here.
        misranked: Parameter whose effect is the other way round at this rung, if one stands out.
    """

    images: int
    tau: float
    low: float
    high: float
    num_trials: int
    num_audits: int
    num_stopped: int
    is_unbiased: bool
    decides: bool
    misranked: str | None


@dataclass(frozen=True, kw_only=True)
class RankFidelity:
    """How well the rungs of a study rank.

    Attributes:
        metric: The objective by which trials are ranked, e.g. ``fid``.
        rungs: Those with enough trials, increasing.
        is_unbiased: Whether all of them are.
        advice: What to do about it, in words.
    """

    metric: str
    rungs: tuple[RungFidelity, ...]
    is_unbiased: bool
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        rungs = [asdict(rung) for rung in self.rungs]
        return {"metric": self.metric, "rungs": rungs, "is_unbiased": self.is_unbiased, "advice": self.advice}


def weighted_tau(
    first: Sequence[float], last: Sequence[float], weights: Sequence[float], groups: Sequence[Any]
) -> float:
    """Kendall's tau-b over pairs inside a group, each with the product of its trials' weights; NaN without a pair.

    tau = sum w_i w_j s(x_i - x_j) s(y_i - y_j) / sqrt(sum w_i w_j s(x_i - x_j)^2  sum w_i w_j s(y_i - y_j)^2)
    """
    return float(_taus(first, last, np.asarray([weights], dtype=np.float64), groups)[0])


def _taus(first: Sequence[float], last: Sequence[float], weights: Array, groups: Sequence[Any]) -> Array:
    """Tau for each row of weights. Ranks in place of scores, so that infinite ones may be compared."""
    codes = np.unique([str(group) for group in groups], return_inverse=True)[1]
    same = codes[:, None] == codes[None, :]
    early, late = (np.sign(np.subtract.outer(rank, rank)) * same for rank in (rankdata(first), rankdata(last)))

    def total(pairs: Array) -> Array:
        return np.asarray(((weights @ pairs) * weights).sum(axis=1))

    with np.errstate(invalid="ignore"):
        taus: Array = total(early * late) / np.sqrt(total(early**2) * total(late**2))
    return taus


def rank_fidelities(results: StudyResults) -> list[RankFidelity]:
    """Fidelity of a study's rungs by each of its objectives."""
    return [rank_fidelity(one) for one in results.by_objective()]


def rank_fidelity(results: StudyResults) -> RankFidelity:
    """Fidelity of every rung of a study before the last, by the objective that the results' scores are of.

    Trials are compared inside the groups in which the stopping rule compares them.
    """
    horizon = int(results.state.study["horizon_images"])
    records = [record for record in results.searched() if record.state not in ("failed", "running")]
    images = sorted({result.images for record in records for result in record.results if result.images < horizon})
    decisive = set(results.state.study.get("stopping_rungs", ()))
    table = _Scores(results, records, horizon)
    found = [rung for one in images if (rung := table.fidelity(one, one in decisive)) is not None]
    is_unbiased = all(rung.is_unbiased for rung in found)
    return RankFidelity(
        metric=results.objective["metric"],
        rungs=tuple(found),
        is_unbiased=is_unbiased,
        advice=_advice(found, table.num_full),
    )


class _Scores:
    """Scores of a study's trials with lower always better."""

    def __init__(self, results: StudyResults, records: Sequence[TrialRecord], horizon: int) -> None:
        self.results = results
        self.records = records
        self.horizon = horizon
        self.within = results.state.study.get("within")
        self.full = [record for record in records if self.final(record) is not None]
        self.num_full = len(self.full)
        self._compared: dict[tuple[int, Any], dict[str, float]] = {}

    def at(self, record: TrialRecord, images: int) -> float | None:
        """Loss at a rung."""
        return _loss(record, images, self.results.objective)

    def final(self, record: TrialRecord) -> float | None:
        """Loss at the horizon; the worst if it diverged on the way."""
        return math.inf if record.state == "diverged" else self.at(record, self.horizon)

    def group(self, record: TrialRecord) -> Any:
        """Trials are compared with those of the same group."""
        return record.params.get(self.within) if self.within else None

    def would_stop(self, audit: TrialRecord) -> bool:
        """Whether an audit was worse, at a rung where the rule decides, than every ordinary trial that went on."""
        for images in self.results.state.study.get("stopping_rungs", ()):
            compared = self.compared(images, self.group(audit))
            own = compared.get(audit.trial)
            others = [
                compared[record.trial]
                for record in self.records
                if not record.is_audit and record.images > images and record.trial in compared
            ]
            if own is not None and others and own > max(others):
                return True
        return False

    def compared(self, images: int, group: Any) -> dict[str, float]:
        """What the rule compares at a rung: losses, with several objectives places among the group's trials."""
        if (images, group) not in self._compared:
            records = [record for record in self.records if self.group(record) == group]
            losses = {
                record.trial: [loss for loss in found if loss is not None]
                for record in records
                if None not in (found := [_loss(record, images, one) for one in self.results.objectives])
            }
            if not self.results.has_front:
                self._compared[images, group] = {trial: loss for trial, [loss] in losses.items()}
            else:
                order = places(list(losses.values())).tolist()
                self._compared[images, group] = dict(zip(losses, order, strict=True))
        return self._compared[images, group]

    def fidelity(self, images: int, decides: bool) -> RungFidelity | None:
        """Fidelity of one rung; None with too few trials."""
        full = [record for record in self.full if self.at(record, images) is not None]
        if len(full) < MIN_TRIALS:
            return None
        done = {record.trial for record in self.full}
        held = [record for record in self.records if record.trial not in done and record.images >= images]
        stand_ins = [record.is_audit and self.would_stop(record) for record in full] if held else [False] * len(full)
        weight = 1 + len(held) / max(1, sum(stand_ins))
        weights = [weight if stands_in else 1.0 for stands_in in stand_ins]
        early = [self.at(record, images) or 0.0 for record in full]
        late = [loss if (loss := self.final(record)) is not None else 0.0 for record in full]
        groups = [self.group(record) for record in full]
        tau = weighted_tau(early, late, weights, groups)
        if math.isnan(tau):
            return None
        low, high = _interval(early, late, weights, groups, stand_ins)
        return RungFidelity(
            images=images,
            tau=tau,
            low=low,
            high=high,
            num_trials=len(full),
            num_audits=sum(record.is_audit for record in full),
            num_stopped=len(held),
            is_unbiased=not held or any(stand_ins),
            decides=decides,
            misranked=_misranked(full, early, late, weights) if tau < BAD else None,
        )


def _loss(record: TrialRecord, images: int, objective: Mapping[str, Any]) -> float | None:
    value = record.value_at(objective["key"], images)
    return None if value is None else value if objective["goal"] == "minimize" else -value


def _interval(
    early: Sequence[float],
    late: Sequence[float],
    weights: Sequence[float],
    groups: Sequence[Any],
    strata: Sequence[bool],
) -> tuple[float, float]:
    """Percentile bootstrap of trials, those that stand for stopped ones on their own."""
    random = np.random.default_rng(0)
    counts = np.zeros((NUM_RESAMPLES, len(early)))
    for stratum in (False, True):
        members = [index for index, one in enumerate(strata) if one == stratum]
        if members:
            share = np.full(len(members), 1 / len(members))
            counts[:, members] = random.multinomial(len(members), share, size=NUM_RESAMPLES)
    taus = _taus(early, late, counts * np.asarray(weights), groups)
    taus = taus[np.isfinite(taus)]  # a resample of one trial alone has no pair
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(taus, [tail, 1 - tail])
    return float(low), float(high)


def _misranked(
    records: Sequence[TrialRecord], early: Sequence[float], late: Sequence[float], weights: Sequence[float]
) -> str | None:
    """The parameter whose effect on the score is the other way round at a rung than at the end, most clearly."""
    worst, found = 0.5, None
    for key in dict.fromkeys(key for record in records for key in record.params):
        known = [index for index, record in enumerate(records) if key in record.params]
        values = [records[index].params[key] for index in known]
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        for option in (None,) if is_number else dict.fromkeys(map(str, values)):
            column = [float(value if option is None else str(value) == option) for value in values]
            effects = [
                weighted_tau(column, [losses[i] for i in known], [weights[i] for i in known], [None] * len(known))
                for losses in (early, late)
            ]
            if effects[0] * effects[1] < 0 and abs(effects[0] - effects[1]) > worst:
                worst, found = abs(effects[0] - effects[1]), key
    return found


def _advice(rungs: Sequence[RungFidelity], num_full: int) -> str:
    if not rungs:
        return (
            f"{num_full} full-length trials are too few to tell whether early rungs can be trusted; {MIN_TRIALS} are "
            "needed. stopping.audit adds some."
        )
    trusted = next(
        (rung.images for index, rung in enumerate(rungs) if all(later.tau >= GOOD for later in rungs[index:])), None
    )
    deciding = [rung for rung in rungs if rung.decides]
    if not deciding:
        if trusted is None:
            return "No rung ranks like the last one: stopping early would mislead."
        return f"A stopping rule could begin at {_short(trusted)} images."
    for rung in deciding:
        if rung.tau < BAD and (rung.is_unbiased or rung.high < BAD):
            what = f" {rung.misranked}" if rung.misranked else " trials"
            text = f"Rung {_short(rung.images)} images ranks{what} wrongly (tau {_tau(rung)}): "
            return text + (
                "no rung before the last one ranks well; use stopping: none."
                if trusted is None
                else f"raise stopping.min_images to {_short(trusted)}."
            )
    worst = min(deciding, key=lambda rung: rung.tau)
    if worst.tau >= GOOD:
        return f"Early rungs can be trusted: the worst, {_short(worst.images)} images, has tau {_tau(worst)}."
    text = f"Rung {_short(worst.images)} images has tau {_tau(worst)}, which settles nothing"
    if worst.is_unbiased:
        return f"{text}; more full-length trials would."
    return f"{text}: it is seen on survivors only, among which tau is smaller. stopping.audit: 0.1 would tell."


def _tau(rung: RungFidelity) -> str:
    return f"{rung.tau:.2f}, 95 % interval {rung.low:.2f} to {rung.high:.2f}"


def _short(images: int) -> str:
    return f"{images / 1000:g}k" if images >= 1000 else str(images)
