"""diskcache (PyPI) as a worker of `cache run`: DIR SIZE WORK SEED SECONDS LIMIT MAY_MISS KEYS."""
import bisect, random, sys, time
import diskcache

folder, size, work, seed, seconds, limit, may_miss, count = sys.argv[1:]
size, seed, seconds, limit, may_miss, count = int(size), int(seed), float(seconds), int(limit), may_miss == "1", int(count)
cache = diskcache.Cache(folder, size_limit=limit, timeout=60)
random.seed(seed)


def value(number):
    return number.to_bytes(8, "little") + random.randbytes(size - 8)


if work == "fill":
    for number in range(count):
        cache.set(f"key-{number:08}", value(number))
    sys.exit()
steps, total = [], 0.0
for rank in range(1, count + 1):
    total += 1 / rank**0.99
    steps.append(total)
share = {"put": 100, "get": 0, "95/5": 5, "50/50": 50}[work]
tail = random.randbytes(size - 16)
print("ready", flush=True)
sys.stdin.readline()
started, done, hits, reads = time.monotonic(), 0, 0, 0
while time.monotonic() - started < seconds:
    number = min(bisect.bisect_left(steps, random.random() * total), count - 1) * 7919 % count
    key = f"key-{number:08}"
    if random.random() * 100 < share:
        cache.set(key, number.to_bytes(8, "little") + random.randbytes(8) + tail)
    else:
        reads += 1
        found = cache.get(key)
        if found is not None:
            hits += 1
            assert len(found) == size and found[:8] == number.to_bytes(8, "little"), "a wrong answer"
        else:
            assert may_miss, "a missing answer"
    done += 1
print(done, time.monotonic() - started, hits, reads)
