"""Experiments: what a user's mistakes look like."""

import pytest

HEAD = "name: x\ndata: digits\n"

MISTAKES = {
    "unknown section": ("nettwork: mlp", "FILE:3: FILE has no key 'nettwork'. Did you mean 'network'? Known: coupling"),
    "dotted key": ("coupling.mu: 0.3", "FILE:3: FILE has no key 'coupling.mu'. Did you mean 'coupling'?"),
    "key of two lines": ('"a\\nb": 3', r"FILE:3: FILE has no key 'a\nb'."),
    "empty key": ("'': 3", "FILE:3: FILE has no key ''."),
    "unknown component": (
        "\ncoupling: {name: genertor}",
        "FILE:4: coupling: unknown coupling 'genertor'. Did you mean 'generator'? Known: generator, independent",
    ),
    "unknown bare name": ("network: umet", "FILE:3: network: unknown network 'umet'. Did you mean 'unet'?"),
    "unknown field": (
        "coupling:\n  name: generator\n  muu: 0.5",
        "FILE:5: coupling 'generator' has no key 'muu'. Did you mean 'mu'? Known: ",
    ),
    "unknown setting": (
        "training: {num_image: 3}",
        "FILE:3: 'training' has no key 'num_image'. Did you mean 'num_images'?",
    ),
    "field of another component": (
        "coupling: {name: independent, mu: 1}",
        "FILE:3: coupling 'independent' has no key 'mu'.",
    ),
    "name is no word": ("network: {name: 3}", "FILE:3: network.name must be a word, got 3."),
    "name is empty": ("network: ''", "FILE:3: network: unknown network ''. Known: mlp, "),
    "section is empty": ("network:", "FILE:3: network must be a network's name or a mapping with a name, got None."),
    "section is a number": ("network: 3", "FILE:3: network must be a network's name or a mapping with a name, got 3."),
    "section is a list": (
        "optimizer: [lion]",
        "FILE:3: optimizer must be a optimizer's name or a mapping with a name, got ['lion'].",
    ),
    "settings are empty": ("training:", "FILE:3: training must be a mapping, got None."),
    "settings are a list": ("evaluation: [fid]", "FILE:3: evaluation must be a mapping, got ['fid']."),
    "word for a number": ("optimizer: {lr: fast}", "FILE:3: optimizer.lr must be a number, got 'fast'."),
    "quoted number": ("optimizer: {lr: '1e-4'}", "FILE:3: optimizer.lr must be a number, got '1e-4'."),
    "truth for a number": ("optimizer: {lr: true}", "FILE:3: optimizer.lr must be a number, got True."),
    "truth for an integer": ("seed: true", "FILE:3: seed must be an integer, got True."),
    "null for a number": ("optimizer: {lr: null}", "FILE:3: optimizer.lr must be a number, got None."),
    "fraction": ("seed: 0.5", "FILE:3: seed must be an integer, got 0.5."),
    "infinite integer": ("seed: .inf", "FILE:3: seed must be an integer, got inf."),
    "infinite number": ("optimizer: {lr: .inf}", "FILE:3: optimizer.lr must be finite, got inf."),
    "overflowing number": ("optimizer: {lr: 1e400}", "FILE:3: optimizer.lr must be finite, got inf."),
    "no number": ("optimizer: {lr: .nan}", "FILE:3: optimizer.lr must be finite, got nan."),
    "no number in a list": (
        "optimizer: {betas: [.nan, 0.5]}",
        "FILE:3: optimizer.betas must be finite, got [nan, 0.5].",
    ),
    "number for truth": ("training: {compile: 1}", "FILE:3: training.compile must be true or false, got 1."),
    "yaml 1.1 truth": ("training: {compile: on}", "FILE:3: training.compile must be true or false, got 'on'."),
    "literal": ("training: {precision: fp16}", "FILE:3: training.precision must be one of 'fp32', 'bf16', got 'fp16'."),
    "too many": ("optimizer: {betas: [0.9, 0.9, 0.9]}", "FILE:3: optimizer.betas must be a list of 2 numbers, got"),
    "below range": ("coupling: {mu: -0.1}", "FILE:3: coupling.mu must be in [0, 1], got -0.1."),
    "above range": ("coupling:\n  mu: 1.5", "FILE:4: coupling.mu must be in [0, 1], got 1.5."),
    "negative seed": ("seed: -1", "FILE:3: seed must be >= 0, got -1."),
    "two fields": (
        "coupling: {start: 0.9, end: 0.1}",
        "FILE:3: coupling.start and end must satisfy 0 <= start < end <= 1, got 0.9 and 0.1.",
    ),
    "later needs earlier": (
        "process: {sigma_min: 90}",
        "FILE:3: process.sigma_max must be > sigma_min = 90.0, got 80.0.",
    ),
    "beyond float32": ("process: {sigma_max: 1e39}", "FILE:3: process must have a grid of finite levels, got"),
    "overflow in the grid": ("process: {rho: 1e-3}", "FILE:3: process must have a grid of finite levels, got"),
    "no images": ("training: {num_images: 0}", "FILE:3: training.num_images must be at least 1, got 0."),
    "batch of more than all": (
        "training: {num_images: 100}",
        "FILE:3: training.batch_size must be at most num_images = 100, got 128.",
    ),
    "workers that cannot share the batch": (
        "training: {num_workers: 3}",
        "FILE:3: training.batch_size must be a multiple of num_workers = 3, got 128.",
    ),
    "nested name": (
        "evaluation:\n  every_images: 10_000\n  sampler: {name: multistp}",
        "FILE:5: evaluation.sampler: unknown sampler 'multistp'. Did you mean 'multistep'?",
    ),
    "nested field": (
        "evaluation:\n  sampler:\n    name: multistep\n    lvels: [1.0]",
        "FILE:6: sampler 'multistep' has no key 'lvels'. Did you mean 'levels'?",
    ),
    "nested type": (
        "evaluation:\n  sampler:\n    name: multistep\n    clip: 3",
        "FILE:6: evaluation.sampler.clip must be true or false, got 3.",
    ),
    "nested range": (
        "evaluation:\n  sampler:\n    name: multistep\n    levels: [1.0, 2.0]",
        "FILE:6: evaluation.sampler.levels must be decreasing, got [1.0, 2.0].",
    ),
    "metric": (
        "evaluation:\n  metrics:\n  - fid\n  - fidd",
        "FILE:6: evaluation.metrics.1: unknown metric 'fidd'. Did you mean 'fid'?",
    ),
    "metric's field": (
        "evaluation:\n  metrics:\n  - fid\n  - {name: is, splits: 0}",
        "FILE:6: evaluation.metrics.1.splits must be at least 1, got 0.",
    ),
    "no metric": (
        "evaluation: {metrics: []}",
        "FILE:3: evaluation.metrics must name at least one metric and none twice, got [].",
    ),
    "diagnostics first": (
        "evaluation: {metrics: [diagnostics, fid]}",
        "FILE:3: evaluation.metrics must begin with a score of samples, whose best weights are kept, got "
        "['diagnostics', 'fid']. Put fid or kid before diagnostics.",
    ),
    "diagnostics of one batch": (
        "evaluation: {metrics: [fid, {name: diagnostics, num_batches: 1}]}",
        "FILE:3: evaluation.metrics.1.num_batches must be at least 2, got 1.",
    ),
    "metric twice": ("evaluation: {metrics: [fid, fid]}", "FILE:3: evaluation.metrics must name at least one"),
    "few samples": ("evaluation: {num_samples: 3}", "FILE:3: evaluation.num_samples must be at least 16, got 3."),
    "unknown extractor": (
        "evaluation: {extractor: digit}",
        "FILE:3: evaluation.extractor must be auto or a feature extractor, got 'digit'. Did you mean 'digits'?",
    ),
    "extractor does not fit": (
        "evaluation:\n  extractor: coordinates",
        "FILE:4: evaluation.extractor does not fit the data 'digits': extractor 'coordinates': examples must be points",
    ),
    "network does not fit": (
        "network:\n  channel_mult: [1, 1, 1, 1, 1]",
        "FILE:3: network does not fit the data 'digits': height and width must be multiples of ",
    ),
    "evaluated too rarely": (
        "training: {num_images: 1000}\nevaluation:\n  every_images: 2000",
        "FILE:5: evaluation.every_images must be at most training.num_images = 1000, got 2000.",
    ),
    "level above the process": (
        "evaluation: {sampler: {name: multistep, levels: [80.0, 1.0]}}",
        "FILE:3: evaluation.sampler.levels must lie between sigma_min = 0.002 and sigma_max = 80.0, got [80.0, 1.0].",
    ),
    "level of a further sampler": (
        "evaluation:\n  further_samplers:\n    - {name: multistep, levels: [1.0]}\n"
        "    - {name: multistep, levels: [90.0, 1.0]}",
        "FILE:6: evaluation.further_samplers.1.levels must lie between sigma_min = 0.002 and sigma_max = 80.0, got [90",
    ),
    "two samplers of one name": (
        "evaluation:\n  further_samplers: [multistep, {name: multistep, levels: [1.0]}]",
        "FILE:4: evaluation.further_samplers must differ from sampler and each other in their numbers of network "
        "evaluations, which name the scores, got [2, 2] beside 1.",
    ),
    "level below the process": (
        "evaluation: {sampler: {name: multistep, levels: [1.0, 0.002]}}",
        "FILE:3: evaluation.sampler.levels must lie between sigma_min = 0.002 and sigma_max = 80.0, got [1.0, 0.002].",
    ),
    "duplicate key": ("coupling: {mu: 0.1, mu: 0.2}", "FILE:3: a key is written twice"),
    "invalid yaml": ("coupling: {mu: 0.1", "FILE:4: is not valid YAML"),
    "date": ("seed: 2020-01-01", "FILE:3: must be a number, word, list or mapping"),
    "half a character": ('network: {name: mlp, width: "\\ud800"}', "FILE:3: network.width must be"),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_with_one_line_that_says_where_what_and_why(message, text, expected):
    said = message(f"{HEAD}{text}\n")
    assert said.startswith(expected)
    assert "\n" not in said
    assert said.endswith(".")
    assert not said.endswith("..")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("name: x\ndata: {name: digit}\n", "FILE:2: data: unknown data 'digit'. Did you mean 'digits'?"),
        ("name: x\ndata: {}\n", "FILE:2: data must have a name. Known: "),
        ("name: x\ndata:\n", "FILE:2: data must be a data's name or a mapping with a name, got None."),
        ("name: ''\ndata: digits\n", "FILE:1: name must not be empty, got ''."),
        ("name: 3\ndata: digits\n", "FILE:1: name must be a word, got 3."),
        ("name: null\ndata: digits\n", "FILE:1: name must be a word, got None."),
        ('name: "\\ud800"\ndata: digits\n', "FILE:1: name must be text that UTF-8 can hold, got "),
        (
            "name: x\ndata: gaussians_1m2m\nnetwork: unet\n",
            "FILE:3: network does not fit the data 'gaussians_1m2m': network 'unet' needs images",
        ),
        ("name: x\ndata: gaussians_1m2m\n", "FILE: network does not fit the data 'gaussians_1m2m'"),
        (
            "name: x\ndata: gaussians_1m2m\nnetwork: mlp\nevaluation: {extractor: digits}\n",
            "FILE:4: evaluation.extractor does not fit the data 'gaussians_1m2m': extractor 'digits'",
        ),
        (
            "name: x\ndata: gaussians_1m2m\nnetwork: mlp\nevaluation: {metrics: [fid, is]}\n",
            "FILE:4: evaluation.metrics does not fit the extractor: metric 'is': the extractor must be a classifier",
        ),
        (
            "name: x\ndata: digits\nevaluation: {num_samples: 20, metrics: [{name: is, splits: 30}]}\n",
            "FILE:3: evaluation.num_samples must be at least 30 for the metric 'is', got 20.",
        ),
        ("name: x\ndata:\n  name: gaussians_1m2m\n  std: 0\nnetwork: mlp\n", "FILE:4: data.std must be > 0, got 0.0."),
        (
            "name: x\ndata: digits\nlevels: {mean: 1e300}\n",
            "FILE:3: levels must put weight between sigma_min = 0.002 and sigma_max = 80.0, got ",
        ),
    ],
)
def test_a_mistake_in_name_or_data_or_between_sections_is_answered_too(message, head, expected):
    said = message(head)
    assert said.startswith(expected)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("coupling.mu=1.5", "--set coupling.mu=1.5: coupling.mu must be in [0, 1], got 1.5."),
        ("coupling.muu=1", "--set coupling.muu=1: coupling 'generator' has no key 'muu'. Did you mean 'mu'?"),
        ("optimizer.lr='1e-3'", "--set optimizer.lr='1e-3': optimizer.lr must be a number, got '1e-3'."),
        ("network=umet", "--set network=umet: network: unknown network 'umet'. Did you mean 'unet'?"),
        ("seed=", "--set seed=: seed must be an integer, got None."),
        ("seed.x=1", "--set seed.x=1: 'seed' is not a section, so 'seed.x' cannot be set."),
        ("evaluation.metrics.0=kid", "--set evaluation.metrics.0=kid: 'metrics' is not a section"),
        ("training={num_images: 10}", "--set training={num_images: 10}: training.batch_size must be at most"),
        ("network.name.x=3", "FILE:4: network.name must be a word, got the mapping {name, x}."),
        ("evaluation.every_images=1e6", "--set evaluation.every_images=1e6: evaluation.every_images must be at most"),
        ("frobnicate=1", "--set frobnicate=1: FILE has no key 'frobnicate'."),
    ],
)
def test_a_mistake_in_an_override_names_the_override(message, assignment, expected):
    text = HEAD + "seed: 0\nnetwork: {name: mlp}\nevaluation: {metrics: [fid]}\n"
    assert message(text, [assignment]).startswith(expected)
