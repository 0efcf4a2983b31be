"""The most tokens a second that this machine's memory allows a model: a pass reads each weight that it meets once.

    tokens/s at most = tokens of a pass x bytes read a second / bytes of weights that such a pass meets

The machine is measured once, when nothing runs and somebody asks: a tensor as large as the model, up to `MOST_BYTES`,
is read again and again. So a model that fits into the processor's caches has the rate of these.
"""

from __future__ import annotations

from wavefold.model import Transformer
from wavefold.plan.machine import memory_read_rate
from wavefold.plan.predict import pass_bytes
from wavefold.plan.tensors import tensor_kinds
from wavefold.system import available_bytes

MOST_BYTES = 256 << 20
"""Far more than a processor's caches hold. Reading it as often as it takes is a third of a second."""


class Bound:
    """The bound of one model. `measure` is called once, in any thread."""

    def __init__(self, model: Transformer, is_streamed: bool):
        """Streamed experts come at the disk's rate, and other devices read at theirs: they have no bound here."""
        self._config = model.config
        kinds = [kind for kind in tensor_kinds(model.config) if kind.part != "mtp" or model.mtp]
        self._num_bytes = sum(tensor.nbytes for tensor in model.parameters()) + model.experts.store.num_bytes
        self._scale = self._num_bytes / sum(kind.bytes for kind in kinds)
        """Of the weights as they are, over those of the configuration: a GGUF file has types of its own."""
        self.is_wanted = not is_streamed and model.device.type == "cpu"
        """Nobody has measured, and there is something to measure."""
        self._bytes_per_s: float | None = None

    def measure(self) -> None:
        """Measures the machine; not where memory is short."""
        self.is_wanted = False
        size = min(MOST_BYTES, self._num_bytes)
        if available_bytes() > 2 * size:
            self._bytes_per_s = memory_read_rate(size)

    def tokens_per_s(self, of_a_pass: float) -> float | None:
        """Returns the bound where passes have so many tokens, one at least; None where it is not known."""
        if self._bytes_per_s is None:
            return None
        of_a_pass = max(1.0, of_a_pass)
        return of_a_pass * self._bytes_per_s / (self._scale * pass_bytes(self._config, of_a_pass))
