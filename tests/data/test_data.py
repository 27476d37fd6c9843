"""Data sets and the order in which training sees them."""

from __future__ import annotations

import pytest
import torch

from gcsearch.data import Examples, batches, datasets
from gcsearch.data.batches import Batches
from gcsearch.data.digits import Digits, load_labelled
from gcsearch.data.gaussians import OneToTwoModes, OneToTwoModesV1, TwoToTwoModes
from gcsearch.errors import DataError
from gcsearch.science.images import to_bytes
from gcsearch.science.process import Linear, VarianceExploding


def numbers(count):
    """Examples that are their own index."""
    return Examples(torch.arange(count, dtype=torch.float32)[:, None])


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 10), (7, 5), (5, 12), (1, 4)])
def test_every_example_comes_once_per_epoch(count, batch_size):
    drawn = Batches(numbers(count), batch_size, seed=0)
    order = torch.cat([drawn.indices(step) for step in range(6 * count)])
    for epoch in order.split(count):
        assert sorted(epoch.tolist()) == list(range(count))
    assert len(order) == 6 * count * batch_size


def test_batch_that_spans_two_epochs_ends_one_and_begins_the_next():
    drawn, single = Batches(numbers(10), 4, seed=3), Batches(numbers(10), 1, seed=3)
    order = torch.cat([single.indices(step) for step in range(40)])
    assert drawn.indices(2).tolist() == order[8:12].tolist()
    assert sorted(order[:10].tolist()) == list(range(10))
    assert sorted(order[10:20].tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()


def test_order_is_a_function_of_seed_and_step_alone():
    forward, backward = Batches(numbers(50), 8, seed=5), Batches(numbers(50), 8, seed=5)
    steps = list(range(30))
    first = {step: forward.indices(step).tolist() for step in steps}
    # Asked in another order, and starting in the middle, as after a resume.
    assert {step: backward.indices(step).tolist() for step in reversed(steps)} == first
    assert Batches(numbers(50), 8, seed=5).indices(17).tolist() == first[17]


def test_seeds_give_different_orders():
    orders = [Batches(numbers(100), 100, seed=seed).indices(0).tolist() for seed in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batch_holds_the_examples_of_its_indices():
    drawn = Batches(numbers(20), 6, seed=1)
    assert drawn[4][:, 0].long().tolist() == drawn.indices(4).tolist()


@pytest.mark.usefixtures("unchanged_global_rng")
def test_batches_and_data_sets_leave_the_global_generators_alone(ready):
    Batches(numbers(20), 6, seed=1)[9]
    for name in datasets:
        ready(name).load()


def test_all_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = Examples(levels).scaled()
    assert (scaled.dtype, scaled.min().item(), scaled.max().item()) == (torch.float32, -1.0, 1.0)
    torch.testing.assert_close(to_bytes(scaled), levels, rtol=0, atol=0)


def test_images_of_a_batch_are_scaled_and_points_are_not():
    image = Batches(Digits().load(), 4, seed=0)[0]
    assert (image.shape, image.dtype) == ((4, 1, 8, 8), torch.float32)
    assert image.min() == -1
    assert image.max() > 0.5
    points = TwoToTwoModes(num_points=10)
    torch.testing.assert_close(points.load().scaled(), points.load().values, rtol=0, atol=0)


def test_hash_names_the_content():
    # Recorded when the data set was added: it is part of every score's identity.
    assert Digits().load().sha256 == "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f"
    assert OneToTwoModes().load().sha256 == OneToTwoModes().load().sha256
    values = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    changed = values.clone()
    changed[2, 0, 1, 1] += 1
    assert Examples(values).sha256 == Examples(values.transpose(2, 3).contiguous().transpose(2, 3)).sha256
    assert Examples(values).sha256 != Examples(changed).sha256


def test_digits_are_bytes_with_labels():
    images, labels = load_labelled()
    assert (images.shape, images.dtype) == ((1797, 1, 8, 8), torch.uint8)
    assert (images.min().item(), images.max().item()) == (0, 255)
    assert len(images.unique()) == 17
    assert labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", list(datasets))
def test_examples_have_the_declared_shape_and_are_reproducible(name, ready):
    dataset = ready(name)
    first, again = dataset.load(), dataset.load()
    assert first.values.shape[1:] == dataset.event_shape
    assert first.is_image == (first.values.dtype == torch.uint8)
    torch.testing.assert_close(first.values, again.values, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dataset", "modes"),
    [
        (OneToTwoModes(), [[0.0, -0.5], [0.0, 0.5]]),
        (OneToTwoModesV1(), [[1.0, -1.0], [1.0, 1.0]]),
        (TwoToTwoModes(), [[1.0, -1.0], [1.0, 1.0]]),
    ],
)
def test_mixtures_have_two_equal_narrow_modes(dataset, modes):
    points = dataset.load().values
    distances = torch.cdist(points, torch.tensor(modes))
    nearest, mode = distances.min(dim=1)
    assert nearest.max() < 6 * dataset.std
    assert nearest.square().mean().sqrt() == pytest.approx(dataset.std * 2**0.5, rel=0.05)
    assert mode.double().mean() == pytest.approx(0.5, abs=0.02)


def test_source_is_normal_unless_the_data_set_says_otherwise(rng):
    normal = Digits().draw_source(1000, rng)
    assert normal.shape == (1000, 1, 8, 8)
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.02)
    modes = TwoToTwoModes().draw_source(1000, rng)
    assert modes[:, 0].mean() == pytest.approx(-1, abs=0.01)
    assert modes[:, 1].abs().mean() == pytest.approx(1, abs=0.01)


def test_source_of_the_first_paper_is_narrow_along_the_path_and_wide_across_it(rng):
    source = OneToTwoModesV1().draw_source(20_000, rng)
    torch.testing.assert_close(source.mean(0), torch.tensor([-1.0, 0.0]), rtol=0, atol=0.02)
    torch.testing.assert_close(source.std(0), torch.tensor([0.01, 0.5]), rtol=0.03, atol=0)


@pytest.mark.parametrize("name", ["gaussians_1m2m", "gaussians_1m2m_v1", "gaussians_2m2m"])
def test_ideal_flow_has_the_moments_of_data_and_source(name, rng):
    dataset, process = datasets[name](), Linear()
    flow = dataset.ideal_flow(process)
    for sampled, modes in (
        (dataset.load().values, flow.data),
        (dataset.draw_source(10_000, rng), flow.noise),
    ):
        expected = modes.sample(200_000, rng)
        torch.testing.assert_close(sampled.mean(0), expected.mean(0), rtol=0, atol=0.04)
        torch.testing.assert_close(sampled.T.cov(), expected.T.cov(), rtol=0.05, atol=0.02)


def test_ideal_flow_of_the_digits_ends_at_a_digit(rng):
    images = Digits().load().scaled()
    flow, process = Digits().ideal_flow(VarianceExploding()), VarianceExploding()
    sigma = torch.full((5,), 0.05)
    noisy = process.add_noise(images[:5], torch.randn(5, 1, 8, 8, generator=rng), sigma)
    torch.testing.assert_close(flow.denoised(noisy, sigma), images[:5], rtol=0, atol=1e-4)
    far = torch.full((5,), 1e4)
    torch.testing.assert_close(
        flow.denoised(process.add_noise(images[:5], torch.zeros(5, 1, 8, 8), far), far),
        images.mean(0).expand(5, 1, 8, 8),
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"std": float("nan")}, {"num_points": 0}])
@pytest.mark.parametrize("cls", [OneToTwoModes, OneToTwoModesV1, TwoToTwoModes])
def test_mixtures_that_mean_nothing_are_refused(cls, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        cls(**settings)


def test_empty_data_set_is_refused():
    with pytest.raises(DataError, match="at least one example"):
        Examples(torch.zeros(0, 2))


@pytest.mark.parametrize(("free", "fits"), [(4 * 96, True), (4 * 96 - 1, False)])
def test_data_move_to_a_gpu_only_if_they_leave_it_most_of_its_memory(monkeypatch, free, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    values = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert batches._fits(values, torch.device("cuda")) == fits
    assert batches._fits(values, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_that_stay_on_the_host_give_the_same_batches(monkeypatch):
    examples = Digits().load()
    resident = Batches(examples, 64, seed=0, device="cuda")
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
    streamed, host = Batches(examples, 64, seed=0, device="cuda"), Batches(examples, 64, seed=0)
    assert (resident.examples.values.device.type, streamed.examples.values.device.type) == ("cuda", "cpu")
    for step in (0, 27, 28, 100):
        assert streamed[step].device.type == "cuda"
        torch.testing.assert_close(streamed[step], resident[step], rtol=0, atol=0)
        torch.testing.assert_close(streamed[step].cpu(), host[step], rtol=1e-6, atol=1e-6)
