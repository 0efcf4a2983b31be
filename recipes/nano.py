"""The model that ships: `make train`, the nano preset on the standard library (docs/training.md).

The order is the report's (section 4.2): short sequences with dense attention first, then the indexer alone, then sparse
attention, longer sequences and FP4 in the loop.
"""

from wavefold.train.recipe import Recipe

recipe = Recipe(
    steps=2000,
    batch_tokens=4096,
    length_stages=((0, 512), (1000, 1024), (1850, 2048)),
    dense_steps=960,
    indexer_warmup=40,
    quantize_from=1000,
    peak_lr=4e-3,
    warmup=100,
    decay_steps=1000,
    fim_rate=0.2,
    eval_every=400,
)
