"""What an import refuses, and what it warns of."""

from pathlib import Path

import pytest

from gcsearch.config import read_document
from gcsearch.config.published import import_published, imported_yaml
from gcsearch.errors import ConfigError

FOLDER = Path(__file__).parent / "published"
TEXT = (FOLDER / "cifar10_GC_mix50.yaml").read_text()


@pytest.fixture
def edited(tmp_path):
    """The published CIFAR-10 file with texts replaced."""

    def edit(*replacements, text=TEXT):
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return read_document(path)

    return edit


def attention(document):
    return {note.key: note.why for note in import_published(document)[1] if note.kind == "attention"}


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("  mix_gen_induced_traj: 0.5", "  mix_gen_induced_traj: 1.5", ["file.yaml:24", "in [0, 1], got 1.5"]),
        ("  mix_gen_induced_traj: 0.5", "  mix_gen_induced_traj: half", ["mix_gen_induced_traj must be a number"]),
        ("batch_size: 512", "batch_size: many", ["file.yaml:5", "batch_size must be an integer, got 'many'"]),
        ("batch_size: 512", "batch_size: 0", ["file.yaml:5", "at least 1, got 0"]),
        ("batch_size: 512\n", "", ["must have the key 'batch_size'"]),
        ("lr: 0.0001", "lr: -1", ["file.yaml:7", "optimizer.lr must be > 0, got -1"]),
        ("lr: 0.0001", "lr: ${rate}", ["file.yaml:7", "interpolation", "Write the value"]),
        ("optimizer: lion", "optimizer: sgd", ["file.yaml:9", "'adam', 'radam', 'lion'", "got 'sgd'"]),
        ("n_train_steps: 100000", "n_train_steps: 0", ["n_train_steps must be at least 1"]),
        ("s1: 1280", "s1: 5", ["file.yaml:18", "timesteps.s1 must be at least s0 = 10"]),
        ("sigma_max: 80\n", "sigma_max: 0.001\n", ["process.sigma_m", "got"]),
        ("ema_decay: 0.9999", "ema_decay: 1", ["file.yaml:19", "ema.max_decay must be in [0, 1), got 1"]),
        ("ema_start: 0", "ema_start: -1", ["ema_start must be >= 0, got -1"]),
        ("ema_start: 0", "loss_type: ssim", ["loss_type", "'huber', 'l2', 'lpips'"]),
        ("generator_induced_traj: True", "generator_induced_traj: maybe", ["true or false", "'maybe'"]),
        ("num_blocks: 3", "num_blocks: [3, 3]", ["network.num_blocks must have one entry per resolution"]),
        ("model_channels: 128", "model_channels: 30", ["network.channels must be a multiple of 4, got 30"]),
        ("dropout: 0.,", "dropout: 1.5,", ["network.dropout must be in [0, 1)"]),
        ("img_resolution: 32", "img_resolution: 30", ["multiples of 2^(resolutions - 1) = 4"]),
        ("embedding_type: positional", "embedding_type: songembedding", ["'positional', 'fourier'"]),
        ("num_blocks: 3", "num_blocks: 3, decoder_type: skip", ["decoder_type", "'standard'"]),
        ("num_blocks: 3", "num_blocks: 3, model_type: DhariwalUNet", ["model_type must be SongUNet", "no counterpart"]),
        ("num_blocks: 3", "num_blocks: 3, song_rescaling: true", ["song_rescaling must be false"]),
        ("num_blocks: 3", "num_blocks: 3, consistency: true", ["generator.consistency must be false"]),
        ("edm_networks.ConsistencyPrecond", "edm_networks.EDMPrecond", ["_target_ must be edm_networks.Consistency"]),
        ("name_exp: cifar10_GC_mix50", "name_exp: [1]", ["name_exp must be a word"]),
        ("name_exp: cifar10_GC_mix50", "name_exp: ' '", ["file.yaml:1", "name_exp must not be empty"]),
        ("image_size: 32", "image_size: 0", ["image_size must be at least 1"]),
    ],
)
def test_a_value_without_meaning_is_refused_at_its_line(edited, old, new, parts):
    with pytest.raises(ConfigError) as error:
        import_published(edited((old, new)))
    assert "\n" not in str(error.value)
    for part in ["file.yaml", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: digits\ndata: {name: digits}\n", ["sections train_config and generator", "needs no import"]),
        ("lr: {value: 0.1}\nwandb_version: 1\n", ["got the keys lr, wandb_version."]),
        ("train_config: 3\ngenerator: {}\nname_exp: a\n", ["must have the key 'dataset'"]),
        (TEXT.split("generator: {")[0] + "generator: unet\n", ["generator must be a mapping, got 'unet'"]),
        (TEXT.split("train_config:")[0] + "train_config: []\ngenerator: {}\n", ["train_config must be a mapping"]),
    ],
)
def test_a_file_of_another_family_is_refused(edited, text, parts):
    with pytest.raises(ConfigError) as error:
        import_published(edited(text=text))
    for part in parts:
        assert part in str(error.value)


