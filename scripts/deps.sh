#!/bin/sh
# Ensures that the named dependencies are installed. Silent and quick if they are.
# Otherwise installs them, as root with apt-get or with brew, or says what to install.
#
#   database   a server that the environment names, or else postgres
#   postgres   binaries of a PostgreSQL server
#   pgbouncer  PgBouncer
#   cc         a C compiler, which go test -race needs
#
# internal/ephemeral decides where to look; this must agree with it.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

have_postgres() {
	if [ -n "${PGBIN:-}" ]; then
		has_server "$PGBIN"
		return
	fi
	if bindir=$(pg_config --bindir 2>/dev/null) && has_server "$bindir"; then
		return
	fi
	if postgres=$(command -v postgres) && has_server "$(dirname "$postgres")"; then
		return
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
		/opt/homebrew/opt/postgresql@*/bin /opt/homebrew/opt/postgresql/bin \
		/usr/local/opt/postgresql@*/bin /usr/local/opt/postgresql/bin \
		/Applications/Postgres.app/Contents/Versions/*/bin; do
		if has_server "$dir"; then
			return
		fi
	done
	return 1
}

has_server() { [ -x "$1/initdb" ] && [ -x "$1/postgres" ]; }

have_pgbouncer() {
	command -v "${PGBOUNCER:-pgbouncer}" >/dev/null || { [ -z "${PGBOUNCER:-}" ] && [ -x /usr/sbin/pgbouncer ]; }
}

# A compiler without the headers of the C library is not enough.
have_cc() {
	echo '#include <stdlib.h>' | ${CC:-$(go env CC 2>/dev/null || echo cc)} -E - >/dev/null 2>&1
}

have() {
	case $1 in
	database) [ -n "${DATABASE_URL:-}${PGSERVICE:-}${PGHOST:-}${PGPORT:-}" ] || have_postgres ;;
	postgres) have_postgres ;;
	pgbouncer) have_pgbouncer ;;
	cc) have_cc ;;
	*)
		say "deps.sh: want database, postgres, pgbouncer or cc, not $1"
		exit 2
		;;
	esac
}

# packages prints the packages that provide what $2 names, for the system $1.
packages() {
	case $1/$2 in
	apt/cc) echo gcc libc6-dev ;;
	brew/cc) ;; # comes with xcode-select --install
	*/database | */postgres) echo postgresql ;;
	*) echo "$2" ;;
	esac
}

# missing sets $missing to those of its arguments that are not installed.
missing() {
	missing=
	for what; do
		have "$what" || missing="$missing $what"
	done
}

# install tries to install the dependencies that its arguments name.
install() {
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		system=apt
	elif [ "$(id -u)" -ne 0 ] && command -v brew >/dev/null; then
		system=brew
	else
		return 0
	fi
	wanted=
	for what; do
		wanted="$wanted $(packages "$system" "$what")"
	done
	[ -n "${wanted# }" ] || return 0
	say "installing$wanted"
	# The next call of missing shows whether it worked.
	# shellcheck disable=SC2086
	case $system in
	apt) output=$(apt_install $wanted 2>&1) || say "$output" ;;
	brew) output=$(brew install $wanted 2>&1) || say "$output" ;;
	esac
}

apt_install() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get update && apt-get install -y --no-install-recommends "$@"
}

check_go() {
	wanted=$(awk '$1 == "go" { print $2 }' go.mod)
	found=$(go env GOVERSION 2>/dev/null) || found=
	if [ -z "$found" ]; then
		say "Go $wanted or later is needed and there is none: see https://go.dev/dl/"
	elif ! printf '%s\n%s\n' "$wanted" "${found#go}" | awk -F '[^0-9]+' '
		NR == 1 { split($0, want, /[^0-9]+/) }
		NR == 2 { split($0, have, /[^0-9]+/) }
		END {
			for (i = 1; i <= 3; i++)
				if (have[i] + 0 != want[i] + 0) exit have[i] + 0 < want[i] + 0
		}'; then
		say "Go $wanted or later is needed, and this is $found: see https://go.dev/dl/"
	fi
}

check_go
missing "$@"
[ -n "$missing" ] || exit 0

# shellcheck disable=SC2086
{
	install $missing
	missing $missing
}
[ -n "$missing" ] || exit 0

say "Missing:$missing. Install it:"
for what in $missing; do
	case $what in
	database) say "  PostgreSQL 14 or later: apt-get install postgresql, or brew install postgresql, or set DATABASE_URL" ;;
	postgres) say "  PostgreSQL 14 or later: apt-get install postgresql, or brew install postgresql, or set PGBIN to the directory of initdb" ;;
	pgbouncer) say "  PgBouncer: apt-get install pgbouncer, or brew install pgbouncer, or set PGBOUNCER to its path" ;;
	cc) say "  a C compiler: apt-get install gcc libc6-dev, or xcode-select --install, or set CC" ;;
	esac
done
exit 1
