#!/usr/bin/env bash
# Tries the Compose deployment out on this machine: builds the images, starts them, uses them over HTTP as people do from
# outside, restarts everything in the middle of a job, restores a backup, upgrades, and takes it all down again. The last
# line is `smoke: ok`. It has a project, volumes and a free port of its own, so a service that runs here is left alone.
#
#   docker/smoke.sh                      all steps, in order
#   docker/smoke.sh --list               their names
#   docker/smoke.sh --only NAME,NAME     only these, and those they go on from
#
# Needs: python3, a Docker engine, Compose (either one), and for the first build the base images, a package index and 25 GB.
#
# SMOKE_COMPOSE   Compose to use: "docker compose" or "docker-compose"; by default the one that is there
# SMOKE_BASES     a command that makes stand-ins for the base images under the names given, for machines without an image
#                 registry: docker/bases.sh. They are named python:npt-standin and so on, and the legacy builder builds: it
#                 takes what the engine has. Exit code 3: the command ended with 3, there can be no engine here
# PYTHON_IMAGE, REDIS_IMAGE, NGINX_IMAGE
#                 base images from elsewhere, a mirror for instance; otherwise those of .env.example
# SMOKE_PREVIOUS  what to upgrade from, a git revision; by default the last tag, else the last but one change of the code
# SMOKE_WITHIN    seconds that anything may take to come up or to end; 300
# SMOKE_RECORD    a file that gets a line `project NAME` before anything of that Compose project is made, and `failed at STEP:
#                 REASON` before the logs are shown and everything is taken down
#
# The images stay, as npt-service-*:smoke, so that the next run takes minutes less.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 docker/smoke "$@"
