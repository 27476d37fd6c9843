"""Edits: exact transforms, known measurements, and closed forms for a network that knows its data."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gcsearch.config import build
from gcsearch.science.editing import edit, edits, interpolated_latents
from gcsearch.science.editing.recovery import LUMA, Inpaint, orthogonal_basis
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.process import ConditionalOT, TrigFlow, VarianceExploding

SHAPE = (3, 8, 8)
RECOVERIES = (
    {"name": "inpaint"},
    {"name": "inpaint", "box": [0, 0.5, 1, 1]},
    {"name": "colorize"},
    {"name": "superres"},
    {"name": "superres", "factor": 8},
)


class Wild(nn.Module):
    """A network that says something else at every pixel, far outside of the data's range."""

    def forward(self, x, conditioning, dropout=None):
        del dropout
        return 5 * torch.sin(17 * x + conditioning.reshape(-1, 1, 1, 1))


class Known(ConsistencyFunction):
    """The exact consistency function of one image under the variance-exploding process."""

    def __init__(self, image, process):
        super().__init__(nn.Identity(), process)
        self.image = image

    def __call__(self, state, sigma, dropout_seed=None):
        share = (self.process.sigma_min / sigma).reshape(-1, 1, 1, 1)
        return self.image + share * (state - self.image)


def images(num=4, seed=0):
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def stage_noise(stage, num=4):
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(100 + stage))


@pytest.mark.parametrize("spec", RECOVERIES, ids=str)
def test_the_transform_is_orthogonal(spec):
    rule = build("edit", spec)
    batch = images()
    there = rule.to_coefficients(batch)
    torch.testing.assert_close(rule.from_coefficients(there), batch, atol=1e-6, rtol=0)
    torch.testing.assert_close(rule.to_coefficients(rule.from_coefficients(batch)), batch, atol=1e-6, rtol=0)
    torch.testing.assert_close(there.square().sum((1, 2, 3)), batch.square().sum((1, 2, 3)))


