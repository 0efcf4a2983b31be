"""Routed experts: where their bytes lie, who holds them, and who multiplies. None of them is a module.

table.py      where each expert's tensors lie
store.py      who holds bytes: the access to an expert's weights
mapped.py     memory-mapped parts of files
resident.py   a store of all experts, memory-mapped or in memory
compute.py    who multiplies, and how it is done here
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
