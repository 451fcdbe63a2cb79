# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash
# A stand-in for OpenWrt's rc.common and procd.sh: runs an action of the init script $1 and records what procd would be
# told, one call a line, its words separated by the control character US. Sourced by test_openwrt_init.py.

initscript=$1
action=$2

record() {
	printf '%s\037' "$@" >&3
	printf '\n' >&3
}

for call in open_instance set_param append_param add_jail add_jail_mount add_jail_mount_rw close_instance \
	add_reload_trigger add_interface_trigger add_reload_interface_trigger add_raw_trigger kill; do
	eval "procd_$call() { record $call \"\$@\"; }"
done

# The configuration is what the variables say: CONFIG_spind_enabled and so on.
config_load() { record config_load "$@"; }

config_get_bool() {
	local value
	eval "value=\${CONFIG_${2}_${3}:-$4}"
	case $value in
		1 | on | true | yes | enabled) value=1 ;;
		0 | off | false | no | disabled) value=0 ;;
		*) value=$4 ;;
	esac
	eval "$1=$value"
}

service_triggers() { :; }
stop_service() { :; }

# shellcheck disable=SC1090  # what is tested
. "$initscript"

start() {
	record open_service spin "$initscript"
	start_service "$@"
	service_triggers
	record close_service set
}

stop() {
	stop_service "$@"
	procd_kill spin
}

reload() { start "$@"; }

enable() { record enable "$START" "$STOP"; }

case " start stop reload enable $EXTRA_COMMANDS " in
	*" $action "*) "$action" ;;
	*) exit 1 ;;
esac
