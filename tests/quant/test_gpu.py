"""The number formats on a GPU: the bytes that a CPU gives."""

import pytest
import torch

from wavefold import quant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_function_gives_the_bytes_of_the_cpu(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 416, generator=generator) * 2.0 ** torch.randint(-8, 4, (300, 1), generator=generator)
    x = x.to(dtype)

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        fp4, fp8 = quant.quantize_fp4(x), quant.quantize_fp8(x)
        converted = quant.fp4_to_fp8(*fp4)
        results = [*fp4, *fp8, *converted, *quant.fp8_to_fp4(*converted)]
        results += [*quant.act_quant(x), quant.fp8_sim(x), *quant.fp4_quant(x), quant.fp4_sim(x)]
        results += [quant.dequantize(*fp4, dtype), quant.dequantize(*fp8, dtype)]
        return results

    for index, (ours, theirs) in enumerate(zip(run(x.cuda()), run(x), strict=True)):
        assert ours.is_cuda and ours.dtype == theirs.dtype
        assert torch.equal(ours.cpu().contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8)), index


def test_hadamard():
    x = torch.randn(300, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quant.hadamard(x.cuda()).cpu(), quant.hadamard(x), rtol=0, atol=1e-6)
