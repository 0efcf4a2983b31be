"""Files of many prompts, answered together: wide steps, results as they come, nothing done twice.

lines.py     what a line asks for, in OpenAI's batch format or a plain one, and how its answer is written
results.py   the file of results: appended to, locked, mended after a kill
run.py       the lines through a model
"""

from wavefold.batch.lines import Job, job_of
from wavefold.batch.results import Results
from wavefold.batch.run import Shard, read_jobs, run_batch

__all__ = ["Job", "Results", "Shard", "job_of", "read_jobs", "run_batch"]
