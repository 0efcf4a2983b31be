"""What a card measures, by one number of tokens: all sizes scale with it, so that a large model's card takes hours."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

BYTES_A_TOKEN = 3
"""Texts are cut by bytes, so that models with different tokenizers read the same ones. This is what a token counts."""
DEFAULT_TOKENS = 12288
QUICK_TOKENS = 2048
NEEDLE_LENGTHS = (512, 1024, 2048, 4096)
LEAST_TOKENS, LEAST_LENGTH = 256, 128
PARTS = ("text", "needles", "loops", "forms", "tools", "chats")


@dataclass(frozen=True)
class Settings:
    """`tokens`: of the held-out texts, about. `lengths`: tokens around a needle, about. `seed`: of the draws."""

    tokens: int = DEFAULT_TOKENS
    lengths: tuple[int, ...] = NEEDLE_LENGTHS
    seed: int = 0
    arithmetic: str = "released"
    dtype: str | None = None
    activations: str = "bf16"
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        if self.tokens < LEAST_TOKENS:
            raise ValueError(f"tokens = {self.tokens} is not allowed; expected {LEAST_TOKENS} or more")
        if not self.lengths or min(self.lengths) < LEAST_LENGTH:
            raise ValueError(
                f"lengths = {self.lengths} are not allowed; expected numbers of tokens from {LEAST_LENGTH} on"
            )
        if not self.parts or not set(self.parts) <= set(PARTS):
            names = ", ".join(self.parts) or "''"
            raise ValueError(f"parts = {names} are not allowed; expected some of {', '.join(PARTS)}")

    @property
    def text_bytes(self) -> int:
        """Bytes of the held-out texts."""
        return self.tokens * BYTES_A_TOKEN

    @property
    def draws(self) -> int:
        """Answers that are drawn for a case, and a sixteenth of the continuations."""
        return max(1, round(2 * self.tokens / DEFAULT_TOKENS))

    @property
    def depths(self) -> tuple[float, ...]:
        """Where in a text a needle lies, as shares of it."""
        return (0.1, 0.4, 0.7, 0.95) if self.tokens >= DEFAULT_TOKENS else (0.2, 0.8)

    @property
    def batch_invariant(self) -> bool:
        """True where answers keep their bits whatever stands beside them: in bfloat16."""
        return self.dtype in (None, "bfloat16") and (self.arithmetic == "released" or self.dtype == "bfloat16")

    def values(self) -> dict[str, object]:
        """For JSON."""
        return {
            **asdict(self),
            "lengths": list(self.lengths),
            "parts": list(self.parts),
            "batch_invariant": self.batch_invariant,
        }


def quick(settings: Settings) -> Settings:
    """The card of half a minute for a small model."""
    lengths = tuple(length for length in settings.lengths if length <= 1024) or settings.lengths[:1]
    return replace(settings, tokens=QUICK_TOKENS, lengths=lengths)
