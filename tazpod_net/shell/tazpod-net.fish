# tazpod-net's hook for fish: the same as bashrc.d/tazpod-net.sh, which explains what is done and why.
#
# When all is well it says nothing and starts no process. Marks are shared with bash and zsh.

status is-interactive; and isatty stdin; and isatty stderr; or exit 0

# Whether process $argv[1] still is the one that started at tick $argv[2].
function __tazpod_net_lives
    string match -qr '^[0-9]+$' -- "$argv[1]"; and test -r /proc/$argv[1]/stat; or return 1
    set -l stat ''
    read stat </proc/$argv[1]/stat 2>/dev/null
    set -l field (string split ' ' -- (string replace -r '^.*\) ' '' -- "$stat"))
    not contains -- "$field[1]" Z X ''; and test "$field[20]" = "$argv[2]"
end

# Sets __tazpod_net_home as `tazpod-net` itself would.
function __tazpod_net_locate
    set -l home "$TAZPOD_NET_HOME"
    set -l pointer /run/tazpod-net/home
    set -l root no
    set -l euid $EUID
    set -q euid[1]; or set euid (command id -u)
    test "$euid" = 0; and set root yes
    if test -z "$home" -a -f $pointer -a ! -L $pointer -a -r $pointer
        set -l owner ''
        begin
            read home
            read -l -d ' ' owner_pid owner_ticks
            set owner $owner_pid $owner_ticks
        end <$pointer
        if not string match -q '/*' -- $home
            set home ''
        else if test $root = yes
            test -O $pointer; or set home ''
        else if test -O $pointer -o -w (string replace -r '/[^/]*$' '' $pointer) -o ! -x $home; or not __tazpod_net_lives $owner
            set home ''
        end
    end
    if test -z "$home" -a $root = yes
        set home /var/lib/tazpod-net
    else if test -z "$home"
        set -l base "$XDG_STATE_HOME"
        test -n "$base"; or set base (string replace -r '/$' '' -- "$HOME")/.local/state
        set home $base/tazpod-net
    end
    switch $home
        case '/*'
        case '~' '~/*'
            set home $HOME(string sub -s 2 -- $home)
        case '~*'
            set home ''
        case '*'
            set home (string replace -r '/$' '' -- $PWD)/$home
    end
    set -g __tazpod_net_home $home
    test -n "$home"
end

# Whether a supervisor lives; then __tazpod_net_word is its state and __tazpod_net_rest MODE IP NAME.
function __tazpod_net_look
    set -g __tazpod_net_word ''
    set -g __tazpod_net_rest ''
    __tazpod_net_locate; and test -r $__tazpod_net_home/state/short; or return 1
    set -l line ''
    set -l process ''
    begin
        read line
        read process
    end <$__tazpod_net_home/state/short 2>/dev/null
    set -l words (string split ' ' -- "$line")
    test "$words[1]" = tailnet:; or return 1
    set __tazpod_net_word "$words[2]"
    set __tazpod_net_rest $words[3..-1]
    __tazpod_net_lives (string split ' ' -- "$process")
end

if test -n "$TAZPOD_NET_HOOK_WRAPPER" -a "$TAZPOD_NET_HOOK_WRAPPER" != 0
    function tailscale
        if __tazpod_net_look
            command tazpod-net tailscale $argv
        else
            command tailscale $argv
        end
    end
end

if test -n "$TAZPOD_NET_HOOK_PROMPT" -a "$TAZPOD_NET_HOOK_PROMPT" != 0
    function tazpod_net_prompt --on-event fish_prompt
        set -l code $status
        set -gx TAILNET down
        __tazpod_net_look; and set TAILNET $__tazpod_net_word
        return $code
    end
end

if test -n "$TAZPOD_NET_HOOK_COMPLETION" -a "$TAZPOD_NET_HOOK_COMPLETION" != 0
    function __tazpod_net_load
        functions -e __tazpod_net_load
        complete -c tazpod-net -e
        command tazpod-net completion fish 2>/dev/null | source
        complete -C (commandline -cp)
    end
    complete -c tazpod-net -f -a '(__tazpod_net_load)'
end

if __tazpod_net_look
    if contains -- $__tazpod_net_word ready offline starting stopping stopped down
        exit 0
    end
end
test -n "$__tazpod_net_home"; or exit 0

# Something is to be done or to be said. A file of its own, because fish reads a file to its end before it does anything.
source (status dirname)/tazpod-net-act.fish
