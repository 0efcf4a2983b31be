"""A durable queue of requests that are answered when there is time: each line has exactly one result, come what may.

    IN.jsonl -> lines.py -> queue.py (SQLite) -> order.py -> worker.py -> answer(path, body) -> queue.py -> outputs.py

schema.py    the database: opened, checked, refused where it is damaged
lines.py     a line of OpenAI's batch format; plain.py: plainer lines as such
queue.py     batches and their lines: added, listed, cancelled, removed
desk.py      the worker's side of the queue: lines taken, results recorded
order.py     which model is next, so that swaps are fewest; quiet.py: at which hours
reasons.py   why a batch does not go on, why lines failed; summary.py: how far it is
worker.py    lines through a coroutine, interactive requests first, a full disk waited out
board.py     what a worker says of itself where the database cannot take it
files.py     uploaded files; outputs.py: files of results, made from the queue as they are read
"""
