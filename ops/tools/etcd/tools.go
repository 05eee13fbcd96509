//go:build tools

// Package etcd pins the store of the control plane that ops/tools.sh builds.
package etcd

import _ "go.etcd.io/etcd/server/v3"
