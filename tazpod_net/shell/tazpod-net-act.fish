# The part of tazpod-net's hook for fish that is read only when all is not well; a fork is allowed here.

function __tazpod_net_say
    echo tazpod-net: (string sub -l 400 -- (string replace -ra '[[:cntrl:]]' ' ' -- "$argv")) >&2
end

# Sets __tazpod_net_boot and __tazpod_net_marks.
function __tazpod_net_find_marks
    set -g __tazpod_net_marks ''
    set -g __tazpod_net_boot ''
    set -l stat ''
    test -r /proc/sys/kernel/random/boot_id; and read -g __tazpod_net_boot </proc/sys/kernel/random/boot_id
    test -r /proc/1/stat; and read stat </proc/1/stat
    set -l field (string split ' ' -- (string replace -r '^.*\) ' '' -- "$stat"))
    set -q field[20]; or set field[20] 0
    set -l key (string replace -ra '[^A-Za-z0-9]' _ -- $__tazpod_net_home)
    test (string length -- $key) -le 80; or set key (string length -- $key)(string sub -s -80 -- $key)
    set -l euid $EUID
    set -q euid[1]; or set euid (command id -u)
    set -l runtime "$XDG_RUNTIME_DIR"
    test -n "$runtime"; or set runtime /nowhere
    for place in /tmp/tazpod-net-$euid $runtime/tazpod-net-hook
        test -e $place; or command mkdir -m 700 $place 2>/dev/null
        if test -d $place -a ! -L $place -a -O $place -a -w $place
            set __tazpod_net_marks $place/(string replace -r -- '-.*' '' $__tazpod_net_boot).$field[20].$key
            return 0
        end
    end
    return 1
end

# Writes $argv[2] into the new file $argv[1]; of all that try only one succeeds (O_EXCL).
function __tazpod_net_claim
    command sh -c 'set -C; printf "%s\n" "$2" >"$1"' sh $argv[1] "$argv[2]" 2>/dev/null
end

function __tazpod_net_once
    if test -n "$__tazpod_net_marks"
        test ! -e $__tazpod_net_marks.$argv[1]; and __tazpod_net_claim $__tazpod_net_marks.$argv[1] ''; or return 0
    end
    __tazpod_net_say $argv[2]
end

function __tazpod_net_is_left
    for name in stopped.json logged-out
        set -l mark ''
        test -r $__tazpod_net_home/state/$name; or continue
        read mark <$__tazpod_net_home/state/$name
        set mark (string replace -ra '\s' '' -- $mark)
        string match -q -- "*\"boot_id\":\"$__tazpod_net_boot\"*" $mark; or continue
        set -l first (string match -r -- '"init":([0-9]+)' $mark)[2] # a namespace's number is given out again
        test -z "$first"; or __tazpod_net_lives 1 $first; or continue
        set -l space (command readlink /proc/self/ns/pid 2>/dev/null); or return 0
        set space (string replace -ra '[^0-9]' '' -- $space)
        string match -qr -- "\"pid_namespace\":$space\\D" $mark; and return 0
    end
    return 1
end

function __tazpod_net_status
    set -g __tazpod_net_value ''
    set -l text ''
    test -r $__tazpod_net_home/state/status.json; or return 1
    read text <$__tazpod_net_home/state/status.json
    set __tazpod_net_value (string match -rg -- "\"$argv[1]\":\"((?:[^\"\\\\]|\\\\.)*)\"" $text)[1]
    set __tazpod_net_value (string replace -ra '\\\\(.)' '$1' -- "$__tazpod_net_value")
    test -n "$__tazpod_net_value"
end

