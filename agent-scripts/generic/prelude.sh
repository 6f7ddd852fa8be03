#!/bin/sh
# What the scripts of the kind `generic` share. It is not run by itself: the script that goes to a host is
# this file followed by the script of one stage, as one file.
#
# Exit codes: 0 done, 10 already so, 20 will not succeed on another try, 21 (verify) the health answer is
# bad, any other: may be tried again. The last line of output of a failure is one sentence for a person.

# shellcheck disable=SC2034 # used by the script that follows
set -u
LC_ALL=C
export LC_ALL

readonly WILL_NOT_SUCCEED=20 ALREADY_SO=10 TRY_AGAIN=1

say() {
    printf '%s\n' "$1"
}

# Ends the script with code $1; $2 is the sentence that the target shows.
fail() {
    printf 'capstan: %s\n' "$2"
    exit "$1"
}

# At most nine decimal digits without a leading zero.
is_number() {
    case $1 in
        '' | *[!0-9]* | 0?* | ??????????*) return 1 ;;
    esac
}

check_root() {
    case ${CAPSTAN_ROOT-} in
        */../* | */.. | / | //*) fail "$WILL_NOT_SUCCEED" "CAPSTAN_ROOT must be the path of the application's folder" ;;
        /*) ;;
        *) fail "$WILL_NOT_SUCCEED" "CAPSTAN_ROOT must be an absolute path" ;;
    esac
}

# The version becomes the name of a folder, the digest that of a file.
check_package() {
    case ${CAPSTAN_VERSION-} in
        '' | [.-]* | *[!A-Za-z0-9._+-]*)
            fail "$WILL_NOT_SUCCEED" "the version '${CAPSTAN_VERSION-}' cannot be the name of a folder (letters, digits and . _ + - only, the first no . or -)" ;;
    esac
    [ ${#CAPSTAN_VERSION} -le 128 ] || fail "$WILL_NOT_SUCCEED" "the version is longer than 128 characters"
    digest=${CAPSTAN_PACKAGE_SHA256-}
    case $digest in *[!0-9a-f]*) digest= ;; esac
    [ ${#digest} -eq 64 ] || fail "$WILL_NOT_SUCCEED" "CAPSTAN_PACKAGE_SHA256 is no sha256 digest in lower case"
}

# One line of file $1, in `line`; empty if there is none.
read_line() {
    line=
    IFS= read -r line 2>/dev/null <"$1" || [ -n "$line" ]
}

# Whether the release in folder $1 was unpacked whole and is exactly the wanted package.
is_wanted() {
    read_line "$1/.capstan-release" && [ "$line" = "$CAPSTAN_VERSION $CAPSTAN_PACKAGE_SHA256" ]
}

# Hundredths of a second since boot, in `now`: a clock that nobody sets.
uptime_now() {
    IFS=' ' read -r uptime _ </proc/uptime
    # The 1 in front keeps 08 and 09 from being read as octal.
    now=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
}

# State and start time of process $1. Fails if there is none.
read_process() {
    stat=
    while IFS= read -r stat_line; do
        stat="$stat $stat_line"
    done 2>/dev/null <"/proc/$1/stat"
    # The name stands in parentheses and may hold anything.
    stat=${stat##*') '}
    [ -n "$stat" ] || return 1
    # shellcheck disable=SC2086 # numbers and one letter, to be split
    set -- $stat
    [ $# -ge 20 ] || return 1
    process_state=$1
    process_start=${20}
}

# Whether the application lives. Without `run/pid` nothing speaks against it. `pid` is what the file says.
is_running() {
    pid=
    [ -e "$CAPSTAN_ROOT/run/pid" ] || return 0
    read_line "$CAPSTAN_ROOT/run/pid"
    pid=${line%%[!0-9]*}
    [ -n "$pid" ] && read_process "$pid" || return 1
    case $process_state in [ZX]) return 1 ;; esac
    # After a reboot the number may be another's. install notes whom it named; a pid file that was written
    # later than that note is believed.
    # shellcheck disable=SC3013 # -nt: POSIX 2024, and every sh that Linux hosts have
    if [ "$CAPSTAN_ROOT/run/pid" -nt "$CAPSTAN_ROOT/run/process" ]; then return 0; fi
    read_line "$CAPSTAN_ROOT/run/process" || return 0
    noted=$line
    read_line /proc/sys/kernel/random/boot_id
    [ "${noted%% *}" != "$pid" ] || [ "$noted" = "$pid $process_start $line" ]
}
