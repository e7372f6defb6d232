#!/usr/bin/env bash
# Every tier: lint and types, then the fast tests, then real models, the real Argilla server and a real browser, then the
# demo with small counts. With CI=true a missing browser or server is a failure; elsewhere it is a skip that says so.
set -uo pipefail
cd "$(dirname "$0")/.."
if ! command -v chromium >/dev/null; then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing Debian's Chromium for the browser tests (once)"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1 ||
      echo "Chromium could not be installed"
  else
    echo "No Chromium here: the browser tests are skipped. On Debian: sudo apt-get install chromium"
  fi
fi
tiers="not gpu and not soak"; [[ -n ${SEEDCORN_SOAK:-} ]] && tiers="not gpu"
failed=0
step() { echo "== $1"; shift; "$@" || failed=1; }
step "style" ruff check .
step "layout" ruff format --check -q .
step "types" mypy
# Two files at a time: half of the time is spent waiting (servers that start, models that load, calls that are slow on purpose).
step "tests" pytest -q -p no:cacheprovider -n 2 --dist loadfile --durations=15 -m "$tiers" "$@"
exit $failed
