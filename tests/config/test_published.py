"""Configurations of the published code as experiments. The files in `published/` hold its keys and values."""

import math
import re
from pathlib import Path

import pytest
import torch

from gcsearch.config import Document, build, load_experiment, read_document
from gcsearch.config.documents import dump_yaml
from gcsearch.config.published import HEADINGS, import_published, imported_yaml

FILES = sorted((Path(__file__).parent / "published").glob("*.yaml"))
CIFAR10_GC = {
    "name": "cifar10_GC_mix50",
    "seed": 999,
    "data": {"name": "cifar10"},
    "network": {
        "name": "song_unet",
        "channels": 128,
        "channel_mult": [1, 2, 2],
        "num_blocks": 3,
        "dropout": 0.0,
        "attn_resolutions": [],
    },
    "process": {"name": "ve", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0},
    "timesteps": {"name": "exponential", "s0": 10, "s1": 1280},
    "levels": {"name": "lognormal", "mean": -1.1, "std": 2.0},
    "weighting": {"name": "inverse_gap"},
    "coupling": {"name": "generator", "mu": 0.5, "predictor": "ema"},
    "objective": {"name": "consistency"},
    "distance": {"name": "pseudo_huber", "c": 0.00054},
    "optimizer": {"name": "lion", "lr": 1e-4, "betas": [0.9, 0.99], "weight_decay": 0.0},
    "ema": {"name": "power_warmup", "max_decay": 0.9999, "period": 5},
    "training": {"num_images": 51_200_000, "batch_size": 512, "precision": "fp32"},
    "evaluation": {
        "every_images": 2_560_000,
        "num_samples": 50_000,
        "metrics": ["fid", "kid"],
        "sampler": {"name": "one_step"},
        "extractor": "auto",
    },
}
IC = {"name": "independent"}
IMAGENET = {"channel_mult": [1, 1, 2], "num_blocks": [3, 5, 7], "attn_resolutions": [16]}
CELEBA = {"channel_mult": [1, 2, 2, 2], "num_blocks": [3, 3, 4, 5]}
IMAGENET_LENGTH = {
    "optimizer.lr": 8e-5,
    "training.num_images": 76_800_000,
}
CELEBA_LENGTH = {
    "optimizer.lr": 8e-5,
    "training.num_images": 19_200_000,
    "training.batch_size": 128,
    "evaluation.every_images": 640_000,
}
DIFFERENCES = {
    "cifar10_GC_mix50": {},
    "cifar10_base": {"name": "cifar10_base", "network.dropout": 0.3, "coupling": IC},
    "imagenet_GC_mix50": {"name": "imagenet_GC_mix50", "data": {"name": "imagenet32"}}
    | {f"network.{key}": value for key, value in IMAGENET.items()}
    | IMAGENET_LENGTH,
    "imagenet_base": {"name": "imagenet_base", "data": {"name": "imagenet32"}, "coupling": IC}
    | {f"network.{key}": value for key, value in IMAGENET.items()}
    | {"network.dropout": [0.0, 0.2, 0.2]}
    | IMAGENET_LENGTH,
    "celebA_GC_mix50": {"name": "celeba_GC_mix_50", "data": {"name": "celeba64"}}
    | {f"network.{key}": value for key, value in CELEBA.items()}
    | CELEBA_LENGTH,
    "celebA_base": {"name": "celeba_base", "data": {"name": "celeba64"}, "coupling": IC}
    | {f"network.{key}": value for key, value in CELEBA.items()}
    | {"network.dropout": [0.0, 0.0, 0.2, 0.2]}
    | CELEBA_LENGTH,
    "v1_cifar10_GC": {
        "name": "cifar10_GenInduced_ema_mix50",
        "network.dropout": 0.3,
        "process.name": "bridge",
        "training.num_images": 25_600_000,
        "training.batch_size": 256,
        "evaluation.every_images": 1_280_000,
    },
    "v1_imagenet_IC": {"name": "imagenet_Base", "data": {"name": "imagenet32"}, "coupling": IC}
    | {f"network.{key}": value for key, value in IMAGENET.items()}
    | {
        "network.num_blocks": [4, 5, 7],
        "network.dropout": [0.1, 0.3, 0.3],
        "process.name": "bridge",
        "training.num_images": 9_600_000,
        "training.batch_size": 64,
        "evaluation.every_images": 320_000,
    },
    "v1_celebA_GC": {"name": "celebA_GenInduced_ema_mix50", "data": {"name": "celeba64"}}
    | {f"network.{key}": value for key, value in CELEBA.items()}
    | CELEBA_LENGTH
    | {
        "network.num_blocks": [2, 3, 4, 5],
        "network.dropout": [0.05, 0.05, 0.1, 0.2],
        "process.name": "bridge",
        "optimizer.lr": 5e-5,
    },
}
"""What each file's experiment has unlike CIFAR-10 with GC, by dotted key."""


