#compdef tazpod-net
# Completion of tazpod-net for zsh, made by 'tazpod-net completion zsh': for a file _tazpod-net in $fpath, or for eval.

# Names of the peers, full ones if the word has a dot: from a file that the supervisor keeps, so that a Tab waits for
# nobody. `given` is the home, if the command line names one.
_tazpod-net-peers() {
  local home=${${given-}:-${TAZPOD_NET_HOME-}}
  local -a peers
  [[ -n $home || ! -r /run/tazpod-net/home ]] || read -r home </run/tazpod-net/home
  [[ -n $home || $EUID != 0 ]] || home=/var/lib/tazpod-net
  [[ -n $home ]] || home=${XDG_STATE_HOME:-$HOME/.local/state}/tazpod-net
  [[ $home != '~/'* ]] || home=$HOME${home#'~'}
  [[ -r $home/state/peers ]] || return 1
  peers=(${(f)"$(<$home/state/peers)"})
  if [[ $PREFIX == *.* ]]; then
    peers=(${peers##* })
  else
    peers=(${peers%% *})
  fi
  peers=(${peers:#*[^a-z0-9._-]*})
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
  local command='' given='' index context state state_descr line
  local -a commands specs
  local -A opt_args
  for ((index = 2; index < CURRENT; index++)); do
    case $words[index] in
    --home) given=${(Q)words[++index]} ;;
    --home=*) given=${(Q)words[index]#*=} ;;
    --config) ((index++)) ;;
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
