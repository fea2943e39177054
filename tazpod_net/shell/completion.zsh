#compdef tazpod-net
# Completion of tazpod-net for zsh, made by 'tazpod-net completion zsh': for a file _tazpod-net in $fpath, or for eval.
_tazpod-net() {
  local command='' index
  local -a commands specs
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