def published(name="cifar10_GC_mix50", **changes):
    """A published file with keys set (section__key=value) or, with the value None, taken out."""
    document = read_document(next(path for path in FILES if path.stem == name))
    data = document.data
    for dotted, value in changes.items():
        *section, key = dotted.split("__", 1)
        target = data[section[0]] if section else data
        if value is None:
            del target[key]
        else:
            target[key] = value
    return document


def notes_of(document, kind="attention"):
    return {note.key: note for note in import_published(document)[1] if note.kind == kind}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_published_file_becomes_its_experiment(path):
    expected = Document(CIFAR10_GC).with_values(DIFFERENCES[path.stem]).data
    experiment, _ = import_published(read_document(path))
    assert experiment == expected
    assert list(experiment) == list(CIFAR10_GC)


def test_sections_stand_in_the_order_of_the_shipped_experiment():
    shipped = read_document(Path(__file__).parents[2] / "experiments" / "digits.yaml").data
    assert list(CIFAR10_GC) == list(shipped)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cifar10_GC_mix50", 34.71),
        ("cifar10_base", 34.71),
        ("v1_cifar10_GC", 34.71),
        ("imagenet_GC_mix50", 39.48),
        ("v1_imagenet_IC", 40.38),
        ("celebA_GC_mix50", 59.58),
        ("v1_celebA_GC", 58.68),
    ],
)
def test_the_network_has_the_published_number_of_parameters(name, millions):
    document = published(name)
    experiment, _ = import_published(document)
    size = document.data["image_size"]
    with torch.device("meta"):
        module = build("network", experiment["network"]).build((3, size, size))
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_written_file_loads_and_trains_as_long(path, tmp_path):
    document = read_document(path)
    experiment, notes = import_published(document)
    written = tmp_path / "imported.yaml"
    written.write_text(imported_yaml(experiment, notes, path.name))
    assert read_document(written).data == experiment
    # Digits have 8 x 8 pixels of one channel, where the published attention at height 16 does not exist.
    loaded = load_experiment(written, ["data.name=digits", "network.attn_resolutions=[]"])
    assert loaded.training.num_steps == document.data["train_config"]["n_train_steps"]
    assert loaded.coupling.num_generated(512, 0.0) == (0 if "base" in path.stem or "IC" in path.stem else 256)


@pytest.mark.parametrize(
    ("value", "mu"), [(0, 1.0), (0.0, 1.0), (0.3, 0.7), (0.5, 0.5), (0.7, 0.3), (0.9, 0.1), (1, 0.0), (1e-3, 0.999)]
)
def test_mu_is_one_minus_the_published_mixing_value(value, mu):
    experiment, notes = import_published(published(train_config__mix_gen_induced_traj=value))
    assert experiment["coupling"] == {"name": "generator", "mu": mu, "predictor": "ema"}
    note = next(note for note in notes if note.key == "train_config.mix_gen_induced_traj")
    assert (note.here, note.becomes, note.value) == ("coupling.mu", mu, value)
    assert note.kind == ("mapped" if value == 0.5 else "attention")
    assert (f"write mu: {value:g}" in note.why) == (value != 0.5)


