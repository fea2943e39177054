# shellcheck shell=bash
# tazpod-net's hook for bash and zsh: sourced by interactive shells, it brings the tailnet up when it is not.
#
# When all is well it says nothing, starts no process and takes well under a millisecond: it reads HOME/state/short and
# /proc/PID/stat with builtins, and returns before the rest of this file is parsed. Else it starts `tazpod-net up` in
# the background, in a session of its own, and tells how that ended at a later prompt. It never waits.
#
#   TAZPOD_NET_HOOK_COMPLETION=1   Tab completion of tazpod-net, loaded at the first Tab
#   TAZPOD_NET_HOOK_WRAPPER=1      `tailscale` talks to the daemon of tazpod-net while that lives
#   TAZPOD_NET_HOOK_PROMPT=1       $TAILNET is the state at each prompt: ready, waiting-credentials, down, ...
#
# Set them before this file is read. docs/shell.md has the whole story. A word after a backslash is never an alias.

case $- in
*i*) ;;
*) \return 0 ;;
esac
[[ -t 0 && -t 2 ]] || \return 0

# Whether process $1 still is the one that started at tick $2 (fields 3 and 22 of /proc/PID/stat, man 5 proc_pid_stat).
function _tazpod_net_lives {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS=' ' stat=''
  \local -a field
  [[ -n ${1-} && $1 != *[!0-9]* ]] || \return 1
  { \builtin read -r stat <"/proc/$1/stat"; } 2>/dev/null || \return 1
  stat=${stat##*') '}
  # shellcheck disable=SC2206 # words are wanted: numbers and a letter
  field=($stat)
  [[ ${field[0]-} != [ZX] && ${field[19]-} == "${2-}" ]]
}

# Sets _tazpod_net_home as `tazpod-net` itself would (tazpod_net/home.py). Fails for ~NAME, which builtins cannot tell.
function _tazpod_net_locate {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS='' home="${TAZPOD_NET_HOME-}" owner='' pointer=/run/tazpod-net/home
  _tazpod_net_home=''
  if [[ -z $home && -f $pointer && ! -L $pointer ]]; then
    { { \builtin read -r home && \builtin read -r owner; } <"$pointer"; } 2>/dev/null || :
    # Written by root, says the program. No builtin knows root's files from others' but root's own -O: for the rest of us
    # it must be neither ours nor in a directory that we may write.
    if [[ $home != /* ]]; then
      home=
    elif [[ $EUID == 0 ]]; then
      [[ -O $pointer ]] || home=
    elif [[ -O $pointer || -w ${pointer%/*} ]] || [[ ! -x $home ]] ||
      ! _tazpod_net_lives "${owner%% *}" "${owner##* }"; then
      home=
    fi
  fi
  if [[ -z $home && $EUID == 0 ]]; then
    home=/var/lib/tazpod-net
  elif [[ -z $home ]]; then
    home=${HOME-}
    home=${XDG_STATE_HOME:-${home%/}/.local/state}/tazpod-net
  fi
  case $home in
  /*) ;;
  \~ | \~/*) home=${HOME-}${home#\~} ;;
  \~*) \return 1 ;;
  *) home=${PWD%/}/$home ;;
  esac
  _tazpod_net_home=$home
}

# Whether a supervisor lives; then _tazpod_net_word is its state, and _tazpod_net_rest what follows: MODE IP NAME.
function _tazpod_net_look {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS=' ' tag='' pid='' ticks=''
  _tazpod_net_word='' _tazpod_net_rest=''
  _tazpod_net_locate || \return 1
  {
    {
      \builtin read -r tag _tazpod_net_word _tazpod_net_rest && \builtin read -r pid ticks
    } <"$_tazpod_net_home/state/short"
  } 2>/dev/null || \return 1
  [[ $tag == tailnet: ]] && _tazpod_net_lives "$pid" "$ticks"
}

if [[ ${TAZPOD_NET_HOOK_WRAPPER:-0} != 0 ]]; then
  function tailscale {
    if _tazpod_net_look; then
      \command tazpod-net tailscale "$@"
    else
      \command tailscale "$@"
    fi
  }
fi

if [[ ${TAZPOD_NET_HOOK_PROMPT:-0} != 0 ]]; then
  # Sets TAILNET without a process. Before all others at the prompt, which may show it; $? is left as it was.
  function tazpod_net_prompt {
    \local code=$? _tazpod_net_word='' _tazpod_net_rest=''
    if _tazpod_net_look; then TAILNET=$_tazpod_net_word; else TAILNET=down; fi
    \export TAILNET
    [[ $- == *e* ]] || \return "$code"
  }
  if [[ -n ${ZSH_VERSION-} ]]; then
    [[ " ${precmd_functions[*]-} " == *' tazpod_net_prompt '* ]] ||
      precmd_functions=(tazpod_net_prompt ${precmd_functions[@]+"${precmd_functions[@]}"})
  elif [[ ${PROMPT_COMMAND-} != *tazpod_net_prompt* ]]; then
    # shellcheck disable=SC2128,SC2178 # of an array the first element is meant
    PROMPT_COMMAND=tazpod_net_prompt${PROMPT_COMMAND:+; $PROMPT_COMMAND}
  fi
fi

if [[ ${TAZPOD_NET_HOOK_COMPLETION:-0} != 0 ]]; then
  function _tazpod_net_load {
    if [[ -n ${ZSH_VERSION-} ]]; then
      \eval "$(\command tazpod-net completion zsh 2>/dev/null)"
      \typeset -f _tazpod-net >/dev/null && _tazpod-net "$@"
    else
      \builtin complete -r tazpod-net
      \eval "$(\command tazpod-net completion bash 2>/dev/null)"
      \return 124 # bash looks again for what has been defined now
    fi
  }
  if [[ -z ${ZSH_VERSION-} ]]; then
    \builtin complete -F _tazpod_net_load tazpod-net
  elif \typeset -f compdef >/dev/null; then
    compdef _tazpod_net_load tazpod-net
  fi
fi

# Leaves nothing behind but what the options need, or everything while something is waited for.
function _tazpod_net_forget {
  [[ -z ${_tazpod_net_waits-} ]] || \return 0
  \unset _tazpod_net_word _tazpod_net_rest
  [[ ${TAZPOD_NET_HOOK_WRAPPER:-0}${TAZPOD_NET_HOOK_PROMPT:-0} == 00 ]] || \return 0
  \unset _tazpod_net_home
  \unset -f _tazpod_net_lives _tazpod_net_locate _tazpod_net_look _tazpod_net_forget 2>/dev/null || :
}

if _tazpod_net_look; then
  case $_tazpod_net_word in
  ready | offline | starting | stopping | stopped | down)
    _tazpod_net_forget
    \return 0
    ;;
  esac
fi

[[ -n $_tazpod_net_home ]] || \return 0

# --- from here on something is to be done or to be said, and a fork is allowed ---------------------------------------

function _tazpod_net_say {
  \local text="${1//[[:cntrl:]]/ }"
  \builtin printf 'tazpod-net: %s\n' "${text:0:400}" >&2
}

# Sets _tazpod_net_boot, and _tazpod_net_marks: where this user's shells of this life of the container leave each other
# word about this home. It is under /tmp, because the home may be read-only or not there yet.
function _tazpod_net_find_marks {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS=' ' stat='' key='' place=''
  \local -a field
  _tazpod_net_boot='' _tazpod_net_marks=''
  { \builtin read -r _tazpod_net_boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || :
  { \builtin read -r stat </proc/1/stat; } 2>/dev/null || :
  stat=${stat##*') '}
  # shellcheck disable=SC2206 # words are wanted
  field=($stat)
  key=${_tazpod_net_home//[!A-Za-z0-9]/_}
  [[ ${#key} -le 80 ]] || key=${#key}${key:$((${#key} - 80))}
  for place in "/tmp/tazpod-net-$EUID" "${XDG_RUNTIME_DIR:-/nowhere}/tazpod-net-hook"; do
    [[ -e $place ]] || \command mkdir -m 700 "$place" 2>/dev/null || :
    if [[ -d $place && ! -L $place && -O $place && -w $place ]]; then
      _tazpod_net_marks=$place/${_tazpod_net_boot%%-*}.${field[19]-0}.$key
      \return 0
    fi
  done
  \return 1
}

# Writes $2 into the new file $1; of all that try only one succeeds (O_EXCL).
function _tazpod_net_claim {
  (\set -C && \builtin printf '%s\n' "$2" >"$1") 2>/dev/null
}

# Says $2 if no shell has said anything under the name $1 before.
function _tazpod_net_once {
  if [[ -n $_tazpod_net_marks ]]; then
    [[ ! -e $_tazpod_net_marks.$1 ]] || \return 0
    _tazpod_net_claim "$_tazpod_net_marks.$1" '' || \return 0
  fi
  _tazpod_net_say "$2"
}

# Whether a person's `down` or `logout` stands: the mark was made in this life of the container (tazpod_net/boot.py).
function _tazpod_net_is_left {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS='' name='' mark='' space='' first=''
  for name in stopped.json logged-out; do
    { \builtin read -r mark <"$_tazpod_net_home/state/$name"; } 2>/dev/null || \continue
    mark=${mark//[[:space:]]/}
    [[ $mark == *"\"boot_id\":\"$_tazpod_net_boot\""* ]] || \continue
    first=${mark#*'"init":'}  # the kernel gives the number of a namespace out again
    [[ $first != [0-9]* ]] || _tazpod_net_lives 1 "${first%%[!0-9]*}" || \continue
    space=$(\command readlink /proc/self/ns/pid 2>/dev/null) || \return 0
    space=${space#*'['}
    [[ "$mark" == *"\"pid_namespace\":${space%']'}"[!0-9]* ]] && \return 0
  done
  \return 1
}

# The text under the key $1 of state/status.json, into _tazpod_net_value.
# shellcheck disable=SC1003 # backslashes are what it is about
function _tazpod_net_status {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS='' text='' quote=$'\001' slash=$'\002'
  _tazpod_net_value=''
  { \builtin read -r text <"$_tazpod_net_home/state/status.json"; } 2>/dev/null || \return 1
  [[ $text == *"\"$1\":\""* ]] || \return 1
  text=${text#*"\"$1\":\""}
  text=${text//'\\'/"$slash"}
  text=${text//'\"'/"$quote"}
  text=${text%%'"'*}
  text=${text//"$quote"/'"'}
  _tazpod_net_value=${text//"$slash"/'\'}
}

# Which credentials this shell can see, into _tazpod_net_seen; the names, never a value.
function _tazpod_net_find_credentials {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS='' file='' line='' secrets="${HOME-}/secrets"
  _tazpod_net_seen=''
  [[ -z ${TS_AUTHKEY-}${TS_AUTH_KEY-}${TAZPOD_NET_LOGIN_AUTH_KEY-} ]] || _tazpod_net_seen=' key'
  _tazpod_net_try_file "${TAZPOD_NET_LOGIN_AUTH_KEY_FILE-}"
  _tazpod_net_try_file "${TAZPOD_NET_LOGIN_API_KEY_FILE:-$secrets/tailscale-api-key}"
  [[ ! -s ${TAZPOD_NET_LOGIN_OAUTH_CLIENT_ID_FILE:-$secrets/tailscale-oauth-client-id} ]] ||
    _tazpod_net_try_file "${TAZPOD_NET_LOGIN_OAUTH_CLIENT_SECRET_FILE:-$secrets/tailscale-oauth-client-secret}"
  for file in /etc/tazpod-net/config.toml "${XDG_CONFIG_HOME:-${HOME-}/.config}/tazpod-net/config.toml" \
    "$_tazpod_net_home/config.toml" "${TAZPOD_NET_CONFIG-}"; do
    [[ -f $file && -r $file ]] || \continue
    while \builtin read -r line; do
      line=${line//[[:space:]]/}
      case $line in
      auth_key_file=* | login.auth_key_file=* | oauth_client_secret_file=* | api_key_file=*)
        line=${line#*=?}
        _tazpod_net_try_file "${line%%[\"\']*}"
        ;;
      esac
    done 2>/dev/null <"$file"
  done
}

function _tazpod_net_try_file {
  \local file="$1"
  [[ $file != \~/* ]] || file=${HOME-}${file#\~}
  [[ ! -s $file || ! -r $file ]] || _tazpod_net_seen="$_tazpod_net_seen $file"
}

# `up` in the background: of no terminal, no job of this shell, and with a file for how it ended.
# shellcheck disable=SC2016 # it is sh that expands this
_tazpod_net_work='said=$(tazpod-net up 2>&1 >/dev/null) && code=0 || code=$?
[ -z "$1" ] || { printf "%s\n%s\n" "$code" "$said" >"$1.new" && mv -f "$1.new" "$1"; }'

function _tazpod_net_launch {
  \local own=''
  ! \builtin command -v setsid >/dev/null 2>&1 || own=setsid
  if [[ -n ${ZSH_VERSION-} ]]; then
    \builtin emulate -L zsh
    # Without job control the child leads no process group, and setsid(1) need not fork: this shell stays its parent and
    # reaps it, where PID 1 may be a `sleep` that never does.
    \builtin setopt no_monitor no_bg_nice no_hup
    \eval 'HOME=${HOME-} \command ${own:-env} sh -c "$_tazpod_net_work" tazpod-net-hook "$1" \
      </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &!'
  else
    \local monitor="${-//[!m]/}"
    [[ -z $monitor ]] || \set +m
    {
      HOME=${HOME-} \command ${own:-env} sh -c "$_tazpod_net_work" tazpod-net-hook "$1" \
        </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
      \builtin disown "$!" || :
    } 2>/dev/null
    [[ -z $monitor ]] || \set -m
  fi
}

# Sets _tazpod_net_now (seconds since boot) and _tazpod_net_number, _tazpod_net_began: the newest attempt, 0 if none.
function _tazpod_net_newest {
  \local IFS=''
  _tazpod_net_number=0 _tazpod_net_began=0 _tazpod_net_now=0
  { \builtin read -r _tazpod_net_now </proc/uptime; } 2>/dev/null || :
  _tazpod_net_now=${_tazpod_net_now%%.*}
  [[ -n $_tazpod_net_marks ]] || \return 0
  while [[ -e $_tazpod_net_marks.start.$((_tazpod_net_number + 1)) ]]; do
    _tazpod_net_number=$((_tazpod_net_number + 1))
  done
  { \builtin read -r _tazpod_net_began <"$_tazpod_net_marks.start.$_tazpod_net_number"; } 2>/dev/null || :
  [[ -n $_tazpod_net_began && $_tazpod_net_began != *[!0-9]* ]] || _tazpod_net_began=0
}

# How attempt $1 ended: sets _tazpod_net_code, empty while it goes on, and _tazpod_net_value, the reason in one line.
function _tazpod_net_ended {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS='' line='' last='' more=0
  _tazpod_net_code='' _tazpod_net_value=''
  [[ -e $_tazpod_net_marks.end.$1 ]] || \return 0
  {
    \builtin read -r _tazpod_net_code || :
    while \builtin read -r line; do
      last=${line:-$last}
      [[ $line == 'tazpod-net: '* ]] || \continue
      [[ -z $_tazpod_net_value ]] || more=$((more + 1))
      _tazpod_net_value=${_tazpod_net_value:-${line#tazpod-net: }}
    done
  } 2>/dev/null <"$_tazpod_net_marks.end.$1"
  _tazpod_net_value=${_tazpod_net_value:-${last:-exit code $_tazpod_net_code}}
  [[ $more == 0 ]] || _tazpod_net_value="$_tazpod_net_value, and $more more"
}

function _tazpod_net_tell_failure {
  _tazpod_net_once "$1" "tailnet did not start: $_tazpod_net_value (tazpod-net status)"
}

# Starts an attempt. Fails if another shell of this user is at it, or ($1 is empty) has failed just now: that one tells.
function _tazpod_net_start {
  _tazpod_net_newest
  _tazpod_net_ended "$_tazpod_net_number"
  case $_tazpod_net_number,$_tazpod_net_code in
  0,* | *,0) ;;
  *,) [[ $((_tazpod_net_now - _tazpod_net_began)) -gt 90 ]] || \return 1 ;;
  *) [[ -n $1 || $((_tazpod_net_now - _tazpod_net_began)) -gt 10 ]] || \return 1 ;;
  esac
  _tazpod_net_number=$((_tazpod_net_number + 1))
  if [[ -z $_tazpod_net_marks ]]; then
    _tazpod_net_launch ''
  else
    _tazpod_net_claim "$_tazpod_net_marks.start.$_tazpod_net_number" "$_tazpod_net_now" || \return 1
    _tazpod_net_launch "$_tazpod_net_marks.end.$_tazpod_net_number"
  fi
  _tazpod_net_say 'starting the tailnet in the background (tazpod-net status)'
  _tazpod_net_began=$_tazpod_net_now _tazpod_net_mine=$_tazpod_net_number _tazpod_net_waits=1
}

# The supervisor has no credentials: hands over what this shell can see, or says so once. Goes on at the next prompts.
function _tazpod_net_wait {
  ! _tazpod_net_is_left || \return 1
  _tazpod_net_waits=1
  _tazpod_net_find_credentials
  if [[ -n $_tazpod_net_seen && $_tazpod_net_seen != "${_tazpod_net_given-}" ]]; then
    ! _tazpod_net_start now || _tazpod_net_given=$_tazpod_net_seen
    \return 0
  fi
  # An attempt of ours that has not ended may be handing them over.
  [[ -z ${_tazpod_net_mine-} || -e $_tazpod_net_marks.end.$_tazpod_net_mine ]] || \return 0
  _tazpod_net_status login_next || :
  case $_tazpod_net_value in
  *' (login follows by itself)'*)
    _tazpod_net_value="by itself after '${_tazpod_net_value%%' (login follows by itself)'*}'"
    ;;
  *) _tazpod_net_value='by itself when they are there, or: tazpod-net login' ;;
  esac
  _tazpod_net_once waiting "tailnet waits for credentials: logs in $_tazpod_net_value"
}

# One look, when the shell starts ($1 is empty) and at the prompts after that. Fails when there is nothing to wait for.
function _tazpod_net_step {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  if ! _tazpod_net_look; then
    if [[ -n $1 ]]; then _tazpod_net_follow; else _tazpod_net_begin; fi
    \return
  fi
  case $_tazpod_net_word in
  ready | offline) _tazpod_net_tell_ready ;;
  waiting-credentials)
    _tazpod_net_wait
    \return
    ;;
  stopped) ;;
  starting | stopping | down)
    _tazpod_net_follow
    \return
    ;;
  *)
    if [[ -n ${_tazpod_net_mine-} ]]; then
      _tazpod_net_follow
      \return
    fi
    _tazpod_net_status summary || _tazpod_net_value=$_tazpod_net_word
    _tazpod_net_tell_failure "$_tazpod_net_word"
    ;;
  esac
  \return 1
}

# A new shell, and no supervisor: tells how the last attempt failed, and makes one.
function _tazpod_net_begin {
  ! _tazpod_net_is_left || \return 1
  \builtin command -v tazpod-net >/dev/null 2>&1 || \return 1
  _tazpod_net_newest
  _tazpod_net_ended "$_tazpod_net_number"
  [[ ${_tazpod_net_code:-0} == 0 ]] || _tazpod_net_tell_failure "told.$_tazpod_net_number"
  _tazpod_net_start ''
}

# Whether to go on waiting for an attempt of this shell. Its `up` ends after 30 s at the latest, the supervisor goes on.
function _tazpod_net_follow {
  [[ -n ${_tazpod_net_mine-} && -n $_tazpod_net_marks ]] || \return 1
  _tazpod_net_newest
  _tazpod_net_ended "$_tazpod_net_mine"
  if [[ -z $_tazpod_net_code ]]; then
    [[ $((_tazpod_net_now - _tazpod_net_began)) -le 90 ]]
    \return
  fi
  [[ $_tazpod_net_code == 0 ]] || _tazpod_net_is_left || _tazpod_net_tell_failure "told.$_tazpod_net_mine"
  \return 1
}

# `tailnet ready`, in the shell that said that it started it or that it waits.
function _tazpod_net_tell_ready {
  [[ -n ${_tazpod_net_waits-} ]] || \return 0
  \local IFS=' ' mode='' address='' name=''
  mode=${_tazpod_net_rest%% *} name=${_tazpod_net_rest##* }
  address=${_tazpod_net_rest#* } address=${address%% *}
  case $mode in
  tun) _tazpod_net_say "tailnet ready: $name $address by TUN" ;;
  *) _tazpod_net_say "tailnet ready: $name $address, $mode (proxy only)" ;;
  esac
}

# At each prompt while there is something to wait for. The user's own $? stays, but for `set -e`, which it would end.
function _tazpod_net_prompt {
  \local code=$?
  [[ -z ${_tazpod_net_waits-} ]] || _tazpod_net_step prompt || _tazpod_net_leave_prompt
  [[ $- == *e* ]] || \return "$code"
}

function _tazpod_net_enter_prompt {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local IFS=' ' kind=''
  if [[ -n ${ZSH_VERSION-} ]]; then
    [[ " ${precmd_functions[*]-} " == *' _tazpod_net_prompt '* ]] || precmd_functions+=(_tazpod_net_prompt)
    \return 0
  fi
  [[ "${PROMPT_COMMAND[*]-}" != *_tazpod_net_prompt* ]] || \return 0
  kind=$(\builtin declare -p PROMPT_COMMAND 2>/dev/null) || :
  kind=${kind#declare -} kind=${kind%% *}
  case $kind in
  *r*) ;; # readonly: a later shell tells
  *a*)
    if [[ ${BASH_VERSINFO[0]}${BASH_VERSINFO[1]} -ge 51 ]]; then
      PROMPT_COMMAND+=(_tazpod_net_prompt)
    else
      PROMPT_COMMAND[0]="${PROMPT_COMMAND[0]-}"$'\n'_tazpod_net_prompt
    fi
    ;;
  *)
    # shellcheck disable=SC2178,SC2128 # it is no array here
    PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}_tazpod_net_prompt
    ;;
  esac
}

# What others have copied our name into (prompt programs do that) finds a function that does nothing.
function _tazpod_net_leave_prompt {
  [[ -z ${ZSH_VERSION-} ]] || \builtin emulate -L ksh
  \local -a kept
  \local each='' index=''
  kept=()
  _tazpod_net_waits=''
  if [[ -n ${ZSH_VERSION-} ]]; then
    for each in "${precmd_functions[@]}"; do
      [[ $each == _tazpod_net_prompt ]] || kept+=("$each")
    done
    precmd_functions=(${kept[@]+"${kept[@]}"})
  elif [[ $(\builtin declare -p PROMPT_COMMAND 2>/dev/null) == 'declare -'*([!\ ])a* ]]; then
    for index in "${!PROMPT_COMMAND[@]}"; do
      each=${PROMPT_COMMAND[index]//$'\n'_tazpod_net_prompt/}
      if [[ $each == _tazpod_net_prompt ]]; then \unset "PROMPT_COMMAND[$index]"; else PROMPT_COMMAND[index]=$each; fi
    done
  else
    # shellcheck disable=SC2178,SC2128 # it is no array here
    PROMPT_COMMAND=${PROMPT_COMMAND//$'\n'_tazpod_net_prompt/}
    # shellcheck disable=SC2128
    [[ $PROMPT_COMMAND != _tazpod_net_prompt ]] || \unset PROMPT_COMMAND
  fi
  _tazpod_net_clear
}

function _tazpod_net_clear {
  [[ -z ${_tazpod_net_waits-} ]] || \return 0
  _tazpod_net_forget
  \unset _tazpod_net_boot _tazpod_net_marks _tazpod_net_value _tazpod_net_seen _tazpod_net_given _tazpod_net_work \
    _tazpod_net_now _tazpod_net_number _tazpod_net_began _tazpod_net_code _tazpod_net_mine _tazpod_net_waits
  \unset -f _tazpod_net_say _tazpod_net_find_marks _tazpod_net_claim _tazpod_net_once _tazpod_net_is_left \
    _tazpod_net_status _tazpod_net_find_credentials _tazpod_net_try_file _tazpod_net_launch _tazpod_net_newest \
    _tazpod_net_ended _tazpod_net_tell_failure _tazpod_net_start _tazpod_net_wait _tazpod_net_step _tazpod_net_begin \
    _tazpod_net_follow _tazpod_net_tell_ready _tazpod_net_enter_prompt _tazpod_net_leave_prompt _tazpod_net_clear \
    2>/dev/null || :
}

# Sourced once more while something is waited for: the next prompt looks.
[[ -z ${_tazpod_net_waits-} ]] || \return 0

_tazpod_net_find_marks || :
if _tazpod_net_step '' && [[ -n ${_tazpod_net_waits-} ]]; then
  _tazpod_net_enter_prompt
else
  \unset -f _tazpod_net_prompt
  _tazpod_net_clear
fi
