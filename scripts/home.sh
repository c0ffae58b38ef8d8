#!/bin/sh
# Prints a directory to use as HOME, where the go command keeps its caches: HOME,
# or that of the user's entry in /etc/passwd, or else its own directory in /tmp.
for home in "${HOME:-}" "$(eval echo "~$(id -un 2>/dev/null)")"; do
	if [ -d "$home" ] && [ -w "$home" ]; then
		printf '%s\n' "$home"
		exit
	fi
done
home=/tmp/aiseed-home-$(id -u)
mkdir -m 700 "$home" 2>/dev/null
# Another user may have made it.
[ -O "$home" ] && printf '%s\n' "$home"
