"""Routed experts: the places of their bytes, stores of them, and their computation. No expert is a module.

table.py      the places of each expert's tensors
store.py      access to an expert's weights
mapped.py     memory-mapped parts of files
resident.py   a store of all experts, memory-mapped or in memory
streamed.py   a store of more experts than memory holds
slots.py      which of its experts lie in which slots, and which leave
slot_memory.py  the memory of its slots, and pages given back
pressure.py   how much of it is allowed now
places.py     the parts of files that hold an expert, and its tensors in a slot
reading.py    reads, several in flight
compute.py    the computation, here in one process
ranked.py     over ranks
gpu.py        in one kernel of a GPU
"""

from wavefold.experts.compute import ExpertCompute, LocalExperts
from wavefold.experts.resident import ResidentExperts
from wavefold.experts.store import ExpertStore, ExpertView, ExpertWeights
from wavefold.experts.table import ExpertTable, routed_expert

__all__ = [
    "ExpertCompute", "ExpertStore", "ExpertTable", "ExpertView", "ExpertWeights", "LocalExperts", "ResidentExperts",
    "routed_expert",
]  # fmt: skip
