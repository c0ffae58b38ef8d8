#!/bin/sh
# Runs all tests N times, with the flags of go test that follow N, in each of three settings:
# on a quiet machine, next to two processes that are always busy, and with GOMAXPROCS=1.
# Prints one line for each run, and one for each failing test with the seeds that repeat it.
# Fails if a test failed.
set -eu
cd "$(dirname "$0")/.."
runs=$1
shift # to the flags of go test

dir=$(mktemp -d)
busy=
stop_busy() {
	for pid in $busy; do kill "$pid" 2>/dev/null || :; done
	busy=
}
trap 'stop_busy; exit 1' INT TERM
trap 'stop_busy' EXIT

failed=0
run() { # setting, number, flags
	setting=$1 number=$2
	shift 2
	log=$dir/$setting-$number.log
	begin=$(date +%s)
	if go test "$@" ./... >"$log" 2>&1; then
		printf '%-12s run %d  passed  %4d s\n' "$setting" "$number" $(($(date +%s) - begin))
		rm "$log"
		return
	fi
	failed=$((failed + 1))
	printf '%-12s run %d  FAILED  %4d s  %s\n' "$setting" "$number" $(($(date +%s) - begin)) "$log"
	# A package's failures and seeds come before the line with its result.
	awk '
		/^ *--- FAIL: / { failures = failures "\n    " $3 }
		/^panic: /      { failures = failures "\n    " $0 }
		/^-test.shuffle / { shuffle = $2 }
		/^-seed /         { seed = " -seed=" $2 }
		/^(FAIL|ok)[ \t]+[^ \t]+[ \t]/ {
			if ($1 == "FAIL") printf "  %s -shuffle=%s%s%s\n", $2, shuffle, seed, failures
			failures = shuffle = seed = ""
		}' "$log"
}

for setting in quiet busy GOMAXPROCS=1; do
	case $setting in
	busy)
		for _ in 1 2; do
			(while :; do :; done) &
			busy="$busy $!"
		done
		;;
	GOMAXPROCS=1) export GOMAXPROCS=1 ;;
	esac
	number=0
	while [ "$number" -lt "$runs" ]; do
		number=$((number + 1))
		run "$setting" "$number" "$@"
	done
	stop_busy
done
[ "$failed" -eq 0 ] || exit 1
rmdir "$dir"
