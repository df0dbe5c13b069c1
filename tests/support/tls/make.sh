#!/bin/sh
# Makes the throw-away certificates of the tests anew: an authority, a server for 127.0.0.1, a client, a worker (server and client at
# once, under a name of its own), a stranger's authority, and two of their own authority: one that has run out, one for another host.
# They guard nothing, live for a hundred years, and lie here so that the tests need no openssl.
set -eu
cd "$(dirname "$0")"
days=36500
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days $days -subj "/CN=$2" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
issue() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf '%s\n' "$3" 'basicConstraints=critical,CA:FALSE' 'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' 'keyUsage=critical,digitalSignature' "extendedKeyUsage=$4" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA authority.pem -CAkey authority.key -CAcreateserial -days $days \
        -extfile "$1.ext" -out "$1.pem" 2>/dev/null
    rm -f "$1.csr" "$1.ext"
}
by_itself() { # name, subject alternative name, the last day
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    : >index.txt
    printf '%s\n' '[ca]' 'default_ca=us' '[us]' 'database=index.txt' 'new_certs_dir=.' 'rand_serial=yes' 'default_md=sha256' \
        'policy=any' 'x509_extensions=ext' '[any]' 'commonName=supplied' '[ext]' "subjectAltName=$2" 'basicConstraints=CA:TRUE' >ca.conf
    openssl ca -batch -selfsign -config ca.conf -keyfile "$1.key" -in "$1.csr" -out "$1.pem" -notext \
        -startdate 20200101000000Z -enddate "$3" 2>/dev/null
    rm -f "$1.csr" ca.conf index.txt* [0-9A-F]*.pem
}
authority authority "Parallax test authority"
authority stranger "Somebody else"
issue server "agent" "subjectAltName=IP:127.0.0.1,DNS:localhost" serverAuth
issue client "worker" "subjectAltName=DNS:worker.test" clientAuth
issue worker "a worker" "subjectAltName=DNS:worker.parallax" serverAuth,clientAuth
by_itself expired IP:127.0.0.1 20200102000000Z
by_itself elsewhere DNS:kafka.elsewhere 21200101000000Z
rm -f authority.srl authority.key stranger.key
