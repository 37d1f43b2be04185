#!/usr/bin/env bash
# Base images without an image registry: makes stand-ins for python, redis and nginx from Debian's packages, under the names
# given, and starts a Docker engine where none answers. For trying the deployment out (docker/smoke.sh) and for CI, on Debian
# as root; whoever reaches a registry has no need of it.
#
#   docker/bases.sh python:npt-standin redis:npt-standin nginx:npt-standin
#   docker/bases.sh                     the engine and Compose alone
#
# A tag begins with `npt-`: under a name that a registry has, everything else on this machine would take a stand-in for that
# image. PYTHON_IMAGE, REDIS_IMAGE and NGINX_IMAGE in .env give the names to Compose. Redis is 7.0 then and nginx 1.22. Exit
# code 3: there can be no engine here.
#
# A stand-in is made once, with Debian's packages of that day, and is not renewed. To have it made anew, with their fixes:
#
#   docker rmi npt-base-python npt-base-redis npt-base-nginx
#
# An engine that was started goes on running. BASES_ENGINE_PID_FILE names a file for its process number, to end it by: nothing
# is written where one answered already. BASES_ENGINE_LOG is its log, /var/log/npt-dockerd.log by default.
set -euo pipefail
SUITE=bookworm
export DEBIAN_FRONTEND=noninteractive

say() { echo "bases: $*" >&2; }
no_engine() { say "$*"; exit 3; }

packages() { # packages NAME...: installs what is missing
  local missing=() name
  for name in "$@"; do dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || no_engine "not root, and these packages are missing: ${missing[*]}"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

answers() { timeout 20 docker info >/dev/null 2>&1; }

start_engine() {
  local log=${BASES_ENGINE_LOG:-/var/log/npt-dockerd.log}
  answers && return
  [ "$(id -u)" = 0 ] || no_engine "no Docker engine answers, and whoever is not root can start none"
  command -v dockerd >/dev/null || packages docker.io iptables || no_engine "Docker cannot be installed"
  say "starting a Docker engine, its log is $log"
  # A session of its own, since it outlives this script, and nothing of what this shell has open: locks above all.
  (
    for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done
    # shellcheck disable=SC2016 # the inner shell's number is the engine's
    exec setsid sh -c 'echo $$ >"$0"; exec dockerd' "${BASES_ENGINE_PID_FILE:-/dev/null}" </dev/null >"$log" 2>&1
  ) &
  for _ in $(seq 60); do answers && return; sleep 0.5; done
  tail -n 5 "$log" >&2 || true
  no_engine "the Docker engine does not start"
}

exists() { docker image inspect "$1" >/dev/null 2>&1; }

make_python() { # a Debian with Python and pip, and with the certificates that this machine trusts
  local root
  packages debootstrap
  root=$(mktemp -d)
  trap 'rm -rf "$root"' RETURN
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv "$SUITE" "$root" >"$root.log" ||
    { tail -n 20 "$root.log" >&2; return 1; }
  rm -f "$root.log" "$root"/usr/lib/python3.*/EXTERNALLY-MANAGED
  rm -rf "$root"/var/cache/apt/archives/*.deb
  ln -s python3 "$root/usr/bin/python"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
  tar -C "$root" -c . | docker import --change 'CMD ["python"]' - npt-base-python >/dev/null
}

make_service() { # make_service NAME PACKAGE COMMANDS: Debian's package on top of that
  printf '%s\n' 'FROM npt-base-python' \
    "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends $2 >/dev/null && rm -rf /var/lib/apt/lists/* $3" |
    DOCKER_BUILDKIT=0 docker build --quiet --tag "npt-base-$1" - >/dev/null
}

for name in "$@"; do
  case $name in
    python:npt-* | redis:npt-* | nginx:npt-*) ;;
    *) say "no stand-in for '$name': the names are python:npt-*, redis:npt-* and nginx:npt-*"; exit 2 ;;
  esac
done
start_engine
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || packages docker-compose
for name in "$@"; do
  kind=${name%%:*}
  if ! exists "npt-base-$kind"; then
    say "making a stand-in for $name"
    exists npt-base-python || make_python
    case $kind in
      redis) make_service redis redis-server '&& mkdir -p /data && chown redis:redis /data' ;;
      nginx) make_service nginx nginx-light '' ;;
    esac
  fi
  docker tag "npt-base-$kind" "$name"
done
