"""From the published code's keys to the loss, the optimization and the evaluation of an experiment.

A function a section: it returns the section and the remarks about it. What a remark says of the published code was read
in that code.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from gcsearch.config.published import keys
from gcsearch.config.published.keys import NetworkConfig, TopLevel, TrainConfig
from gcsearch.config.published.notes import Mapped, Note, Section, fixed
from gcsearch.science.ema import PowerWarmup


def complement(value: float) -> float:
    """1 - value without the dust of binary fractions: 0.7 gives 0.3."""
    return float(1 - Decimal(repr(float(value))))


def timesteps_section(train: Section[TrainConfig]) -> Mapped:
    """Curriculum N(k): exponential, or fixed if it starts where it ends."""
    s0, s1 = train.values.s0, train.values.s1
    if s0 == s1:
        why = "s0 = s1 counts intervals; num_levels counts levels, one more."
        notes = [train.note(key, "timesteps.num_levels", s0 + 1, why if key == "s0" else "") for key in ("s0", "s1")]
        return {"name": "fixed", "num_levels": s0 + 1}, notes
    notes = [train.note("s0", "timesteps.s0", s0), train.note("s1", "timesteps.s1", s1)]
    return {"name": "exponential", "s0": s0, "s1": s1}, notes


def levels_section() -> Mapped:
    """Proposal over levels, which is no key there."""
    notes = [fixed("P_mean", "levels.mean", keys.LEVELS_MEAN), fixed("P_std", "levels.std", keys.LEVELS_STD)]
    return {"name": "lognormal", "mean": keys.LEVELS_MEAN, "std": keys.LEVELS_STD}, notes


def coupling_section(train: Section[TrainConfig]) -> Mapped:
    """Coupling; the share of generated end points is one minus the published key."""
    values = train.values
    if not values.generator_induced_traj:
        notes = [train.note("generator_induced_traj", "coupling.name", "independent")]
        for key in ("generator_induced_traj_ema", "mix_gen_induced_traj", "mix_gen_induced_traj_end"):
            if key in train.given:
                why = "Read only if generator_induced_traj is true."
                notes.append(Note(kind="unused", key=train.key(key), value=train.given[key], why=why))
        return {"name": "independent"}, notes + _wishes(train)
    start, end = values.mix_gen_induced_traj, values.mix_gen_induced_traj_end
    predictor = "ema" if values.generator_induced_traj_ema else "online"
    section: dict[str, Any] = {"name": "generator", "mu": complement(start)}
    notes = [
        train.note("generator_induced_traj", "coupling.name", "generator"),
        _mixing_note(train, "mix_gen_induced_traj", "mu", start),
    ]
    if end is not None and end != start:
        section["mu_end"] = complement(end)
        notes.append(_mixing_note(train, "mix_gen_induced_traj_end", "mu_end", end))
    section["predictor"] = predictor
    notes.append(train.note("generator_induced_traj_ema", "coupling.predictor", predictor))
    return section, notes + _wishes(train)


def _mixing_note(train: Section[TrainConfig], key: str, here: str, value: float) -> Note:
    mu = complement(value)
    why = "That code generates an end point with probability 1 - value; mu is P(generated), as in the paper."
    if value == 0:
        why = "That code does not mix at 0 and generates every end point: mu = 1."
    if value != mu:
        why += f" If the share of generated end points was meant, as its README has it, write {here}: {value:g}."
    return train.note(key, f"coupling.{here}", mu, why, attention=value != mu)


def _wishes(train: Section[TrainConfig]) -> list[Note]:
    """What keys that have no effect there may have meant, and how to have it here."""
    meant = []
    if train.unused.get("minibatch_OT") is True:
        wish = "base: ot" if train.values.generator_induced_traj else "name: ot"
        meant.append(
            ("minibatch_OT", f"That code pairs independently all the same. Here optimal transport is coupling.{wish}.")
        )
    for key, here in (("start_generator_induced_traj", "start"), ("end_generator_induced_traj", "end")):
        step = train.unused.get(key)
        if isinstance(step, int | float) and 0 < step < train.values.n_train_steps:
            share = step / train.values.n_train_steps
            meant.append(
                (
                    key,
                    f"That code never reads it. Here it would be coupling.{here}: {share:g}, a share of the training.",
                )
            )
    return [
        Note(kind="attention", key=train.key(key), value=train.unused[key], here="coupling", why=why)
        for key, why in meant
    ]


def distance_section(train: Section[TrainConfig]) -> Mapped:
    """Distance between two outputs."""
    loss = train.values.loss_type
    if loss == "huber":
        notes = [
            train.note("loss_type", "distance.name", "pseudo_huber"),
            fixed("huber constant", "distance.c", keys.HUBER_C),
        ]
        return {"name": "pseudo_huber", "c": keys.HUBER_C}, notes
    why = "That code fails on it: the function it calls is not defined." if loss == "lpips" else ""
    return {"name": loss}, [train.note("loss_type", "distance.name", loss, why, attention=bool(why))]


def optimizer_section(top: Section[TopLevel]) -> Mapped:
    """Optimizer with its library's betas, and no weight decay."""
    name = top.values.optimizer
    betas = [0.9, 0.99] if name == "lion" else [0.9, 0.999]
    notes = [
        top.note("optimizer", "optimizer.name", name),
        top.note("lr", "optimizer.lr", top.values.lr),
        fixed("betas", "optimizer.betas", betas),
        fixed("weight decay", "optimizer.weight_decay", 0.0),
    ]
    return {"name": name, "lr": top.values.lr, "betas": betas, "weight_decay": 0.0}, notes


