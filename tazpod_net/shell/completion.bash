# shellcheck shell=bash
# Completion of tazpod-net for bash, made by 'tazpod-net completion bash'.

# Names of the peers, one a line: asked of the daemon, for two seconds at most.
_tazpod_net_peers() {
  local address name rest
  while read -r address name rest; do
    [[ $address != [0-9f]*[.:]* ]] || printf '%s\n' "$name"
  done < <(timeout 2 tazpod-net tailscale status 2>/dev/null)
}

_tazpod_net() {
  local command='' kind='' words='' each head='' index left IFS=$' \t\n'
  local word=${COMP_WORDS[COMP_CWORD]}
  # '=' and ':' are words of their own (COMP_WORDBREAKS).
  left=$((COMP_CWORD - 1)) each=$word
  if [[ $word == [:=] ]]; then
    word=''
  elif [[ ${COMP_WORDS[left]} == [:=] ]]; then
    each=${COMP_WORDS[left]} left=$((left - 1))
  fi
  if [[ $each == : ]]; then
    head=${COMP_WORDS[left]}: left=$((left - 1))
    [[ ${COMP_WORDS[left]} != = ]] || left=$((left - 1))
  fi
  for ((index = 1; index < COMP_CWORD; index++)); do
    each=${COMP_WORDS[index]}
    case $each in
    --home | --config)
      [[ ${COMP_WORDS[index + 1]} != = ]] || index=$((index + 1))
      index=$((index + 1))
      ;;
    -*) ;;
    *)
      command=$each
      break
      ;;
    esac
  done
  local previous=${COMP_WORDS[left]}
  COMPREPLY=()
@TABLE@
  if [[ $kind == rest && $word == -* && " ${COMP_WORDS[*]:1:COMP_CWORD-1} " != *' -- '* ]]; then
    kind=words
  fi
  case $kind in
  directory | file)
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "-${kind:0:1}" -- "$word")
    ;;
  rest)
    if [[ $previous == -- || $previous == "$command" ]]; then
      mapfile -t COMPREPLY < <(compgen -c -- "$word")
    else
      compopt -o default 2>/dev/null
    fi
    ;;
  nothing) ;;
  *)
    if [[ $kind == peer && $word != -* || $kind == condition && $head == peer: ]]; then
      words=$(_tazpod_net_peers)
    elif [[ -n $head ]]; then
      words=''
    fi
    for each in $words; do
      [[ $each == "$word"* ]] && COMPREPLY+=("$each")
    done
    [[ ${COMPREPLY[*]} != *: ]] || compopt -o nospace 2>/dev/null
    ;;
  esac
  return 0
}
complete -F _tazpod_net tazpod-net
