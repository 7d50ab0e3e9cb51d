#!/usr/bin/env bash
# What was there before this commit, for the story of the upgrade (e2e/tests/story_41_upgrade_under_load.rs): charts, values and
# images of an earlier one.
#
#   before.sh keep    pack the images of target/ and keep them with the charts of this commit, for commits that follow; does
#                     nothing where files differ from the commit
#   before.sh find    print, one a line: the folder with charts/ and e2e/values-*.yaml; what ends the names of the images of
#                     operator and agent, empty for those of this checkout; what it is, in words
#
# Compiling another commit would take minutes, so `find` takes the newest earlier commit that was kept in .build/before; else the
# charts of the commit before this one with the images of this checkout; without a history, this checkout. Three are kept. The
# simulated GPUs are not among the images: they are the hardware, which an upgrade does not replace.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
kept=$checkout/.build/before
paths=(charts e2e/values-world.yaml e2e/values-chain.yaml)
git() { command git -C "$checkout" "$@"; }

is_clean() { [ -z "$(git status --porcelain)" ]; }

# What a commit says of charts and values, in a folder that is there only when it is whole.
unpack() { # COMMIT FOLDER
  local part
  part=$(mktemp -d "$kept/.unpack-XXXXXX")
  git archive "$1" -- "${paths[@]}" | tar -x -C "$part"
  rm -rf "$2"
  mv "$part" "$2"
}

keep() {
  local commit folder old
  if ! commit=$(git rev-parse --verify --quiet HEAD) || ! is_clean; then
    echo "nothing is kept: the files are not those of a commit"
    return
  fi
  folder=$kept/$commit
  mkdir -p "$kept"
  rm -f "$folder/whole"
  unpack "$commit" "$folder"
  SUFFIX=-before-${commit:0:12} IMAGES_DIR=$folder/images "$here/images/pack.sh" operator device-agent
  for image in operator device-agent; do
    # The nodes' record of what is loaded goes by the file's name.
    mv "$folder/images/$image.tar" "$folder/images/$image-before-${commit:0:12}.tar"
  done
  touch "$folder/whole"
  while read -r old; do rm -rf "$old"; done < <(find "$kept" -mindepth 2 -maxdepth 2 -name whole -printf '%T@ %h\n' | sort -rn | tail -n +4 | cut -d' ' -f2-)
}

find_() {
  local commit parent skip=0
  mkdir -p "$kept"
  if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    printf '%s\n' "$checkout" "" "this checkout itself: there is no history"
    return
  fi
  # What is not committed comes after HEAD.
  if is_clean; then skip=1; fi
  while read -r commit; do
    # Images cannot be loaded into the nodes of an existing cluster.
    if [ -e "$kept/$commit/whole" ] && [ "$("$here/cluster/world.sh" which)" != existing ]; then
      printf '%s\n' "$kept/$commit" "-before-${commit:0:12}" "charts and images of ${commit:0:12}"
      return
    fi
  done < <(git rev-list --max-count=200 --skip="$skip" HEAD)
  if ! parent=$(git rev-parse --verify --quiet "HEAD~$skip"); then
    printf '%s\n' "$checkout" "" "this checkout itself: HEAD is the first commit, or the history was cut off"
    return
  fi
  rm -rf "$kept"/charts-of-*
  unpack "$parent" "$kept/charts-of-$parent"
  printf '%s\n' "$kept/charts-of-$parent" "" "the charts of ${parent:0:12} with the images of this checkout"
}

case ${1:-} in
  keep) keep ;;
  find) find_ ;;
  *)
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
