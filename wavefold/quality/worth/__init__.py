"""What a model that completes code is worth: nine measures, the same cases for every model, one table.

held_out, packages      bits a byte of held-out files                                          bits.py
completions             functions that go on and parse                                         measures.py
next_lines, holes       the line, or the hole's text, to the character                         measures.py
rewrites                a parameter renamed, annotated, a docstring added: judged by `ast`     data/exercises
stops, loops            answers that end by themselves; continuations that repeat themselves   measures.py
drafts                  guesses of the MTP module that are right                               drafts.py

held-out files -> cases (sources.py) -> answers, kept in a folder (run.py) -> judges -> figures -> table.py, samples.py
"""