function __tazpod_net_find_credentials
    set -g __tazpod_net_seen ''
    test -z "$TS_AUTHKEY$TS_AUTH_KEY$TAZPOD_NET_LOGIN_AUTH_KEY"; or set __tazpod_net_seen ' key'
    set -l secrets $HOME/secrets
    set -l files $TAZPOD_NET_LOGIN_AUTH_KEY_FILE $TAZPOD_NET_LOGIN_API_KEY_FILE $secrets/tailscale-api-key
    set -a files $TAZPOD_NET_LOGIN_OAUTH_CLIENT_SECRET_FILE $secrets/tailscale-oauth-client-secret
    set -l config $XDG_CONFIG_HOME
    set -q config[1]; or set config $HOME/.config
    for file in /etc/tazpod-net/config.toml $config/tazpod-net/config.toml $__tazpod_net_home/config.toml $TAZPOD_NET_CONFIG
        test -f $file -a -r $file; or continue
        while read -l line
            set -a files (string match -rg '^\s*(?:login\.)?(?:auth_key|oauth_client_secret|api_key)_file\s*=\s*.([^"\']*)' -- $line)
        end <$file
    end
    for file in $files
        set file (string replace -r '^~/' $HOME/ -- $file)
        test -s $file -a -r $file; and set __tazpod_net_seen "$__tazpod_net_seen $file"
    end
    return 0
end

function __tazpod_net_launch
    set -l work 'said=$(tazpod-net up 2>&1 >/dev/null) && code=0 || code=$?
[ -z "$1" ] || { printf "%s\n%s\n" "$code" "$said" >"$1.new" && mv -f "$1.new" "$1"; }'
    set -l own env
    command -q setsid; and set own setsid
    # Without job control the child leads no process group, setsid(1) need not fork, and fish stays the one to reap it.
    set -l control full
    status is-interactive-job-control; and set control interactive
    status is-no-job-control; and set control none
    status job-control none
    command $own sh -c $work tazpod-net-hook "$argv[1]" </dev/null >/dev/null 2>&1 &
    disown $last_pid 2>/dev/null
    status job-control $control
end

function __tazpod_net_newest
    set -g __tazpod_net_number 0
    set -g __tazpod_net_began 0
    set -g __tazpod_net_now 0
    test -r /proc/uptime; and read -g __tazpod_net_now </proc/uptime
    set __tazpod_net_now (string replace -r '\..*' '' -- $__tazpod_net_now)
    test -n "$__tazpod_net_marks"; or return 0
    while test -e $__tazpod_net_marks.start.(math $__tazpod_net_number + 1)
        set __tazpod_net_number (math $__tazpod_net_number + 1)
    end
    test $__tazpod_net_number -gt 0; and read -g __tazpod_net_began <$__tazpod_net_marks.start.$__tazpod_net_number
    string match -qr '^[0-9]+$' -- "$__tazpod_net_began"; or set __tazpod_net_began 0
end

# How attempt $argv[1] ended: sets __tazpod_net_code, empty while it goes on, and __tazpod_net_value, the reason.
function __tazpod_net_ended
    set -g __tazpod_net_code ''
    set -g __tazpod_net_value ''
    test -n "$__tazpod_net_marks" -a -e "$__tazpod_net_marks.end.$argv[1]"; or return 0
    set -l lines
    while read -l line
        set -a lines $line
    end <$__tazpod_net_marks.end.$argv[1]
    set __tazpod_net_code "$lines[1]"
    set -l said (string match -rg '^tazpod-net: (.*)' -- $lines[2..-1])
    set -q said[1]; or set said (string match -r '.+' -- $lines[-1..2])[1]
    set -q said[1]; or set said "exit code $__tazpod_net_code"
    set __tazpod_net_value $said[1]
    set -q said[2]; and set __tazpod_net_value "$said[1], and "(math (count $said) - 1)" more"
    return 0
end

function __tazpod_net_tell_failure
    __tazpod_net_once $argv[1] "tailnet did not start: $__tazpod_net_value (tazpod-net status)"
end

