"""Record the hashes of this processor's family: `python -m tests.identity.record`."""

import json
from pathlib import Path

import torch

from tests.identity.hashes import all_hashes, family

RECORDED = Path(__file__).with_name("recorded.json")


def main() -> None:
    """Write this family's hashes into recorded.json, beside those of others."""
    torch.set_num_threads(1)
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    recorded[family()] = {name: make() for name, make in all_hashes()}
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
