#!/usr/bin/env bash
# What the image is made of, step by step: the Dockerfile's RUN lines, and tests/docker runs them too.
#
#   install.sh environment VENV              an empty environment
#   install.sh dependencies VENV VARIANT [EXTRA ...]   cpu or gpu: what the project needs, pinned
#   install.sh wheel FOLDER                  this project's wheel
#   install.sh project VENV FOLDER           that wheel, without asking an index
#
# pip belongs to the Python that runs this and is told which environment to fill, so that the
# environment itself holds none. pip's own settings (PIP_INDEX_URL, PIP_NO_INDEX, ...) apply.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
# torch for CPUs alone: PyPI's build brings several GB of CUDA.
torch_cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
# For the dependencies alone; PIP_DRY_RUN would reach the packages that building DeepSpeed takes.
read -r -a options <<< "${INSTALL_OPTIONS:-}"

# Versions of what is needed to build a package are held to the same file.
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# DeepSpeed comes as source alone. Its operators stay unbuilt: none is used, and that takes a compiler.
export DS_BUILD_OPS=0

# Byte code at build time, which an image with a read-only root cannot add. It is not compared with
# its source's date, so that two builds give the same files.
compile() {
  local venv=$1
  shift
  "$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$@"
}

environment() {
  python -m venv --without-pip "$1"
}

dependencies() {
  local venv=$1 variant=$2
  shift 2
  local wanted=$venv/requirements-$variant.txt
  python "$here/requirements.py" "$root/pyproject.toml" "$variant" "$@" > "$wanted"
  if [ "$variant" = cpu ]; then
    local pins
    pins=$(grep -E '^torch(vision)?==' "$root/constraints.txt")
    # shellcheck disable=SC2086  # two words are meant
    python -m pip --python "$venv/bin/python" install --no-cache-dir --no-compile --no-deps \
      "${options[@]}" --index-url "$torch_cpu_index" $pins
  fi
  python -m pip --python "$venv/bin/python" install --no-cache-dir --no-compile "${options[@]}" \
    --only-binary :all: --no-binary deepspeed -r "$wanted"
  # What torch, Ray and others ship for newer Pythons, or as templates, does not compile, and nothing
  # imports it.
  compile "$venv" "$venv/lib" > "$venv/compile.log" || true
}

wheel() {
  python -m pip wheel --no-cache-dir --no-deps --wheel-dir "$1" "$root"
}

project() {
  python -m pip --python "$1/bin/python" install --no-cache-dir --no-compile --no-deps --no-index \
    "$2"/gcg_train-*.whl
  # These alone: rewriting the others' byte code would put it into this layer, too.
  local packages
  packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  compile "$1" "$packages"/{dataloaders,ds_configs,gcg,launcher}
}

step=${1:?which step: environment, dependencies, wheel or project}
case $step in
  environment | dependencies | wheel | project) shift; "$step" "$@" ;;
  *) echo "install.sh: $step: no such step; choose environment, dependencies, wheel or project" >&2
    exit 2 ;;
esac
