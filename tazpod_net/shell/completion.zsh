#compdef tazpod-net
# Completion of tazpod-net for zsh, made by 'tazpod-net completion zsh': for a file _tazpod-net in $fpath, or for eval.

# Names of the peers: asked of the daemon, for two seconds at most.
_tazpod-net-peers() {
  local -a lines peers
  lines=(${(f)"$(timeout 2 tazpod-net tailscale status 2>/dev/null)"})
  peers=(${${(M)lines:#[0-9f]##*[.:]*}[@]})
  peers=(${peers/(#b)[^ ]##[ ]##([^ ]##)*/$match[1]})
  compadd "$@" -a peers
}

_tazpod-net-condition() {
  if compset -P 'peer:'; then
    _tazpod-net-peers
  elif ! compset -P '*:'; then
    compadd live ready online
    compadd -S '' peer: tcp: name:
  fi
}

_tazpod-net() {
  local command='' index context state state_descr line
  local -a commands specs
  local -A opt_args
  for ((index = 2; index < CURRENT; index++)); do
    case $words[index] in
    --home | --config) ((index++)) ;;
    -*) ;;
    *)
      command=$words[index]
      break
      ;;
    esac
  done
@TABLE@
  if [[ -z $command ]]; then
    _arguments -s -S $specs ':command:->command' && return
    [[ $state != command ]] || _describe -t commands command commands
    return
  fi
  shift index-1 words
  ((CURRENT -= index - 1))
  _arguments -s -S $specs
}
(( ! $+functions[compdef] )) || compdef _tazpod-net tazpod-net
[[ $funcstack[1] != _tazpod-net ]] || _tazpod-net "$@"
