"""Traces of the experts that routers choose, and how many of them a memory of a given size would have held.

trace.py       a trace: what it holds, and its file
recorder.py    a trace of a model that runs
synthetic.py   a trace without a model: Zipf's law and topics
policies.py    which expert leaves when another comes
optimum.py     Belady's optimum, which no policy can exceed
replay.py      a policy over a trace: hits
sizes.py       policies over numbers of slots; how many are recommended
figure.py      the same, drawn
"""

from wavefold.experts.traces.recorder import Recorder
from wavefold.experts.traces.trace import Trace, read_trace, write_trace

__all__ = ["Recorder", "Trace", "read_trace", "write_trace"]
