# Keeps one server alive for exactly as long as standard input stays open, and
# leaves nothing behind. The system closes that pipe however the process at the
# other end dies, so this works after a SIGKILL too.
#
# Arguments: the directory to make and remove; the signals that ask the server to
# stop, mildest first; the script that becomes the server; that script's arguments.
# Standard input: the server's configuration, a line with a dot, and then one
# line for each restart.
# Standard output: nothing, but the server holds it open, so that end of file
# there means that the server is gone.

dir=$1 signals=$2 script=$3
shift 3

umask 077
mkdir "$dir" && cd "$dir" || exit

# A signal only ends the read below; the children get the default dispositions.
trap : HUP INT QUIT TERM

while IFS= read -r line && [ "$line" != . ]; do
	printf '%s\n' "$line"
done >config

start() {
	(eval "$script") 3>&1 >>log 2>&1 &
	server=$!
}

# The whole process group is signalled, because what runs may still be a
# child of the script. Signals are repeated, because a shell starts background
# commands with SIGINT and SIGQUIT ignored, and the server may not have asked for
# them yet.
stop() {
	for signal in $signals; do
		tries=60
		while [ "$tries" -gt 0 ]; do
			kill -s "$signal" 0
			sleep 0.05 # and reap the server if it has exited
			kill -s 0 "$server" 2>/dev/null || return
			tries=$((tries - 1))
		done
	done
	kill -s TERM 0
	kill -s KILL "$server"
	wait "$server"
}

start "$@"
exec >>log 2>&1
while read -r _; do
	stop
	start "$@"
done
stop

# PostgreSQL leaves a System V segment behind when it is killed; the seventh line of
# its pid file ends with the id.
segment=$(sed -n '7s/.* //p' data/postmaster.pid 2>/dev/null)
[ -z "$segment" ] || ipcrm -m "$segment"

# A server that had to be killed may have children that still write.
cd /
tries=100
until rm -rf "$dir" || [ "$tries" -eq 0 ]; do
	sleep 0.05
	tries=$((tries - 1))
done