def ema_section(train: Section[TrainConfig]) -> Mapped:
    """Average of the weights. Its cap has an effect late, its start has no counterpart."""
    decay, start, steps = train.values.ema_decay, train.values.ema_start, train.values.n_train_steps
    section = {"name": "power_warmup", "max_decay": decay, "period": keys.EMA_PERIOD}
    why = ""
    if 0 < decay < 1 and (capped := round((1 - decay) ** -1.5) + start) > steps:
        why = f"The decay, 1 - (1 + k)^(-2/3), meets this cap at step {capped:,}, after the end."
    notes = [
        train.note("ema_decay", "ema.max_decay", decay, why),
        fixed("update_every", "ema.period", keys.EMA_PERIOD),
    ]
    if start == 0:
        notes.append(
            Note(
                kind="mapped",
                key="train_config.ema_start",
                value=0,
                here="ema",
                why="The average starts at once, as here.",
            )
        )
    elif start > 0 and 0 < decay < 1:
        rule = PowerWarmup(max_decay=decay, period=keys.EMA_PERIOD)
        there = f"{_half_life(rule, steps - start)} there" if start < steps else "there the weights were never averaged"
        source = "" if "ema_start" in train.given else " (its default)"
        why = (
            f"No counterpart, and left out. There the average equals the weights up to step {start:,}{source} and "
            "starts then; here it starts at once. "
            f"Half-life at the end, in steps: {_half_life(rule, steps)} here, {there}."
        )
        notes.append(Note(kind="attention", key="train_config.ema_start", value=start, here="ema", why=why))
    return section, notes


def _half_life(rule: PowerWarmup, step: int) -> str:
    """Steps after which an old weight counts half, at `step`."""
    return f"{round(math.log(0.5) / math.log(rule.decay(step, batch_size=1))):,}"


def training_section(top: Section[TopLevel], train: Section[TrainConfig], network: Section[NetworkConfig]) -> Mapped:
    """Length and batch."""
    batch_size = top.values.batch_size
    num_images = train.values.n_train_steps * batch_size
    precision = "bf16" if network.values.use_fp16 else "fp32"
    notes = [
        train.note(
            "n_train_steps",
            "training.num_images",
            num_images,
            f"{train.values.n_train_steps:,} steps x {batch_size:,} images.",
        ),
        top.note("batch_size", "training.batch_size", batch_size, "For one process, as in its README."),
    ]
    if "use_fp16" in network.given:
        why = "There half precision, here bfloat16." if network.values.use_fp16 else ""
        notes.append(network.note("use_fp16", "training.precision", precision, why, attention=bool(why)))
    return {"num_images": num_images, "batch_size": batch_size, "precision": precision}, notes


def evaluation_section(top: Section[TopLevel], train: Section[TrainConfig]) -> Mapped:
    """Evaluation, which is on the command line and in the code there."""
    steps = min(keys.EVALUATE_EVERY_STEPS, train.values.n_train_steps)
    every = steps * top.values.batch_size
    why = f"{steps:,} steps: --eval_freq of the command in its README."
    notes = [
        Note(kind="fixed", key="--eval_freq", value=steps, here="evaluation.every_images", becomes=every, why=why),
        Note(
            kind="fixed",
            key="samples for FID",
            here="evaluation.num_samples",
            becomes=keys.NUM_SAMPLES,
            why="Its HEAD stretches each generated batch to [-1, 1] before FID; here samples are clipped. FIDs differ.",
        ),
    ]
    section = {
        "every_images": every,
        "num_samples": keys.NUM_SAMPLES,
        "metrics": ["fid", "kid"],
        "sampler": {"name": "one_step"},
        "extractor": "auto",
    }
    return section, notes
