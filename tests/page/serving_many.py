"""`wavefold serve --models DIR --jobs DIR` as a process: two small random models, and room for one of them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from wavefold import ModelConfig, random_checkpoint
from wavefold.locate import DEFAULT_MODEL
from wavefold.pool.folder import entries
from wavefold.pool.settings import ModelSettings
from wavefold.server.opening import Opening

CACHE_TOKENS = 131_072
"""Makes the models large beside what differs from run to run."""
SERVE = """
import sys
import wavefold.server.app, wavefold.server.jobs, wavefold.server.opening, wavefold.server.run
from wavefold.cli.main import main
from wavefold.engine.budget import OVERHEAD
from wavefold.system import rss_bytes

sys.exit(main([*sys.argv[2:], "--memory", str(rss_bytes() + OVERHEAD + int(sys.argv[1]))]))
"""


def two_models(folder: Path) -> Path:
    """Makes the models `one` and `two`, with the tokenizer of the model that ships."""
    config = ModelConfig.preset("nano").cut(2)
    for seed, name in enumerate(("one", "two")):
        random_checkpoint(config, folder / name, seed)
        for file in DEFAULT_MODEL.glob("tokenizer*.json"):
            shutil.copy(file, folder / name)
    return folder


@contextlib.contextmanager
def serving_many(models: Path, jobs: Path, room: float = 1.5) -> Iterator[str]:
    """Yields the address. `room`: for so many of the models."""
    opening = Opening("released", 4, CACHE_TOKENS)
    need = max(opening.needs(entry, ModelSettings()).whole for entry in entries(models).values())
    flags = ["serve", "--models", str(models), "--jobs", str(jobs), "--port", "0", "--threads", "1", "--width", "4"]
    command = [sys.executable, "-c", SERVE, str(int(room * need)), *flags, "--cache-tokens", str(CACHE_TOKENS)]
    environment = {**os.environ, "WAVEFOLD_TUNING": "usual"}
    with (jobs.parent / "log").open("w+") as log:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=log, text=True, env=environment)
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            found = re.search(r"models are served at (http://[\d.:]+)", first)
            assert found, first + process.communicate()[1]
            with contextlib.suppress(ValueError):
                yield f"{found[1]}/"
        finally:
            process.terminate()
            process.communicate(timeout=60)
