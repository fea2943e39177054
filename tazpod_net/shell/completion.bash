# shellcheck shell=bash
# Completion of tazpod-net for bash, made by 'tazpod-net completion bash'.

# Sets `words` to the names of the peers, full ones if $word has a dot: from a file that the supervisor keeps, so that a
# Tab waits for nobody. $1: the home, if the command line names one.
_tazpod_net_peers() {
  local home=$1 line name
  local -a lines=()
  words=''
  [[ -n $home ]] || home=${TAZPOD_NET_HOME-}
  [[ -n $home || ! -r /run/tazpod-net/home ]] || read -r home </run/tazpod-net/home
  [[ -n $home || $EUID != 0 ]] || home=/var/lib/tazpod-net
  [[ -n $home ]] || home=${XDG_STATE_HOME:-${HOME-}/.local/state}/tazpod-net
  [[ $home != '~/'* ]] || home=${HOME-}${home#'~'}
  [[ ! -r $home/state/peers ]] || mapfile -t lines 2>/dev/null <"$home/state/peers"
  for line in ${lines[@]+"${lines[@]}"}; do
    name=${line%% *}
    [[ $word != *.* ]] || name=${line##* }
    [[ $name == *[!a-z0-9._-]* ]] || words+=" $name"
  done
}

_tazpod_net() {
  local command='' kind='' words='' each head='' home='' index left IFS=$' \t\n'
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
      [[ $each != --home ]] || home=${COMP_WORDS[index]-}
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
      _tazpod_net_peers "$home"
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
