"""The model that ships: `make train`, four routed experts of the nano preset on text of packages (docs/training.md).

The order is the report's (section 4.2): short sequences with dense attention first, then the indexer alone, then sparse
attention, longer sequences and FP4 in the loop. The last 800 steps also learn questions and their answers.
"""

from wavefold.train.recipe import Recipe

recipe = Recipe(
    steps=4400,
    batch_tokens=4096,
    length_stages=((0, 512), (2200, 1024), (4100, 2048)),
    dense_steps=2160,
    indexer_warmup=40,
    quantize_from=2200,
    peak_lr=4e-3,
    warmup=100,
    decay_steps=1500,
    fim_rate=0.2,
    last_steps=800,
    eval_every=1100,
    save_every=100,
)
