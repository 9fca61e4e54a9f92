#!/usr/bin/env bash
# PyNomadBBO 4.6.0, Python 3.11.
#
# The guess: PyNomad.optimize with the parameter SEED is the same search each time, and another seed is another
#   search, as in any optimiser that takes a seed: so ten seeds, or one twice, can be run in a loop.
# Seen: that holds for the first search of a process. A second one with the SEED of the first goes another way, and
#   the second search of a process is the same whatever the seed: 1 after 1 is 2 after 2. PyNomad.setSeed(n) before
#   optimize with SEED n does not help: all n are one search. A seed has an effect only where it is not the one that
#   the process has already: setSeed(other) before each search, or a process for each, makes searches repeat.
#
# Ends with 1 if that changes. PYTHON=.../python takes an environment that has it, instead of installing.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$work/venv"; PYTHON=$work/venv/bin/python
    "$PYTHON" -m pip install -q PyNomadBBO==4.6.0
fi
cat > "$work/search.py" <<'PY'
import sys

import PyNomad


def points(seed):
    asked = []

    def loss(x):
        point = [x.get_coord(i) for i in range(x.size())]
        asked.append(tuple(point))
        x.setBBO(str(sum((a - b) ** 2 for a, b in zip(point, (3, 2, 7)))).encode())
        return 1

    PyNomad.optimize(loss, [0, 0, 0], [0, 0, 0], [10, 4, 12], [
        "BB_INPUT_TYPE (I I I)", "BB_OUTPUT_TYPE OBJ", "MAX_BB_EVAL 30", "DISPLAY_DEGREE 0", f"SEED {seed}"])
    return asked


for step in sys.argv[1:]:
    kind, seed = step.split(":")
    if kind == "set":
        PyNomad.setSeed(int(seed))
    else:
        print(step, points(int(seed)), file=sys.stderr)
PY
run() { "$PYTHON" "$work/search.py" "$@" 2>&1 >/dev/null | tail -1 | cut -d' ' -f2- | md5sum | cut -c1-6; }
one=$(run search:1); again=$(run search:1); two=$(run search:2)
one_one=$(run search:1 search:1); two_two=$(run search:2 search:2)
set_one=$(run set:1 search:1); set_two=$(run set:2 search:2)
other=$(run search:5 set:6 search:5); fresh=$(run set:6 search:5)
echo "points asked for, as hashes; the last search of a process that ran:"
echo "  seed 1: $one, seed 1 in another process: $again, seed 2: $two"
echo "  seed 1 after seed 1: $one_one; seed 2 after seed 2: $two_two"
echo "  setSeed(1), seed 1: $set_one; setSeed(2), seed 2: $set_two"
echo "  setSeed(6), seed 5: $fresh; the same after a search: $other"
[ "$one" = "$again" ] && [ "$one" != "$two" ] && [ "$one_one" != "$one" ] && [ "$one_one" = "$two_two" ] &&
    [ "$set_one" = "$set_two" ] && [ "$set_one" != "$one" ] && [ "$fresh" = "$other" ] ||
    { echo "the behaviour has changed"; exit 1; }
