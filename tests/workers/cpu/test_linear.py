"""Linear layers in each layout compute what plain ones do."""

import pytest
import torch

from bros.workers.cpu.linear import (
    Kind,
    PackedLinear,
    PanelLinear,
    can_pack,
    has_onednn,
    make_linear,
    pack_linears,
)

onednn = pytest.mark.skipif(not has_onednn(), reason="no oneDNN bfloat16 kernels for this CPU")
KINDS = ["panels", pytest.param("packed", marks=onednn)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 11, 12, 13, 16, 17, 32, 33, 256])
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [5, 30])
@torch.inference_mode()
def test_tokens_may_have_more_dimensions(num_tokens: int, kind: Kind) -> None:
    linear = torch.nn.Linear(96, 160, dtype=torch.bfloat16)
    x = torch.randn(1, num_tokens, 96, dtype=torch.bfloat16)
    made = make_linear(linear, kind)
    assert made(x).shape == (1, num_tokens, 160)
    assert torch.equal(made(x)[0], made(x[0]))


@pytest.mark.parametrize("kind", ["panels", "int8"])
@torch.inference_mode()
def test_a_token_is_computed_alike_in_all_company(kind: Kind) -> None:
    torch.manual_seed(1)
    linear = make_linear(torch.nn.Linear(96, 160, dtype=torch.bfloat16), kind)
    x = torch.randn(70, 96, dtype=torch.bfloat16)
    together = linear(x)
    for first in range(70):
        for last in (first + 1, min(70, first + 11), min(70, first + 33)):
            assert torch.equal(linear(x[first:last]), together[first:last])


@pytest.mark.parametrize("kind", ["panels", "int8"])
@torch.inference_mode()
def test_long_prompts_are_computed_alike_in_all_company(kind: Kind) -> None:
    """Code for a matrix unit cuts inputs into blocks for many tokens, which must change no bit."""
    torch.manual_seed(1)
    linear = make_linear(torch.nn.Linear(608, 96, dtype=torch.bfloat16), kind)
    x = torch.randn(1100, 608, dtype=torch.bfloat16)
    alone = torch.cat([linear(row[None]) for row in x])
    for num_tokens in [*range(1, 601, 7), 63, 64, 65, 511, 512, 513, 1024, 1100]:
        assert torch.equal(linear(x[:num_tokens]), alone[:num_tokens])
        assert torch.equal(linear(x[-num_tokens:]), alone[-num_tokens:])


@pytest.mark.parametrize("num_tokens", [1, 40])
@torch.inference_mode()
def test_int8_is_close(num_tokens: int) -> None:
    torch.manual_seed(3)
    linear = torch.nn.Linear(96, 160, dtype=torch.bfloat16)
    x = torch.randn(num_tokens, 96, dtype=torch.bfloat16)
    wanted = linear(x).float()
    error = (make_linear(linear, "int8")(x).float() - wanted).norm() / wanted.norm()
    assert error < 0.02


@pytest.mark.parametrize("num_tokens", [1, 12, 40])
@torch.inference_mode()
def test_int8_loses_nothing_but_in_rounding_weights(num_tokens: int) -> None:
    """All 255 weights are read exactly: sums equal those of the same weights in bfloat16."""
    torch.manual_seed(4)
    whole = torch.randint(-127, 128, (160, 96))
    whole[:, 0] = 127  # with which the scale of each output is 1
    linear = torch.nn.Linear(96, 160, bias=False, dtype=torch.bfloat16)
    linear.weight.copy_(whole)
    small, wide = make_linear(linear, "int8"), make_linear(linear, "panels")
    assert isinstance(small, PanelLinear)
    assert isinstance(wide, PanelLinear)
    assert len(whole.unique()) == 255
    x = torch.randn(num_tokens, 96, dtype=torch.bfloat16)
    assert torch.equal(small.logits(x), wide.logits(x))


@torch.inference_mode()
def test_logits_are_not_rounded() -> None:
    linear = torch.nn.Linear(96, 160, bias=False, dtype=torch.bfloat16)
    x = torch.randn(30, 96, dtype=torch.bfloat16)
    made = make_linear(linear, "panels")
    assert isinstance(made, PanelLinear)
    wanted = x.float() @ linear.weight.float().T
    torch.testing.assert_close(made.logits(x), wanted, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_into_panels_is_packed_or_left() -> None:
    odd = torch.nn.Linear(96, 100, dtype=torch.bfloat16)
    wanted = PackedLinear if has_onednn() else torch.nn.Linear
    assert type(make_linear(odd, "panels")) is wanted


def test_all_layers_of_a_model_are_packed() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU())
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), inner).to(torch.bfloat16)
    x = torch.ones(2, 32, dtype=torch.bfloat16)
    with torch.inference_mode():
        wanted = model(x)
        pack_linears(model)
        assert not any(type(module) is torch.nn.Linear for module in model.modules())
        torch.testing.assert_close(model(x), wanted, rtol=1e-2, atol=1e-2)


def test_float32_stays_as_it_is() -> None:
    assert not can_pack(torch.float32)
