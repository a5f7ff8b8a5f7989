#!/bin/sh
# Writes the text proto that tensorflow_model_server reads with --ssl_config_file, from PEM files:
#
#   make_ssl_config.sh SERVER_KEY SERVER_CERTIFICATE [CLIENT_CA] > ssl.config
#
# With CLIENT_CA the server requires client certificates signed by it (mutual TLS). The output holds the private key:
# keep it out of version control and readable by the server only.
set -eu
[ $# -eq 2 ] || [ $# -eq 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for file in "$@"; do [ -r "$file" ] || { echo "make_ssl_config.sh: cannot read $file" >&2; exit 2; }; done
pem() { awk '{ sub(/\r$/, ""); printf "%s\\n", $0 }' "$1"; }
printf 'server_key: "%s"\n' "$(pem "$1")"
printf 'server_cert: "%s"\n' "$(pem "$2")"
if [ $# -eq 3 ]; then
  printf 'custom_ca: "%s"\nclient_verify: true\n' "$(pem "$3")"
fi
