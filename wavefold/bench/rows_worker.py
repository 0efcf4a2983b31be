"""The process of another build of the kernels (`wavefold bench rows --against`): it times the products it is asked for.

{"product": number, "x_rows": n, "threads": n}   ->   {"seconds": s}
"""

from __future__ import annotations

import json
import sys

from wavefold.bench.rows import Subjects
from wavefold.ops import native
from wavefold.ops.threads import use_threads


def main() -> None:
    try:
        assert native.available()
        products = Subjects.from_json(sys.argv[1]).create()
    except (OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        use_threads(request["threads"])
        print(json.dumps({"seconds": products[request["product"]].seconds(request["x_rows"])}), flush=True)


if __name__ == "__main__":
    main()
