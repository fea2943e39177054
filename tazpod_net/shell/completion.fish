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

# Names of the peers: asked of the daemon, for two seconds at most.
function __tazpod_net_peers
    timeout 2 tazpod-net tailscale status 2>/dev/null | string match -rg '^[0-9f]\S*[.:]\S*\s+(\S+)'
end

complete -c tazpod-net -e
complete -c tazpod-net -f
@TABLE@
