#!/usr/bin/env bash
# Makes the keys of a test federation: a CA, the SuperLink's certificate, a key pair for
# each SuperNode, and the secret that the SuperLink shares with its SuperExec.
#
#   deploy/make-keys.sh FOLDER NODES [HOST...]
#
# HOST are the names and addresses of the SuperLink. The certificate is always valid for
# localhost and for "superlink", its name in compose.yaml.
set -euo pipefail
umask 077

if (($# < 2)) || [[ ! "$2" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: ${0##*/} FOLDER NODES [HOST...]" >&2
    exit 2
fi
folder=$1 nodes=$2
shift 2
if [[ -e "$folder" ]]; then
    echo "$folder exists: nothing was overwritten" >&2
    exit 1
fi

names="DNS:localhost,DNS:superlink,IP:127.0.0.1"
for host in "$@"; do
    if [[ "$host" =~ ^[0-9.]+$ || "$host" =~ ^[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*$ ]]; then
        names+=",IP:$host"
    elif [[ "$host" =~ ^[A-Za-z0-9*._-]+$ ]]; then
        names+=",DNS:$host"
    else
        echo "HOST must be a name or an address, without a port, got $host" >&2
        exit 2
    fi
done

mkdir -p -- "$folder"
cd -- "$folder"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 365 \
    -subj "/O=flasc-flwr/CN=test federation CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout ca.key -out ca.crt 2>/dev/null

openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
    -subj "/O=flasc-flwr/CN=superlink" \
    -keyout superlink.key -out superlink.csr 2>/dev/null
openssl x509 -req -sha256 -days 365 -in superlink.csr \
    -CA ca.crt -CAkey ca.key -CAcreateserial -out superlink.crt 2>/dev/null \
    -extfile <(
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature,keyEncipherment"
        echo "extendedKeyUsage=serverAuth"
        echo "subjectKeyIdentifier=hash"
        echo "authorityKeyIdentifier=keyid"
        echo "subjectAltName=$names"
    )
rm -f superlink.csr ca.srl
chmod 644 ca.crt superlink.crt

for ((node = 0; node < nodes; node++)); do
    ssh-keygen -q -t ecdsa -b 384 -N "" -C "node-$node" -f "node-$node"
done

openssl rand -out superexec.secret 32

cat <<END
In $folder:
  ca.crt            for the SuperLink, every SuperNode, and everyone who starts runs
  ca.key            signs further certificates: keep it offline
  superlink.*       for the SuperLink: $names
  superexec.secret  for the SuperLink and its SuperExec
  node-N            for SuperNode N, only on its device; node-N.pub registers it
END
