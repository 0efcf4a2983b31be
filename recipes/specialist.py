"""An adapter of the model that ships, `make specialists`: one task of `wavefold/data/specialists` each.

Bytes of an adapter of rank r on the nano preset's four layers, in and out of each matrix:

    wq_a 256+256, wq_b 256+1024, wkv 256+512, wo_b 256+256, w1, w2, w3 256+256    4,608 r numbers a layer, 18,432 r

Rank 8 in bfloat16, to which the engine rounds them: 294,912 bytes, and 303 kB with names and configuration. The MTP
module's adapter is in adapters.safetensors alone.

Chats have 25 tokens (dates, units) to 47 (cron) of at most 128. 1,400 steps are 2 to 4 epochs of 60,000 cases: 31
minutes on two cores of Zen 4, 3,100 tokens a second.
"""

from wavefold.train.recipe import Recipe

recipe = Recipe(
    steps=1400,
    batch_tokens=4096,
    length_stages=((0, 128),),
    lora_rank=8,
    lora_alpha=16.0,
    lora_dtype="bfloat16",
    lora_greedy=True,
    peak_lr=2e-3,
    warmup=20,
    decay_steps=1000,
    weight_decay=0.0,
    mtp_weight=0.0,
    mtp_final=0.0,
    eval_every=200,
    save_every=100,
)
