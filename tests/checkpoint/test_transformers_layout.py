"""transformers' layout: read by transformers alone, it is the same model to the bit of every weight."""

from __future__ import annotations

import pytest
import torch

import wavefold
from wavefold.checkpoint import random_model
from wavefold.checkpoint.transformers_layout import save_transformers
from wavefold.locate import default_model
from wavefold.ops import Arithmetic

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")


@pytest.mark.parametrize("experts", ["fp4", "fp8"])
def test_transformers_reads_it_as_the_official_layout(tmp_path, experts: str) -> None:
    wavefold.save(wavefold.load(default_model(), "exact"), tmp_path / "official", experts=experts)
    save_transformers(wavefold.load(tmp_path / "official", "exact"), tmp_path / "transformers")
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    theirs = transformers.DeepseekV4ForCausalLM.from_pretrained(tmp_path / "transformers", **options)
    decode = transformers.FineGrainedFP8Config(dequantize=True)
    official = transformers.DeepseekV4ForCausalLM.from_pretrained(
        tmp_path / "official", quantization_config=decode, **options
    )
    ours, expected = theirs.state_dict(), official.state_dict()
    assert set(ours) == set(expected)
    different = [name for name, tensor in expected.items() if not torch.equal(tensor.float(), ours[name].float())]
    assert different == []


def test_something_else_is_not_replaced(tmp_path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_text("b")
    with pytest.raises(ValueError, match="is not replaced"):
        save_transformers(
            random_model(wavefold.ModelConfig.preset("nano"), seed=0, arithmetic=Arithmetic("exact")),
            tmp_path / "notes",
        )
