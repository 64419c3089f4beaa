#!/bin/sh
# A small version of the official image's script: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (each also as …_FILE),
# and the files in /docker-entrypoint-initdb.d, all only at the first start.
set -eu

value() {  # value NAME DEFAULT: from the file NAME_FILE, or the variable NAME
    eval "file=\${${1}_FILE:-} text=\${${1}:-}"
    if [ -n "$file" ]; then text=$(cat "$file"); fi
    printf '%s' "${text:-$2}"
}

if [ "${1:-}" != postgres ]; then exec "$@"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=$(value POSTGRES_USER postgres)
    database=$(value POSTGRES_DB "$user")
    umask 077
    value POSTGRES_PASSWORD '' >/tmp/password
    [ -s /tmp/password ] || { echo "POSTGRES_PASSWORD is not set" >&2; exit 1; }
    initdb --username="$user" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 --no-sync >/dev/null
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # Listen only on the socket until everything is there, so that it does not look ready from outside.
    pg_ctl --silent --options="-c listen_addresses=''" --wait start >/dev/null
    [ "$database" = postgres ] || createdb --username="$user" "$database"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$file" ] || psql -X -q -v ON_ERROR_STOP=1 --username="$user" --dbname="$database" --file="$file"
    done
    pg_ctl --silent --mode=fast --wait stop >/dev/null
fi
shift
exec postgres -c listen_addresses='*' "$@"
