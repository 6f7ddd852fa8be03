#!/bin/sh
# Ends the instance's process and starts this release's. Called in the folder of the release.
set -eu
run="$CAPSTAN_ROOT/run"
mkdir -p "$run" "$CAPSTAN_ROOT/shared"

if [ -s "$run/pid" ]; then
    read -r old < "$run/pid"
    if tr '\0' ' ' < "/proc/$old/cmdline" 2> /dev/null | grep -q "demo-app .*--port $CAPSTAN_PORT "; then
        kill "$old" 2> /dev/null || :
        tries=0
        while kill -0 "$old" 2> /dev/null && [ "$tries" -lt 50 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        kill -9 "$old" 2> /dev/null || :
    fi
fi

# One line per restart: an order that ran twice would show here.
echo "$CAPSTAN_KEY $CAPSTAN_VERSION" >> "$CAPSTAN_ROOT/shared/restarts.log"

setsid '@PROGRAM@' demo-app --release "$PWD" --port "$CAPSTAN_PORT" \
    < /dev/null >> "$CAPSTAN_ROOT/shared/app.log" 2>&1 &
echo "$!" > "$run/pid.new"
mv "$run/pid.new" "$run/pid"
