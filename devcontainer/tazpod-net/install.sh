#!/bin/sh
# Dev Container Feature: run as root while the image is built. Options come as variables of their names, in capitals.
set -eu

SOURCE=${SOURCE:-tazpod-net}
TAILSCALE=${TAILSCALE:-latest}
MODE=${MODE:-auto}
HOOK=${HOOK:-true}
TARGET=/opt/tazpod-net
HOME_DIRECTORY=/var/lib/tazpod-net
USER_NAME=${_REMOTE_USER:-root}

fail() {
  echo "tazpod-net feature: $*" >&2
  exit 1
}

[ "$(id -u)" = 0 ] || fail 'install.sh must run as root'
case $MODE in auto | tun | userspace) ;; *) fail "mode is '$MODE': auto, tun or userspace" ;; esac

missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need python3 python3
need iptables iptables
need ip iproute2
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || fail "missing:$missing, and there is no apt-get: install them in the image"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  # shellcheck disable=SC2086 # a list
  apt-get install -yq --no-install-recommends $missing
  rm -rf /var/lib/apt/lists/*
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail 'python3 is older than 3.11'

python3 -m venv "$TARGET"
"$TARGET/bin/pip" --disable-pip-version-check --no-cache-dir install "$SOURCE"
ln -sf "$TARGET/bin/tazpod-net" /usr/local/bin/tazpod-net

case $TAILSCALE in
  none) ;;
  latest) tazpod-net install --to /usr/local/bin ;;
  *) tazpod-net install --to /usr/local/bin --version "$TAILSCALE" ;;
esac

# The user's, so that `up` and `down` are hers; a volume that is mounted here takes the owner over.
install -d -m 0775 -o "$USER_NAME" -g 0 "$HOME_DIRECTORY"
if [ "$MODE" != auto ]; then
  install -d /etc/tazpod-net
  printf '[daemon]\nmode = "%s"\n' "$MODE" >/etc/tazpod-net/config.toml
fi
if [ "$HOOK" = true ] && ! grep -qs 'tazpod-net init' /etc/bash.bashrc; then
  {
    echo '# tazpod-net init bash, by the Dev Container Feature'
    tazpod-net init bash
  } >>/etc/bash.bashrc
fi
