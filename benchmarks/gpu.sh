#!/usr/bin/env bash
# Everything that is measured on the day a GPU is at hand: ten minutes at most, no network.
set -euo pipefail

usage() {
  cat <<'TEXT'
benchmarks/gpu.sh --prepare IMAGES.tar.xz
    Where there is a network: put pydantic's wheels (Linux, x86-64, Python 3.12; PYTHON_VERSION
    sets another) and the packed image folder (train/CLASS/*.jpg, test/CLASS/*.jpg) into
    benchmarks/carry, which git ignores. Take that folder along with the repository.
benchmarks/gpu.sh [--output FOLDER] [--seconds N] [--only STEP ...] [...]
    On the machine with the GPU: run every step, and write gpu.json, gpu.md and gpu.log. It needs
    Python with torch, torchvision, numpy, safetensors, scikit-learn, Pillow, pytest,
    pytest-timeout, pytest-xdist and hypothesis, and nothing else. --help tells all options.
benchmarks/gpu.sh --tiny [--output FOLDER]
    The same steps on any machine within a minute: it shows that the script works, and no figure.
PYTHON names the interpreter (python3).
TEXT
}

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
carry=$folder/carry
python=${PYTHON:-python3}

prepare() {
  mkdir -p "$carry/wheels"
  rm -f "$carry"/wheels/*.whl "$carry"/*.tar.xz
  # With its dependencies: pip then takes the very pydantic-core that this pydantic is made for.
  "$python" -m pip download --quiet --only-binary=:all: --implementation cp \
    --python-version "${PYTHON_VERSION:-3.12}" --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$carry/wheels" 'pydantic>=2.12'
  cp -- "$1" "$carry/"
  ls -1 "$carry"/*.tar.xz "$carry"/wheels/*.whl
  echo "$(du -sm "$carry" | cut -f1) MiB in $carry"
}

case "${1:-}" in
  --prepare)
    [ $# -eq 2 ] && [ -f "$2" ] || { usage >&2; exit 2; }
    prepare "$2"
    exit
    ;;
  --usage)
    usage
    exit
    ;;
esac

for word in "$@"; do
  # Two threads on two cores that other work wants too are many times slower than one.
  [ "$word" != --tiny ] || export OMP_NUM_THREADS=1
done
scratch=$(mktemp -d "${TMPDIR:-/tmp}/modkernel-gpu.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$folder/..${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if compgen -G "$carry/wheels/*.whl" >/dev/null && ! "$python" -c 'import pydantic' 2>/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --target "$scratch/site" "$carry"/wheels/*.whl
  export PYTHONPATH=$scratch/site:$PYTHONPATH
fi
# Not exec, and not in the foreground: the trap has to run, and a signal has to reach the steps.
"$python" -m benchmarks.gpu --carry "$carry" --scratch "$scratch" "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
code=0
wait "$child" || code=$?
# A signal ends `wait` before the child has written what it has.
if kill -0 "$child" 2>/dev/null; then wait "$child" || code=$?; fi
exit "$code"
