# Completion of tazpod-net for fish, made by 'tazpod-net completion fish'.
function __tazpod_net_command
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --home --config
                set -e words[1]
            case '-*'
            case '*'
                echo $words[1]
                return
        end
        set -e words[1]
    end
end

function __tazpod_net_bare
    test -z (__tazpod_net_command)""
end

function __tazpod_net_is
    contains -- (__tazpod_net_command)"" $argv
end

# The home that the command line names, or the environment, or a supervisor of root's, or the default.
function __tazpod_net_home
    set -l words (commandline -opc)
    for index in (seq (count $words))
        switch $words[$index]
            case --home
                set -q words[(math $index + 1)]; and echo $words[(math $index + 1)]; and return
            case '--home=*'
                string replace -- --home= '' $words[$index]
                return
        end
    end
    if test -n "$TAZPOD_NET_HOME"
        echo $TAZPOD_NET_HOME
    else if test -r /run/tazpod-net/home
        read -l home </run/tazpod-net/home; and echo $home
    else if fish_is_root_user
        echo /var/lib/tazpod-net
    else if test -n "$XDG_STATE_HOME"
        echo $XDG_STATE_HOME/tazpod-net
    else
        echo $HOME/.local/state/tazpod-net
    end
end

# Names of the peers, full ones if the word has a dot: from a file that the supervisor keeps, so that a Tab waits for
# nobody.
function __tazpod_net_peers
    set -l file (string replace -r '^~/' "$HOME/" -- (__tazpod_net_home))/state/peers
    test -r "$file"; or return
    if string match -q '*.*' -- (commandline -ct)
        string match -rg '(?:^| )([a-z0-9._-]+)$' <$file
    else
        string match -rg '^([a-z0-9._-]+)(?: |$)' <$file
    end
end

complete -c tazpod-net -e
complete -c tazpod-net -f
@TABLE@
