"""The adapter for lm-eval gives the numbers that lm-eval's own `hf` model gives with transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install wavefold[lm-eval]")
transformers = pytest.importorskip("transformers")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from wavefold.lm_eval import WavefoldLM  # noqa: E402
from wavefold.locate import default_model  # noqa: E402

CHOICES = [
    ("def read(path):\n    with open(path) as file:\n        return file.", ["read()", "banana", "write(path)"]),
    ("import ", ["os\n", "zebra\n", "sys\n"]), ("for i in ", ["range(10):", "the", "xyz"]),
    ("class Error(", ["Exception):", "def", " x"]), ("if x is not ", ["None:", "maybe", "yes"]),
]  # fmt: skip
TEXTS = ["import os\nimport sys\n", "def f(x):\n    return x + 1\n", "ä — 日本\n"]


@pytest.fixture(scope="module")
def ours() -> WavefoldLM:
    return WavefoldLM(arithmetic="exact")


@pytest.fixture(scope="module")
def theirs() -> HFLM:
    model = transformers.DeepseekV4ForCausalLM.from_pretrained(
        default_model(), dtype=torch.float32, attn_implementation="eager",
        quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
    ).float()  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(default_model())
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=2048, backend="causal")


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def test_log_probabilities(ours: WavefoldLM, theirs: HFLM) -> None:
    pairs = [(context, f"{choice}") for context, choices in CHOICES for choice in choices] + [("", "import")]
    found = ours.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    expected = theirs.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    for (value, greedy), (other, other_greedy) in zip(found, expected, strict=True):
        assert value == pytest.approx(other, abs=1e-3) and greedy == other_greedy


def test_whole_texts(ours: WavefoldLM, theirs: HFLM) -> None:
    requests = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    found, expected = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in (ours, theirs))
    assert found == pytest.approx(expected, abs=1e-3)


def test_answers(ours: WavefoldLM, theirs: HFLM) -> None:
    values = {"until": ["\n\n", "return"], "max_gen_toks": 24, "do_sample": False}
    requests = instances("generate_until", [(context, values) for context, _ in CHOICES])
    assert ours.generate_until(requests, disable_tqdm=True) == theirs.generate_until(requests, disable_tqdm=True)


def test_a_task(ours: WavefoldLM, theirs: HFLM, tmp_path: Path) -> None:
    lines = [{"q": text, "options": choices, "gold": number % 2} for number, (text, choices) in enumerate(CHOICES)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "small.yaml").write_text(
        "task: small\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'data.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: '{{options}}'\ndoc_to_target: '{{gold}}'\ntarget_delimiter: ''\n"
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found, expected = (
        lm_eval.simple_evaluate(model, tasks=["small"], task_manager=manager, bootstrap_iters=0)["results"]["small"]
        for model in (ours, theirs)
    )
    assert found == expected and 0 <= found["acc,none"] <= 1


def test_mistakes(ours: WavefoldLM) -> None:
    with pytest.raises(ValueError, match="generation_kwargs num_beams are not honoured here; expected until"):
        ours.generate_until(instances("generate_until", [("x", {"num_beams": 3})]), disable_tqdm=True)
    with pytest.raises(ValueError, match="device = cuda is not allowed; expected cpu"):
        WavefoldLM(device="cuda")
