# shellcheck shell=bash
# Completion of tazpod-net for bash, made by 'tazpod-net completion bash'. Starts no process.
_tazpod_net() {
  local word previous command='' kind='' words='' each index IFS=$' \t\n'
  word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  # '=' is a word of its own (COMP_WORDBREAKS).
  if [[ $word == = ]]; then
    word=''
  elif [[ $previous == = ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((index = 1; index < COMP_CWORD; index++)); do
    each=${COMP_WORDS[index]}
    case $each in
    --home | --config) [[ ${COMP_WORDS[index + 1]} == = ]] && ((index += 2)) || ((index += 1)) ;;
    -*) ;;
    *)
      command=$each
      break
      ;;
    esac
  done
  COMPREPLY=()
@TABLE@
  case $kind in
  directory) compopt -o filenames 2>/dev/null && mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
  file) compopt -o filenames 2>/dev/null && mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
  command) compopt -o default 2>/dev/null ;;
  nothing) ;;
  *)
    for each in $words; do
      [[ $each == "$word"* ]] && COMPREPLY+=("$each")
    done
    ;;
  esac
  return 0
}
complete -F _tazpod_net tazpod-net