function __tazpod_net_start
    __tazpod_net_newest
    __tazpod_net_ended $__tazpod_net_number
    set -l age (math $__tazpod_net_now - $__tazpod_net_began)
    if test $__tazpod_net_number -gt 0 -a "$__tazpod_net_code" != 0
        if test -z "$__tazpod_net_code"
            test $age -gt 90; or return 1
        else
            test -n "$argv[1]" -o $age -gt 10; or return 1
        end
    end
    set __tazpod_net_number (math $__tazpod_net_number + 1)
    if test -z "$__tazpod_net_marks"
        __tazpod_net_launch ''
    else
        __tazpod_net_claim $__tazpod_net_marks.start.$__tazpod_net_number $__tazpod_net_now; or return 1
        __tazpod_net_launch $__tazpod_net_marks.end.$__tazpod_net_number
    end
    __tazpod_net_say 'starting the tailnet in the background (tazpod-net status)'
    set -g __tazpod_net_began $__tazpod_net_now
    set -g __tazpod_net_mine $__tazpod_net_number
    set -g __tazpod_net_waits 1
end

function __tazpod_net_wait
    __tazpod_net_is_left; and return 1
    set -g __tazpod_net_waits 1
    __tazpod_net_find_credentials
    if test -n "$__tazpod_net_seen" -a "$__tazpod_net_seen" != "$__tazpod_net_given"
        __tazpod_net_start now; and set -g __tazpod_net_given $__tazpod_net_seen
        return 0
    end
    test -z "$__tazpod_net_mine" -o -e "$__tazpod_net_marks.end.$__tazpod_net_mine"; or return 0
    __tazpod_net_status login_next
    set -l hint (string match -rg '^(.*) \(login follows by itself\)' -- $__tazpod_net_value)
    set -l how 'when they are there, or: tazpod-net login'
    set -q hint[1]; and set how "after '$hint'"
    __tazpod_net_once waiting "tailnet waits for credentials: logs in by itself $how"
    return 0
end

# One look, when the shell starts ($argv[1] is empty) and at the prompts after that. Fails when nothing is waited for.
function __tazpod_net_step
    if not __tazpod_net_look
        if test -n "$argv[1]"
            __tazpod_net_follow
        else
            __tazpod_net_begin
        end
        return
    end
    switch $__tazpod_net_word
        case ready offline
            __tazpod_net_tell_ready
        case waiting-credentials
            __tazpod_net_wait
            return
        case stopped
        case starting stopping down
            __tazpod_net_follow
            return
        case '*'
            if test -n "$__tazpod_net_mine"
                __tazpod_net_follow
                return
            end
            __tazpod_net_status summary; or set __tazpod_net_value $__tazpod_net_word
            __tazpod_net_tell_failure $__tazpod_net_word
    end
    return 1
end

function __tazpod_net_begin
    __tazpod_net_is_left; and return 1
    command -q tazpod-net; or return 1
    __tazpod_net_newest
    __tazpod_net_ended $__tazpod_net_number
    test -z "$__tazpod_net_code" -o "$__tazpod_net_code" = 0; or __tazpod_net_tell_failure told.$__tazpod_net_number
    __tazpod_net_start ''
end

function __tazpod_net_follow
    test -n "$__tazpod_net_mine" -a -n "$__tazpod_net_marks"; or return 1
    __tazpod_net_newest
    __tazpod_net_ended $__tazpod_net_mine
    if test -z "$__tazpod_net_code"
        test (math $__tazpod_net_now - $__tazpod_net_began) -le 90
        return
    end
    test "$__tazpod_net_code" = 0; or __tazpod_net_is_left; or __tazpod_net_tell_failure told.$__tazpod_net_mine
    return 1
end

function __tazpod_net_tell_ready
    test -n "$__tazpod_net_waits"; or return 0
    set -l how ", $__tazpod_net_rest[1] (proxy only)"
    test "$__tazpod_net_rest[1]" = tun; and set how ' by TUN'
    __tazpod_net_say "tailnet ready: $__tazpod_net_rest[3] $__tazpod_net_rest[2]$how"
end

set -q __tazpod_net_waits; or set -g __tazpod_net_waits ''
test -z "$__tazpod_net_waits"; or exit 0
__tazpod_net_find_marks
if __tazpod_net_step ''; and test -n "$__tazpod_net_waits"
    function __tazpod_net_prompt --on-event fish_prompt
        __tazpod_net_step prompt; and return
        set -g __tazpod_net_waits ''
        functions -e __tazpod_net_prompt
    end
end
