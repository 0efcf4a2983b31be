"""A model that answers questions, `make instruct`: the model that ships, on chats made of docstrings."""

from wavefold.train.recipe import Recipe

recipe = Recipe(
    steps=400,
    batch_tokens=4096,
    length_stages=((0, 1024),),
    peak_lr=1e-3,
    warmup=20,
    decay_steps=300,
    eval_every=200,
    save_every=100,
)
