#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests; then builds what needs no LibTorch once more with the
# address and undefined-behaviour sanitizers, and the ranks-as-threads tests with the thread sanitizer, and runs those.
# A second run builds nothing. The last line is "N passed, N failed", counted over all of them.
#   launch/test.sh [--quick] [--only REGEX]
#     --quick       no sanitizers
#     --only REGEX  only the tests whose name (ctest -N lists them) matches; no sanitizers
# Exits 0 only if everything was built and every test passed. Tests that need a GPU (label gpu) are left out.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/toolchain.sh"
cd "$qat_root"

quick=0
only=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --only)
      [ $# -ge 2 ] || { echo "test: --only needs a regular expression" >&2; exit 2; }
      only=(-R "$2") quick=1
      shift
      ;;
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "test: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

launch/setup.sh
cmake=$(qat_find_cmake)
ctest=$(dirname "$(readlink -f "$cmake")")/ctest
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Sanitizers lay out their shadow memory by hand, which address randomisation can upset; some containers forbid this.
fixed_addresses=(setarch -R)
"${fixed_addresses[@]}" true 2>/dev/null || fixed_addresses=()

closing_line() { echo "$passed passed, $failed failed"; }

# check PRESET TARGET [ctest arguments]: configure, build, run; adds to passed and failed.
check() {
  local preset=$1 target=$2 total bad status=0
  local -a run=("$ctest")
  [ "$preset" = release ] || run=("${fixed_addresses[@]}" "$ctest")
  shift 2
  echo "== $preset: build"
  qat_configure "$cmake" "$preset"
  "$cmake" --build --preset "$preset" --target "$target" || { echo "test: cannot build $preset" >&2; exit 1; }
  echo "== $preset: test"
  # One more than there are cores: most tests start processes and wait for them.
  "${run[@]}" --preset "$preset" --parallel $((qat_cores + 1)) "$@" 2>&1 | tee "$log" || status=$?
  # "98% tests passed, 1 tests failed out of 57", or, when none failed, also "100% tests passed out of 57"
  read -r bad total < <(sed -n 's/^.*tests passed, \([0-9]*\) tests\{0,1\} failed out of \([0-9]*\).*/\1 \2/p
                                s/^.*tests passed out of \([0-9]*\).*/0 \1/p' "$log") || {
    echo "test: no test ran in $preset" >&2
    exit 1
  }
  # ctest also fails for reasons that it does not count.
  [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
  passed=$((passed + total - bad))
  failed=$((failed + bad))
}

check release all "${only[@]}"
if [ $quick = 0 ]; then
  check asan torch_free_tests
  check tsan test_dist
fi
closing_line
[ $failed = 0 ]
