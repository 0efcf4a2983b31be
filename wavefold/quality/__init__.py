"""The quality card: what a model's file is worth, by figures with standard errors that two runs give alike.

held-out text   bits per byte, nats per token; KL and the same best token against another model     reading.py
needles         a fact in a long text, found by likelihood                                           needles.py
loops           continuations that fall into repetition                                              loops.py
forms, tools    JSON and tool calls: valid by themselves, and held by the engine's grammar           forms.py, tools.py
chats           the file's template, the end mark, answers that stop                                 chats.py

Run (run.py) -> units in a folder -> Card (card.py) -> JSON, Markdown, page; compare.py for two cards
"""

from wavefold.quality.card import Card
from wavefold.quality.compare import compare
from wavefold.quality.run import Asked, Run
from wavefold.quality.settings import Settings, quick

__all__ = ["Asked", "Card", "Run", "Settings", "compare", "quick"]
