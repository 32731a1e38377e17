"""Change points of the series on standard input (a JSON array of arrays), as Apache Otava finds them.

Prints {"hunter": {"found": [[index, ...], ...], "seconds": s}, "permutation": {...}}: the first is Otava with its own
defaults, the second its original E-divisive with a permutation test.
"""

import json
import sys
import time

from otava.analysis import compute_change_points, compute_change_points_orig


def found(series, method):
    begin = time.perf_counter()
    changes = [[int(change.index) for change in method(values)[0]] for values in series]
    return {"found": changes, "seconds": time.perf_counter() - begin}


series = json.load(sys.stdin)
answer = {
    "hunter": found(series, lambda values: compute_change_points(list(values))),
    "permutation": found(series, lambda values: compute_change_points_orig(list(values), seed=1)),
}
json.dump(answer, sys.stdout)
