# shellcheck shell=bash
# Runs the steps of a script and tells how far it is. Include it; then:
#
#   step  TITLE CMD...   CMD's output goes to a log; its end is shown when CMD fails
#   shown TITLE CMD...   CMD's output is shown, and logged
#   say   TEXT           one line with the elapsed time
#
# Lines begin with the seconds since the first one. A step that takes long says every 30 s that it is alive.
# Logs are in $steps_logs (default: .build/logs/NAME_OF_SCRIPT), one file per step.

steps_begin=${steps_begin:-$SECONDS}
steps_number=0
steps_logs=${steps_logs:-$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")/.build/logs/$(basename "$0" .sh)}

say() { printf '[%4d s] %s\n' $((SECONDS - steps_begin)) "$*"; }

steps_log() { # TITLE: prints the path of the step's log
  mkdir -p "$steps_logs"
  printf '%s/%02d-%s.log\n' "$steps_logs" "$steps_number" "$(tr -cs 'a-zA-Z0-9\n' - <<<"$1" | cut -c1-40)"
}

step() {
  local title=$1 log begin=$SECONDS status=0 pid beat=$((SECONDS + 30))
  shift
  steps_number=$((steps_number + 1))
  log=$(steps_log "$title")
  say "$title"
  "$@" </dev/null >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if ((SECONDS >= beat)); then
      beat=$((SECONDS + 30))
      say "  ... $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
    fi
    sleep 0.1
  done
  wait "$pid" || status=$?
  if ((status != 0)); then
    say "$title: failed after $((SECONDS - begin)) s; the end of $log:"
    tail -n 40 "$log" >&2
    return "$status"
  fi
  if ((SECONDS - begin >= 2)); then say "  done in $((SECONDS - begin)) s"; fi
}

shown() {
  local title=$1 log begin=$SECONDS
  shift
  steps_number=$((steps_number + 1))
  log=$(steps_log "$title")
  say "$title"
  if ! { "$@" </dev/null 2>&1 | tee "$log"; }; then # the including script has set pipefail
    say "$title: failed after $((SECONDS - begin)) s; log: $log"
    return 1
  fi
  if ((SECONDS - begin >= 2)); then say "  done in $((SECONDS - begin)) s"; fi
}