@pytest.mark.parametrize("direction", [LUMA, (1.0,) * 4, (1.0,) * 256])
def test_the_basis_is_orthogonal_in_single_precision_and_begins_with_its_direction(direction):
    basis = orthogonal_basis(direction)
    assert basis.dtype == torch.float32
    torch.testing.assert_close(basis.double().T @ basis.double(), torch.eye(len(direction)).double(), atol=1e-6, rtol=0)
    expected = torch.tensor(direction) / math.sqrt(sum(value**2 for value in direction))
    torch.testing.assert_close(basis[:, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("process", [VarianceExploding(), ConditionalOT(), TrigFlow()], ids=lambda one: one.name)
@pytest.mark.parametrize("spec", RECOVERIES, ids=str)
def test_what_is_known_is_in_the_result_to_1e_5_whatever_the_network_says(spec, process):
    rule, reference = build("edit", spec), images()
    result = edit(ConsistencyFunction(Wild(), process), rule, reference, stage_noise)
    known = 1 - rule.missing(reference)
    wanted, got = rule.to_coefficients(reference) * known, rule.to_coefficients(result) * known
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert (result - reference).abs().max() > 0.1, "and the rest is drawn"


def test_known_measurements_mean_what_they_say():
    reference = images()
    result = edit(ConsistencyFunction(Wild(), VarianceExploding()), build("edit", "superres"), reference, stage_noise)
    pool = nn.AvgPool2d(2)
    torch.testing.assert_close(pool(result), pool(reference), atol=1e-5, rtol=0)
    result = edit(ConsistencyFunction(Wild(), VarianceExploding()), build("edit", "colorize"), reference, stage_noise)
    weights = torch.tensor(LUMA)[None, :, None, None]
    torch.testing.assert_close((result * weights).sum(1), (reference * weights).sum(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", [*RECOVERIES, {"name": "denoise", "sigma": 3.0}, {"name": "stroke"}], ids=str)
def test_a_network_that_knows_the_image_gives_it_back(spec):
    process, reference = VarianceExploding(), images()
    result = edit(Known(reference, process), build("edit", spec), reference, stage_noise)
    # One part in sigma / sigma_min of the state's noise is left by the last evaluation.
    torch.testing.assert_close(result, reference, atol=0.02, rtol=0)


def test_what_the_edit_sees():
    reference = images()
    grey = build("edit", "colorize").known(reference)
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    coarse = build("edit", "superres").known(reference)
    torch.testing.assert_close(coarse[..., ::2, ::2], nn.AvgPool2d(2)(reference))
    torch.testing.assert_close(coarse[..., 1::2, 1::2], nn.AvgPool2d(2)(reference))
    hole = build("edit", "inpaint").known(reference)
    assert torch.equal(hole[..., 2:6, 2:6], torch.zeros(4, 3, 4, 4))
    assert torch.equal(hole[..., :2, :], reference[..., :2, :])


def test_a_mask_says_which_pixels_are_drawn():
    mask = tuple(tuple(int(row == column) for column in range(8)) for row in range(8))
    rule = Inpaint(mask=mask)
    hole = rule.known(images() + 3)
    assert torch.equal(hole.eq(0).all(dim=1), torch.eye(8, dtype=torch.bool).expand(4, 8, 8))
    with pytest.raises(ValueError, match="8 x 8"):
        replace(rule, mask=mask[:4]).check(SHAPE)
    with pytest.raises(ValueError, match="nothing but 0 and 1"):
        Inpaint(mask=((0, 2),))


def test_denoising_evaluates_once_at_its_level_and_stroke_goes_down_from_its_own():
    seen = []

    class Listening(Known):
        def __call__(self, state, sigma, dropout_seed=None):
            seen.append(round(float(sigma[0]), 3))
            return super().__call__(state, sigma)

    function = Listening(images(), VarianceExploding())
    edit(function, build("edit", {"name": "denoise", "sigma": 0.7}), images(), stage_noise)
    assert seen == [0.7]
    seen.clear()
    edit(function, build("edit", "stroke"), images(), stage_noise, levels=[2.24])
    assert seen == [5.38, 2.24]
    seen.clear()
    edit(function, build("edit", "inpaint"), images(), stage_noise)
    grid = [round(level, 3) for level in VarianceExploding().grid(18).tolist()]
    assert seen == grid[:0:-1]


def test_levels_and_edits_that_mean_nothing_are_refused():
    function = Known(images(), VarianceExploding())
    with pytest.raises(ValueError, match=r"decreasing and below 5\.38"):
        edit(function, build("edit", "stroke"), images(), stage_noise, levels=[6.0])
    with pytest.raises(ValueError, match="above sigma_min"):
        edit(function, build("edit", "inpaint"), images(), stage_noise, levels=[0.001])
    with pytest.raises(ValueError, match="at most sigma_max = 80"):
        edit(function, build("edit", {"name": "denoise", "sigma": 100}), images(), stage_noise)
    with pytest.raises(ValueError, match="3 channels"):
        build("edit", "colorize").check((1, 8, 8))
    with pytest.raises(ValueError, match="divide height 8 and width 8, got 3"):
        build("edit", {"name": "superres", "factor": 3}).check(SHAPE)
    for name in edits:
        with pytest.raises(ValueError, match="images"):
            build("edit", name).check((2,))


def test_interpolation_keeps_the_ends_and_the_length_of_normal_noise():
    first, last = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0)).unbind()
    between = interpolated_latents(first, last, 5).reshape(3, 5, 1000)
    torch.testing.assert_close(between[:, 0], first)
    torch.testing.assert_close(between[:, -1], last)
    torch.testing.assert_close(between.std(dim=2), torch.ones(3, 5), atol=0.08, rtol=0)

    # Between ends of one length, the angle to the first grows evenly.
    ends = [torch.nn.functional.normalize(end.double(), dim=1) for end in (first, last)]
    between = interpolated_latents(*ends, 5).reshape(3, 5, 1000)
    angle = torch.arccos(torch.linalg.vecdot(between, ends[0][:, None]).clamp(-1, 1))
    steps = angle.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, 1:2].expand(3, 4), atol=1e-6, rtol=0)


def test_interpolation_between_parallel_latents_is_a_line():
    line = interpolated_latents(torch.ones(1, 4), 3 * torch.ones(1, 4), 3)
    torch.testing.assert_close(line, torch.tensor([[1.0] * 4, [2.0] * 4, [3.0] * 4]))