def test_a_missing_mixing_value_generates_everything_as_that_code_does():
    experiment, _ = import_published(published(train_config__mix_gen_induced_traj=None))
    assert experiment["coupling"]["mu"] == 1.0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
def test_a_changing_mixing_value_is_inverted_all_along(share):
    changes = {"train_config__mix_gen_induced_traj": 0.2, "train_config__mix_gen_induced_traj_end": 0.9}
    experiment, notes = import_published(published(**changes))
    assert experiment["coupling"] == {"name": "generator", "mu": 0.8, "mu_end": 0.1, "predictor": "ema"}
    there = (0.9 - 0.2) * share + 0.2
    assert build("coupling", experiment["coupling"]).mixing_rate(share) == pytest.approx(1 - there)
    assert "write mu_end: 0.9" in next(note.why for note in notes if note.here == "coupling.mu_end")


def test_a_mixing_value_that_ends_where_it_starts_is_constant():
    experiment, _ = import_published(published(train_config__mix_gen_induced_traj_end=0.5))
    assert experiment["coupling"] == CIFAR10_GC["coupling"]


def test_the_mixing_value_is_unused_without_generated_end_points():
    document = published("cifar10_base", train_config__mix_gen_induced_traj=0.3)
    assert import_published(document)[0]["coupling"] == IC
    assert "train_config.mix_gen_induced_traj" in notes_of(document, "unused")


def test_the_current_weights_predict_where_the_average_does_not():
    document = published(train_config__generator_induced_traj_ema=False)
    assert import_published(document)[0]["coupling"]["predictor"] == "online"


