#!/usr/bin/env bash
set -euo pipefail

usage() { echo "usage: $(basename "$0") [-n] [-e ENVIRONMENT] VERSION" >&2; exit 2; }

dry_run=false
environment=staging
while getopts ":ne:h" option; do
  case "$option" in
    n) dry_run=true ;;
    e) environment="$OPTARG" ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[[ $# -eq 1 ]] || usage
version="$1"

run() {
  if "$dry_run"; then printf '+ %q ' "$@"; echo; else "$@"; fi
}

for host in $(awk -v env="$environment" '$1 == env { print $2 }' hosts.txt); do
  echo ">> $host" | tee -a "deploy-$(date +%F).log"
  run rsync -az --delete "build/$version/" "$host:/srv/app/releases/$version/"
  run ssh "$host" "ln -sfn /srv/app/releases/$version /srv/app/current && systemctl restart app"
  if ! curl -fsS --retry 5 --retry-delay 2 "https://$host/healthz" > /dev/null 2>&1; then
    echo "health check failed on $host; rolling back" >&2
    run ssh "$host" 'ln -sfn "$(ls -1dt /srv/app/releases/* | sed -n 2p)" /srv/app/current'
    exit 1
  fi
done
