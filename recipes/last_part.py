"""The last part of the model that ships once more, on text and chats, with and without FP4 in the loop.

    make corpus
    wavefold train --recipe recipes/last_part.py --init wavefold/models/default \\
        --data build/corpus/shards/3072/last --out runs/loop
    wavefold train ... --set quantize=none --out runs/after

The export of the second is rounded: report.json has its nats a token, the log's last line those before. Most holes are
lines here, as editors ask for them (docs/training.md).
"""

from wavefold.train.recipe import Recipe

recipe = Recipe(
    steps=200,
    batch_tokens=4096,
    length_stages=((0, 1024),),
    peak_lr=1.5e-3,
    warmup=16,
    decay_steps=170,
    fim_rate=0.4,
    fim_lines=0.8,
    eval_every=200,
    save_every=40,
)
