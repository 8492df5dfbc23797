#!/usr/bin/env bash
# benches/soak.sh MINUTES [--tipstaff BINARY]: a pair of sidecars under mixed load for so long; see benches/README.md.
exec python3 "$(dirname "$0")/soak/run.py" "$@"
