"""Search spaces and study files that are wrong: each is answered in one line with a place."""

from __future__ import annotations

import pytest

from gcsearch.errors import ConfigError
from gcsearch.tuning.spec import load_study

MU = "experiment: tiny\nspace:\n  coupling.mu: {min: 0.0, max: 1.0}\n"


def space_text(entry):
    return f"experiment: tiny\nspace:\n  {entry}\n"


BAD = {
    "min above max": (space_text("coupling.mu: {min: 1.0, max: 0.0}"), 3, "min must be less than max, got min 1.0"),
    "min equal to max": (space_text("coupling.mu: {min: 0.5, max: 0.5}"), 3, "min must be less than max"),
    "log from zero": (space_text("coupling.mu: {min: 0, max: 1.0, scale: log}"), 3, "min must be > 0 on a log scale"),
    "unknown scale": (space_text("coupling.mu: {min: 0, max: 1.0, scale: lg}"), 3, "scale must be linear or log"),
    "scale that is a list": (space_text("coupling.mu: {min: 0, max: 1.0, scale: [log]}"), 3, "scale must be linear"),
    "min as a word": (space_text("coupling.mu: {min: low, max: 1.0}"), 3, "min must be a finite number, got 'low'"),
    "max left out": (space_text("coupling.mu: {min: 0.0}"), 3, "max must be a finite number, got None"),
    "infinite max": (space_text("coupling.mu: {min: 0.0, max: .inf}"), 3, "max must be a finite number"),
    "boolean min": (space_text("coupling.mu: {min: false, max: 1.0}"), 3, "min must be a finite number"),
    "real ends of an integer": (space_text("network.width: {min: 8.0, max: 32.0}"), 3, "must be written as integers"),
    "no values": (space_text("coupling.mu: {values: []}"), 3, "values must be a list with at least one value"),
    "values not a list": (space_text("coupling.mu: {values: 0.5}"), 3, "values must be a list with at least one value"),
    "repeated value": (space_text("coupling.mu: {values: [0.5, 0.5]}"), 3, "must not repeat an option"),
    "value repeated as an integer": (space_text("coupling.mu: {values: [1.0, 1]}"), 3, "must not repeat an option"),
    "repeated component": (space_text("timesteps: {values: [fixed, {name: fixed}]}"), 3, "must not repeat an option"),
    "empty space": ("experiment: tiny\nspace: {}\n", 2, "space must be a mapping"),
    "null space": ("experiment: tiny\nspace:\n", 2, "space must be a mapping"),
    "list as space": ("experiment: tiny\nspace: [1]\n", 2, "space must be a mapping"),
    "missing space": ("experiment: tiny\n", None, "must have the key 'space'"),
    "missing experiment": ("space:\n  coupling.mu: {min: 0.0, max: 1.0}\n", None, "must have the key 'experiment'"),
    "unknown key": (space_text("coupling.predicter: {values: [ema]}"), 3, "Did you mean 'predictor'?"),
    "unknown section": (space_text("cuopling.mu: {min: 0.0, max: 1.0}"), 3, "Did you mean 'coupling'?"),
    "key below a number": (space_text("seedling.mu.x: {min: 0.0, max: 1.0}"), 3, "has no key 'seedling'"),
    "key inside a scalar": (space_text("coupling.mu.x: {min: 0.0, max: 1.0}"), 3, "not a section"),
    "unknown component": (space_text("timesteps: {values: [fixd]}"), 3, "Did you mean 'fixed'?"),
    "unknown field of an option": (
        space_text("timesteps: {values: [{name: fixed, levels: {values: [1]}}]}"),
        3,
        "'num_levels'",
    ),
    "range for a component": (space_text("coupling: {min: 0.0, max: 1.0}"), 3, "coupling's name or a mapping"),
    "range with illegal values inside": (
        space_text("network.width: {min: 8, max: 32}"),
        3,
        "must be an even number >= 2, got 9",
    ),
    "illegal end": (space_text("coupling.mu: {min: 0.0, max: 1.5}"), 3, "must be in [0, 1], got 1.5"),
    "illegal value": (space_text("coupling.predictor: {values: [ema, onlin]}"), 3, "'online'"),
    "searched seed": (space_text("seed: {values: [0, 1]}"), 3, "must not be searched"),
    "searched evaluation": (space_text("evaluation.num_samples: {values: [64, 128]}"), 3, "must not be searched"),
    "searched data": (space_text("data: {values: [digits]}"), 3, "must not be searched"),
    "searched horizon": (space_text("training.num_images: {values: [6400]}"), 3, "must not be searched"),
    "option without a name": (space_text("timesteps: {values: [{num_levels: 10}]}"), 3, "value or have a name"),
    "unknown key of a range": (space_text("coupling.mu: {min: 0.0, max: 1.0, step: 0.1}"), 3, "has no key 'step'"),
    "misspelt end": (space_text("coupling.mu: {mim: 0.0, max: 1.0}"), 3, "Did you mean 'min'?"),
    "unknown key of a choice": (space_text("coupling.mu: {values: [0.5], scale: log}"), 3, "has no key 'scale'"),
    "bare value": (space_text("coupling.mu: 0.5"), 3, "must be {min, max} or {values: [...]}, got 0.5"),
    "bare component": (space_text("timesteps: {name: fixed}"), 3, "must be {min, max} or {values: [...]}"),
    "when not a mapping": (space_text("coupling.mu: {min: 0.0, max: 1.0, when: fixed}"), 3, "when must be a mapping"),
    "when with an unknown key": (
        space_text("coupling.mu: {min: 0.0, max: 1.0, when: {timesteps.nmae: fixed}}"),
        3,
        "Did you mean 'timesteps.name'?",
    ),
    "when that never holds": (
        space_text("coupling.mu: {min: 0.0, max: 1.0, when: {timesteps.name: exponential}}"),
        3,
        "It is 'fixed' in the experiment",
    ),
    "when inside an option": (
        space_text("timesteps: {values: [{name: fixed, num_levels: {values: [10], when: {seed: 0}}}]}"),
        3,
        "has no key 'when'",
    ),
    "part drawn before the whole": (
        MU + "  coupling: {values: [generator, independent]}\n",
        3,
        "coupling.mu must come after space.coupling",
    ),
    "one parameter in two places": (
        space_text("coupling: {values: [{name: generator, mu: {min: 0.0, max: 1.0}}]}")
        + "  coupling.mu: {min: 0.0, max: 1.0}\n",
        4,
        "coupling.mu must be varied in one place",
    ),
    "start_from with an unknown key": (MU + "search: {start_from: [{coupling.mo: 0.5}]}\n", 4, "mean 'coupling.mu'?"),
    "start_from with an illegal type": (
        MU + "search: {start_from: [{coupling.mu: high}]}\n",
        4,
        "coupling.mu must be a number, got 'high'",
    ),
    "start_from with a boolean": (MU + "search: {start_from: [{coupling.mu: true}]}\n", 4, "must be a number"),
    "start_from with null": (MU + "search: {start_from: [{coupling.mu: null}]}\n", 4, "must be a number, got None"),
    "start_from with a list": (MU + "search: {start_from: [{coupling.mu: [1]}]}\n", 4, "must be a number"),
    "start_from out of range": (MU + "search: {start_from: [{coupling.mu: 1.5}]}\n", 4, "must be in [0.0, 1.0]"),
    "start_from not in the values": (
        space_text("timesteps.num_levels: {values: [10, 20]}") + "search: {start_from: [{timesteps.num_levels: 30}]}\n",
        4,
        "must be a value of the space, got 30",
    ),
    "start_from with half an integer": (
        space_text("ema.period: {min: 1, max: 5}") + "search: {start_from: [{ema.period: 1.5}]}\n",
        4,
        "must be a value of the space, got 1.5",
    ),
    "start_from that is a mapping": (MU + "search: {start_from: {coupling.mu: 0.5}}\n", 4, "start_from must be"),
    "start_from that holds words": (MU + "search: {start_from: [coupling.mu]}\n", 4, "start_from must be"),
    "rung not a multiple": (
        MU + "stopping: {name: asha, min_images: 1_000}\n",
        4,
        "multiple of evaluation.every_images = 800, got 1000. Use 800",
    ),
    "rung beyond the horizon": (
        MU + "stopping: {name: asha, min_images: 6_400}\n",
        4,
        "less than training.num_images = 6400",
    ),
    "stopping within an unknown key": (
        MU + "stopping: {name: asha, min_images: 800, within: coupling.mi}\n",
        4,
        "Did you mean 'coupling.mu'?",
    ),
    "factor of one": (MU + "stopping: {name: asha, min_images: 800, factor: 1}\n", 4, "factor must be at least 2"),
    "unknown stopping": (MU + "stopping: ahsa\n", 4, "Did you mean 'asha'?"),
    "null stopping": (MU + "stopping:\n", 4, "stopping must be"),
    "unknown sampler": (MU + "search: {sampler: atuo}\n", 4, "Did you mean 'auto'?"),
    "illegal share": (MU + "search: {sampler: {name: auto, random_share: 2}}\n", 4, "random_share must be in [0, 1]"),
    "negative seed": (MU + "search: {seed: -1}\n", 4, "seed must be >= 0"),
    "objective on the loss": (MU + "objective: {metric: train/loss}\n", 4, "not comparable"),
    "unknown metric": (MU + "objective: {metric: fidd}\n", 4, "Did you mean 'fid'?"),
    "metric that is not computed": (MU + "objective: {metric: kid}\n", 4, "a score that the experiment computes"),
    "wrong goal": (MU + "objective: {metric: fid, goal: maximize}\n", 4, "goal must be minimize for fid"),
    "unknown goal": (MU + "objective: {goal: min}\n", 4, "'minimize', 'maximize'"),
    "objective as a word": (MU + "objective: fid\n", 4, "objective must be a mapping"),
    "trials as a word": (MU + "budget: {trials: many}\n", 4, "budget.trials must be an integer or null, got 'many'"),
    "no trials": (MU + "budget: {trials: 0}\n", 4, "trials must be at least 1"),
    "half a trial": (MU + "budget: {trials: 1.5}\n", 4, "budget.trials must be an integer"),
    "null budget": (MU + "budget:\n", 4, "budget must be a mapping"),
    "unknown budget": (MU + "budget: {trails: 3}\n", 4, "Did you mean 'trials'?"),
    "negative hours": (MU + "budget: {wall_hours: -1}\n", 4, "wall_hours must be > 0"),
    "no cpus": (MU + "resources: {cpus_per_worker: 0}\n", 4, "cpus_per_worker must be at least 1"),
    "gpus as a word": (MU + "resources: {gpus_per_worker: all}\n", 4, "gpus_per_worker must be a number"),
    "concurrent as a word": (MU + "resources: {concurrent: many}\n", 4, "resources.concurrent must be"),
    "no trial at a time": (MU + "resources: {concurrent: 0}\n", 4, "concurrent must be auto or at least 1"),
    "unknown top-level key": (MU + "serach: {seed: 1}\n", 4, "Did you mean 'search'?"),
    "unknown experiment": (
        "experiment: tinny\nspace:\n  coupling.mu: {min: 0.0, max: 1.0}\n",
        None,
        "Did you mean 'tiny'?",
    ),
    "experiment as a number": ("experiment: 3\nspace:\n  coupling.mu: {min: 0.0, max: 1.0}\n", 1, "name or a path"),
    "name with a slash": ("name: a/b\n" + MU, 1, "usable as a folder"),
    "invalid YAML": ("experiment: tiny\nspace: {a: 1\n", None, "not valid YAML"),
    "key written twice": (MU + "space: {}\n", 4, "written twice"),
    "empty file": ("", None, "is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_study_file_is_answered_with_one_line_that_names_the_place(study_file, case):
    text, line, part = BAD[case]
    path = study_file(text)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    if line is not None:
        assert message.startswith(f"{path}:{line}: "), message


def test_a_missing_study_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_study(tmp_path / "nothing.yaml")


def test_bad_trials_on_the_command_line_name_the_option(study_file):
    with pytest.raises(ConfigError, match=r"^--trials: budget\.trials must be at least 1, got 0"):
        load_study(study_file(), trials=0)
