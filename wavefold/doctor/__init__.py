"""`wavefold doctor`: what is wrong with a model's file, or with this machine.

checks.py      the list of checks, and how they are run
finding.py     a finding, and the card of all of them
patient.py     the file that is examined: its tensors, its model, its tokenizer, a text
sampling.py    rows of a tensor, decoded

structure.py values.py siblings.py profile.py vocabulary.py     the file
products.py layers.py runs.py machine.py                        the arithmetic, and the machine
likelihood.py                                                   the model on a text
against.py exact.py     another file of the same model
"""

from wavefold.doctor.checks import CHECKS, examine
from wavefold.doctor.finding import Card, Finding
from wavefold.doctor.patient import Patient

__all__ = ["CHECKS", "Card", "Finding", "Patient", "examine"]