def test_missing_keys_take_that_codes_defaults():
    document = published()
    document.data["train_config"] = {"_target_": "utils.Train_config"}
    required = ("_target_", "img_resolution", "img_channels")
    document.data["generator"] = {key: document.data["generator"][key] for key in required}
    experiment, notes = import_published(document)
    assert experiment["process"] == {"name": "ve", "sigma_min": 0.001, "sigma_max": 50.0, "sigma_data": 0.5, "rho": 7.0}
    assert experiment["training"]["num_images"] == 10_000 * 512
    assert experiment["coupling"] == IC
    assert experiment["ema"]["max_decay"] == 0.999
    network = {"channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "dropout": 0.1, "attn_resolutions": []}
    assert experiment["network"] == {"name": "song_unet", **network}
    assert {"train_config.s1", "train_config.sigma_max", "generator.dropout"} <= {
        note.key for note in notes if note.kind == "default"
    }


def test_a_late_start_of_the_average_is_said_with_its_effect():
    note = notes_of(published("imagenet_GC_mix50"))["train_config.ema_start"]
    assert note.value == 10_000
    assert "its default" in note.why
    here, there = (5 * math.log(0.5) / math.log(1 - (1 + steps) ** (-2 / 3)) for steps in (150_000, 140_000))
    assert f"{here:,.0f} here, {there:,.0f} there" in note.why
    assert "train_config.ema_start" not in notes_of(published())
    never = notes_of(published(train_config__ema_start=100_000))["train_config.ema_start"]
    assert "never averaged" in never.why


def test_the_cap_of_the_average_is_explained_where_a_training_does_not_reach_it():
    # 1 - (1 + k)^(-2/3) = 0.9999 at k = 0.0001^(-3/2) = 1e6, and 0.999 at 31,623.
    decays = {0.9999: "at step 1,000,000", 0.999: ""}
    for decay, part in decays.items():
        _, notes = import_published(published(train_config__ema_decay=decay))
        why = next(note.why for note in notes if note.here == "ema.max_decay")
        assert part in why
        assert bool(part) == bool(why)


def test_equal_ends_of_the_curriculum_are_a_fixed_number_of_levels():
    experiment, _ = import_published(published(train_config__s0=20, train_config__s1=20))
    assert experiment["timesteps"] == {"name": "fixed", "num_levels": 21}


@pytest.mark.parametrize(("loss", "distance"), [("l2", {"name": "l2"}), ("lpips", {"name": "lpips"})])
def test_other_losses_are_mapped(loss, distance):
    document = published(train_config__loss_type=loss)
    assert import_published(document)[0]["distance"] == distance
    assert ("train_config.loss_type" in notes_of(document)) == (loss == "lpips")


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_other_optimizers_keep_torchs_betas(optimizer):
    experiment, _ = import_published(published(optimizer=optimizer, lr=3e-4))
    expected = {"name": optimizer, "lr": 3e-4, "betas": [0.9, 0.999], "weight_decay": 0.0}
    assert experiment["optimizer"] == expected


def test_short_trainings_are_evaluated_at_their_end():
    experiment, _ = import_published(published(train_config__n_train_steps=300))
    assert experiment["evaluation"]["every_images"] == experiment["training"]["num_images"] == 300 * 512


def test_the_networks_other_keys_are_kept_where_they_differ():
    changes = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
    document = published(generator__channel_mult_noise=2, **{f"generator__{key}": v for key, v in changes.items()})
    network = import_published(document)[0]["network"]
    assert (network["embedding"], network["encoder"]) == ("fourier", "residual")
    assert (network["resample_filter"], network["channel_mult_noise"]) == ([1, 3, 3, 1], 2)
    assert "fourier_scale" not in network


def test_attention_where_no_feature_map_is_drops_out():
    document = published(generator__attn_resolutions=[16, 12])
    experiment, notes = import_published(document)
    assert experiment["network"]["attn_resolutions"] == [16]
    assert "12" in next(note.why for note in notes if note.key == "generator.attn_resolutions")


def test_every_key_of_every_published_file_is_accounted_for():
    for path in FILES:
        data = read_document(path).data
        written = {key for key in data if key not in ("train_config", "generator")}
        written |= {f"{name}.{key}" for name in ("train_config", "generator") for key in data[name]}
        said = {note.key for note in import_published(read_document(path))[1]}
        # Of these nothing needs to be said where they have the value that every file has.
        quiet = {"train_config._target_", "generator._target_", "generator.img_resolution", "generator.img_channels"}
        assert written - said <= quiet, path


def test_what_was_mapped_names_the_value_that_stands_in_the_experiment():
    fixed = published(train_config__s0=20, train_config__s1=20)
    for path, document in [(path, read_document(path)) for path in FILES] + [("fixed", fixed)]:
        experiment, notes = import_published(document)
        for note in notes:
            assert note.kind in HEADINGS
            if note.becomes is None:
                continue
            value = experiment
            for key in note.here.split("."):
                value = value.get(key, note.becomes)
            assert value == note.becomes, (path, note)


def test_the_written_file_is_plain_yaml_with_comments_only():
    experiment, notes = import_published(published("v1_celebA_GC"))
    text = imported_yaml(experiment, notes, "a\nseed: 1\nfile")
    bare = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
    assert bare == "".join(dump_yaml({key: value}) for key, value in experiment.items())
    assert max(map(len, text.splitlines())) <= 120
    assert "ATTENTION: " in text
    assert "left out: train_w_score" in text


def test_the_example_of_the_documentation_is_what_comes_out():
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    before, after = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    document = published(train_config__mix_gen_induced_traj=0.3)
    written = imported_yaml(*import_published(document), "cifar10_GC_mix50.yaml").splitlines()
    assert set(after.splitlines()) <= set(written)
    source = (FILES[0].parent / "cifar10_GC_mix50.yaml").read_text().replace("traj: 0.5", "traj: 0.3")
    assert set(before.splitlines()) <= set(source.splitlines())