def test_unknown_keys_are_named_with_the_nearest_known_one(edited):
    document = edited(
        ("lr: 0.0001", "lr: 0.0001\nweight_decay: 0.1"),
        ("  s1: 1280", "  s1: 1280\n  mix_gen_induced_trajj: 0.3"),
        ("num_blocks: 3", "num_blocks: 3, num_block: 4"),
    )
    warned = attention(document)
    assert "Did you mean" not in warned["weight_decay"]
    assert "'mix_gen_induced_traj'" in warned["train_config.mix_gen_induced_trajj"]
    assert "'num_blocks'" in warned["generator.num_block"]


def test_hydras_composition_is_not_followed_and_said(edited):
    assert "Hydra" in attention(edited(("ngpu: 1", "defaults: [base]")))["defaults"]


def test_a_key_that_would_leave_its_comment_stays_in_it(edited):
    document = edited(("ngpu: 1", '"a\\nseed: 7\\x85b\\u2028c\\0": 1'))
    experiment, notes = import_published(document)
    text = imported_yaml(experiment, notes, "file.yaml")
    assert all(line.isprintable() for line in text.split("\n"))
    assert edited(text=text).data == experiment


def test_the_first_versions_files_train_the_bridge_with_a_warning(edited):
    text = (FOLDER / "v1_cifar10_GC.yaml").read_text()
    document = edited(text=text)
    warned = attention(document)
    assert "HEAD ignores this key" in warned["train_config.diffusion_type"]
    dropout = [note.why for note in import_published(document)[1] if note.key == "generator.dropout" and note.why]
    assert [("masks" in why, "predictor" in why) for why in dropout] == [(True, False), (False, True)]
    head = edited(("dropout: 0.,", "dropout: 0.3,"), text=TEXT)
    assert "predictor" in attention(head)["generator.dropout"]
    assert "generator.dropout" not in attention(read_document(FOLDER / "cifar10_base.yaml"))
    document = edited(text=text)
    assert import_published(document)[0]["process"]["sigma_max"] == 80.0
    same = import_published(edited(("diffusion_type: interpolation", "diffusion_type: bridge"), text=text))[0]
    assert same["process"]["name"] == "bridge"


@pytest.mark.parametrize(("written", "warns"), [("var_exp", False), ("var_ex", True)])
def test_the_process_of_head_is_variance_exploding_whatever_the_key_says(edited, written, warns):
    document = edited(("diffusion_type: var_exp", f"diffusion_type: {written}"))
    assert import_published(document)[0]["process"]["name"] == "ve"
    assert ("train_config.diffusion_type" in attention(document)) == warns


def test_files_that_fail_in_that_code_are_imported_and_said():
    warned = attention(read_document(FOLDER / "celebA_base.yaml"))
    assert "not in the published code" in warned["train_config._target_"]
    assert "fails on a list" in warned["generator.num_blocks and dropout"]
    unused = {
        note.key for note in import_published(read_document(FOLDER / "celebA_base.yaml"))[1] if note.kind == "unused"
    }
    assert {"train_config.z_dim", "train_config.generator_type", "train_config.consistency"} <= unused


def test_keys_that_code_never_reads_are_offered_where_gcsearch_can_do_it(edited):
    more = "  s1: 1280\n  minibatch_OT: true\n  end_generator_induced_traj: 60000"
    document = edited(("  s1: 1280", more), ("start_generator_induced_traj: 0", "start_generator_induced_traj: 25000"))
    warned = attention(document)
    assert "coupling.base: ot" in warned["train_config.minibatch_OT"]
    assert "coupling.start: 0.25" in warned["train_config.start_generator_induced_traj"]
    assert "coupling.end: 0.6" in warned["train_config.end_generator_induced_traj"]
    assert import_published(document)[0]["coupling"] == {"name": "generator", "mu": 0.5, "predictor": "ema"}
    assert "train_config.start_generator_induced_traj" not in attention(edited())
    independent = edited(("generator_induced_traj: True", "generator_induced_traj: False"), ("  s1: 1280", more))
    assert "coupling.name: ot" in attention(independent)["train_config.minibatch_OT"]


@pytest.mark.parametrize(
    ("old", "new", "key", "part"),
    [
        ("dataset: cifar10", "dataset: lsun_church", "dataset", "Not one of that code's data sets"),
        ("img_resolution: 32", "img_resolution: 64", "generator.img_resolution", "32 x 32 pixels"),
        ("img_channels: 3", "img_channels: 1", "generator.img_channels", "have 3"),
        ("img_channels: 3, sigma_min: 0.002", "img_channels: 3, sigma_min: 0.01", "generator.sigma_min", "identity"),
        ("num_blocks: 3", "num_blocks: 3, use_fp16: true", "generator.use_fp16", "bfloat16"),
        ("ema_start: 0", "path: exps/best_model.pt", "train_config.path", "not imported"),
        ("utils.Train_config", "mine.Config", "train_config._target_", "Unknown to that code"),
    ],
)
def test_what_cannot_be_carried_over_needs_attention(edited, old, new, key, part):
    assert part in attention(edited((old, new)))[key]


def test_another_data_set_is_named_by_its_size(edited):
    document = edited(("dataset: cifar10", "dataset: lsun_church"), ("image_size: 32", "image_size: 64"))
    assert import_published(document)[0]["data"] == {"name": "lsun_church64"}
