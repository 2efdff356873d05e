#!/usr/bin/env bash
# Runs tests that need cgroup v2 on a machine that has none: boots user-mode Linux (Debian's package of that name) on this
# machine's files, mounts a cgroup2 tree there, and runs vitest in it: as root, and as a user to whom a group is delegated.
# Takes some minutes. Start it as root: with the rights of anyone else, that kernel's root cannot use other users' files.
#
#   scripts/with-cgroups.sh [test files...]      default: all of src/**/*.cgroup.test.ts
set -euo pipefail

cd "$(dirname "$0")/.."
kernel=$(command -v linux.uml || command -v linux) || {
  echo 'no user-mode Linux: apt-get install user-mode-linux' >&2
  exit 2
}
work=$(mktemp -d /tmp/bcg-XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 711 "$work"
mkdir "$work/t"

if command -v cc >/dev/null && cc -O2 -shared -fPIC -o "$work/registers.so" scripts/with-cgroups-registers.c; then
  export LD_PRELOAD=$work/registers.so
fi

[ $# -gt 0 ] || set -- --project cgroup
cat >"$work/init" <<INIT
#!/bin/bash
mount -t proc proc /proc
mount -t sysfs sysfs /sys
ip link set lo up
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs '$work/t'
# Where Ballast may go when paths of sockets get long; the machine's own files take none from here.
mount -t tmpfs -o mode=755 tmpfs /var/lib
export HOME='$HOME' PATH='$PATH' TMPDIR='$work/t' BALLAST_TEST_CGROUPS=1 CI=1
export BALLAST_TEST_POSTGRES_PACKAGES='${BALLAST_TEST_POSTGRES_PACKAGES:-}'
cd '$PWD'
as_user() {
  # As systemd delegates: the group and what governs it belong to the user, its limits do not.
  local group=/sys/fs/cgroup/delegated
  mkdir \$group && echo '+cpu +memory' >/sys/fs/cgroup/cgroup.subtree_control
  chown 1000:1000 \$group \$group/cgroup.procs \$group/cgroup.threads \$group/cgroup.subtree_control
  (echo \$BASHPID >\$group/cgroup.procs && exec setpriv --reuid=1000 --regid=1000 --clear-groups "\$@")
}
npx vitest run $(printf '%q ' "$@") && as_user npx vitest run --configLoader runner --reporter=default $(printf '%q ' "$@")
echo \$? >'$work/code'
sync
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$work/init"

timeout 900 "$kernel" mem=3G root=/dev/root rootfstype=hostfs rootflags=/ rw init="$work/init" \
  con=null con0=null,fd:1 ssl=null quiet </dev/null 2>"$work/kernel" | sed -u 's/\r$//' || cat "$work/kernel" >&2
exit "$(cat "$work/code" 2>/dev/null || echo 1)"
