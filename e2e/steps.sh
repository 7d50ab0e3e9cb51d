# shellcheck shell=bash
# Runs the steps of a script and tells how far it is. Include it in a script that has set -euo pipefail; then:
#
#   step  TITLE CMD...   CMD's output goes to a log; its end is shown when CMD fails
#   shown TITLE CMD...   CMD's output is shown, and logged
#   say   TEXT           one line with the elapsed time
#
# A step that fails ends the script, unless steps_go_on=yes: then it is counted in $steps_failed.
# Call a step on a line of its own: in front of || or && bash would not stop a function at its first failure.
# Lines begin with the seconds since the first one, also across scripts that call each other. A step that takes long
# says every 30 s that it is alive. Logs are in $steps_logs (default: .build/logs/NAME_OF_SCRIPT), one file per step.

export steps_begin=${steps_begin:-$EPOCHSECONDS}
steps_number=0
steps_failed=0
steps_go_on=${steps_go_on:-no}
steps_logs=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")/.build/logs/$(basename "$0" .sh)

say() { printf '[%4d s] %s\n' $((EPOCHSECONDS - steps_begin)) "$*"; }

begin_step() { # TITLE: sets step_log
  steps_number=$((steps_number + 1))
  mkdir -p "$steps_logs"
  step_log=$(printf '%s/%02d-%s.log' "$steps_logs" "$steps_number" "$(tr -cs 'a-zA-Z0-9\n' - <<<"$1" | cut -c1-40)")
  say "$1"
}

end_step() { # TITLE BEGIN STATUS
  if (($3 == 0)); then
    if ((EPOCHSECONDS - $2 >= 2)); then say "  done in $((EPOCHSECONDS - $2)) s"; fi
    return 0
  fi
  say "FAILED: $1, after $((EPOCHSECONDS - $2)) s; log: $step_log"
  steps_failed=$((steps_failed + 1))
  if [ "$steps_go_on" != yes ]; then return "$3"; fi
}

step() {
  local title=$1 begin=$EPOCHSECONDS beat=$((EPOCHSECONDS + 30)) pid status=0
  shift
  begin_step "$title"
  # In a process group of its own, so that Ctrl-C ends all of it; bash lets background commands ignore the signal.
  set -m
  "$@" </dev/null >"$step_log" 2>&1 &
  pid=$!
  set +m
  # shellcheck disable=SC2064 # this pid
  trap "kill -TERM -- -$pid 2>/dev/null; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    if ((EPOCHSECONDS >= beat)); then
      beat=$((EPOCHSECONDS + 30))
      say "  ... $(tail -n 1 "$step_log" | tr -d '\r' | cut -c1-100)"
    fi
    sleep 0.1
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if ((status != 0)); then tail -n 40 "$step_log" >&2; fi
  end_step "$title" "$begin" "$status"
}

shown() {
  local title=$1 begin=$EPOCHSECONDS status=0
  shift
  begin_step "$title"
  "$@" </dev/null 2>&1 | tee "$step_log" || status=$?
  end_step "$title" "$begin" "$status"
}
