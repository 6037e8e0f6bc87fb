"""Packed linear layers compute what plain ones do."""

import pytest
import torch

from bros.workers.linear import Kind, can_pack, make_linear, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no oneDNN bfloat16 kernels")


@pytest.mark.parametrize("kind", ["packed", "rows"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 2, 33, 256])
def test_it_computes_the_same(num_tokens: int, bias: bool, kind: Kind) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(num_tokens, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        wanted = torch.nn.functional.linear(
            x.float(), linear.weight.float(), linear.bias.float() if bias else None
        )
        found = make_linear(linear, kind)(x)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


def test_all_layers_of_a_model_are_packed() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), inner).to(torch.bfloat16)
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        wanted = model(x)
        pack_linears(model)
        assert not any(type(module) is torch.nn.Linear for module in model.modules())
        torch.testing.assert_close(model(x), wanted, rtol=1e-2, atol=1e-2)


def test_float32_stays_as_it_is() -> None:
    assert not can_pack(torch.float32)
