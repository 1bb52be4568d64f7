"""One step of the graph that bench/faults.py has every engine build: `faults_step.py LOG SECONDS NAME OUT INPUT…`.

Says in LOG that it starts, writes half of its output, takes its time, writes the other half, and says that it ended. The output follows
from the step's name and every byte of its inputs. A log line is one `write` to a file opened for appending: a kill of this
process cannot take it back. Imports next to nothing, since forty of these are started a build.
"""

import os
import sys
import time
from hashlib import sha256


def text(name, inputs):
    """Return the output: 64 lines of 64 hex digits (4 kB)."""
    start = sha256(name.encode())
    for data in inputs:
        start.update(sha256(data).digest())
    return "".join(sha256(b"%d %s" % (number, start.digest())).hexdigest() + "\n" for number in range(64))


def main():
    log, seconds, name, out, *inputs = sys.argv[1:]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # The clock is the machine's, the same for all processes.
    os.write(file, b"start %s %f\n" % (name.encode(), time.monotonic()))
    read = []
    for path in inputs:
        with open(path, "rb") as each:  # noqa: PTH123 - pathlib takes longer to import than all else here
            read.append(each.read())
    whole = text(name, read)
    with open(out, "w") as made:  # noqa: PTH123
        made.write(whole[: len(whole) // 2])
        made.flush()
        time.sleep(float(seconds))
        made.write(whole[len(whole) // 2 :])
    os.write(file, b"end %s %f\n" % (name.encode(), time.monotonic()))


if __name__ == "__main__":
    main()
