"""Networks in mixed precision and compiled."""

from __future__ import annotations

import pytest
import torch

from gcsearch.science.dropout import seed_tensor
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.song_unet import SongUNet
from gcsearch.science.networks.unet import UNet

NETWORKS = {
    "mlp": MLP(width=16, dropout=0.3),
    "unet": UNet(channels=8, channel_mult=(1,), num_blocks=1, dropout=0.3),
    "song_unet": SongUNet(channels=8, channel_mult=(1, 2), num_blocks=1, dropout=0.3),
}
SHAPE = (2, 8, 8)


@pytest.mark.parametrize("settings", [pytest.param(value, id=name) for name, value in NETWORKS.items()])
def test_in_bf16_what_comes_from_the_level_alone_is_what_it_is_in_fp32(settings, awake, rng):
    module, seen = awake(settings, SHAPE).float(), []
    # Where the level enters: the embedding, and the linear layer that adds it to the activations.
    parts = [part for name, part in module.named_modules() if name == "embedding" or name.endswith("affine")]
    for part in parts:
        part.register_forward_hook(lambda _, given, output: seen.append(output))
    x, conditioning = torch.randn(2, *SHAPE, generator=rng), torch.tensor([0.5, 0.501])
    module(x, conditioning, None)
    exact = list(seen)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x, conditioning, None)
    assert output.dtype == torch.bfloat16
    assert len(exact) == len(seen) == len(parts)
    torch.testing.assert_close(seen, exact, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [pytest.param(value, id=name) for name, value in NETWORKS.items()])
def test_in_bf16_levels_that_bf16_cannot_tell_apart_reach_the_first_layer_after_the_embedding(settings, awake, rng):
    module, seen = awake(settings, SHAPE).float(), []
    entry = (
        module.second
        if isinstance(settings, MLP)
        else next(part for name, part in module.named_modules() if name.endswith("affine"))
    )
    entry.register_forward_hook(lambda _, given, output: seen.append(output))
    x = torch.randn(1, *SHAPE, generator=rng).expand(2, *SHAPE)
    conditioning = torch.tensor([0.5, 0.5005])
    assert (conditioning.bfloat16()[0] == conditioning.bfloat16()[1]).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(x, conditioning, None)
    (output,) = seen
    assert output.dtype == torch.float32
    assert (output[0] != output[1]).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("mlp", "eager"),
        ("unet", "eager"),
        *(pytest.param(name, "inductor", marks=pytest.mark.slow) for name in NETWORKS),
    ],
)
def test_network_compiles_to_one_graph_that_serves_every_dropout_seed(
    name, backend, awake, rng, plain_functions, compile_counter
):
    module, counter = awake(NETWORKS[name], SHAPE).float(), compile_counter(backend)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    x, conditioning = torch.randn(3, *SHAPE, generator=rng), torch.tensor([-1.0, 0.0, 1.0])
    outputs = []
    for seed in (0, 1, 2**63, 2**64 - 1):
        outputs.append(compiled(x, conditioning, seed_tensor(seed)))
        torch.testing.assert_close(outputs[-1], module(x, conditioning, seed_tensor(seed)), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1
    assert (outputs[0] != outputs[1]).any()
    assert (outputs[0] != compiled(x, conditioning, None)).any()
    assert counter.frame_count == 2  # without dropout it is another graph
